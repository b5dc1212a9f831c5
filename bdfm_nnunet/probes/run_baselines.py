"""What features of a pre-training on 4-D runs must beat: functional connectivity."""

from collections.abc import Collection, Sequence
from pathlib import Path

from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.nnunet_folders import dataset_folders, dataset_name
from bdfm_nnunet.probes.feature_baselines import Baselines, kept_beside
from bdfm_nnunet.probes.functional_connectivity import (
    CONNECTIVITY,
    ConnectivitySettings,
    connectivity_table,
    runs_of,
)


def has_runs(dataset_id: int) -> bool:
    """Return whether a data set holds 4-D runs.

    Raises:
        InputError: there is no such data set, or its description is damaged.
    """
    paths = [folder / "dataset.json" for folder in dataset_folders(dataset_id)]
    return any("sequences" in read_dataset_json(path) for path in paths if path.is_file())


def make_run_baselines(dataset_id: int, features: Path, cases: Sequence[str], wanted: Collection[str]) -> Baselines:
    """Make the baselines of runs, kept beside the file of features for the next probe.

    Args:
        dataset_id: number of the data set.
        features: file of the features that are probed.
        cases: ids of the runs.
        wanted: names of baselines; those that runs do not have are not made.

    Raises:
        InputError: the runs are missing.
    """
    if CONNECTIVITY not in wanted:
        return Baselines({}, ())
    runs = runs_of(dataset_id)
    out = kept_beside(features) / f"{CONNECTIVITY.replace(' ', '_')}.npz"
    table = connectivity_table(runs, cases, out, ConnectivitySettings(), dataset=dataset_name(dataset_id))
    notes = [f"{CONNECTIVITY}: {note}" for note in table.description["notes"]]
    return Baselines({CONNECTIVITY: table}, tuple(notes))
