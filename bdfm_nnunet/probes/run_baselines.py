"""What features of a pre-training on 4-D runs must beat: an untrained encoder, and functional connectivity."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.nnunet_folders import dataset_folders, dataset_name
from bdfm_nnunet.probes.feature_baselines import (
    COVARIANCE,
    UNTRAINED,
    Baselines,
    kept_beside,
    settings_of,
    untrained_encoder,
)
from bdfm_nnunet.probes.feature_tables import KIND, FeatureTable, PartialFeatures, stamp_of
from bdfm_nnunet.probes.functional_connectivity import (
    CONNECTIVITY,
    ConnectivitySettings,
    connectivity_table,
    runs_of,
)
from bdfm_nnunet.probes.pooled_features import stages_of
from bdfm_nnunet.probes.run_features import PreprocessedRuns, vectors_of_runs


@dataclass(frozen=True, kw_only=True)
class RunBaselines:
    """Which baselines of runs are made, and how.

    Attributes:
        dataset_id: number of the data set.
        features: file of the features that are probed; what is made is kept beside it.
        description: how these were made.
        weights: checkpoint whose network the untrained one has; by default the one that the description names.
        plans: plans of the data set; by default those that the description names.
        configuration: one of their configurations.
        seed: of the random weights.
        device: where the encoder runs.
    """

    dataset_id: int
    features: Path
    description: Mapping[str, Any]
    weights: Path | None = None
    plans: str | None = None
    configuration: str | None = None
    seed: int = 0
    device: str = "cpu"

    def made(self, cases: Sequence[str], wanted: Collection[str]) -> Baselines:
        """Make the baselines of runs, kept beside the file of features for the next probe.

        Args:
            cases: ids of the runs.
            wanted: names of baselines; those that runs do not have are not made.

        Raises:
            InputError: the runs are missing.
        """
        tables: dict[str, FeatureTable] = {}
        notes: list[str] = []
        if {UNTRAINED, COVARIANCE} & {*wanted}:
            found = self._untrained(cases)
            tables |= found.tables
            notes += found.notes
        if CONNECTIVITY in wanted:
            runs, out = runs_of(self.dataset_id), self._kept(CONNECTIVITY)
            name = dataset_name(self.dataset_id)
            tables[CONNECTIVITY] = connectivity_table(runs, cases, out, ConnectivitySettings(), dataset=name)
            notes += [f"{CONNECTIVITY}: {note}" for note in tables[CONNECTIVITY].description["notes"]]
        return Baselines(tables, tuple(notes))

    def _kept(self, name: str) -> Path:
        return kept_beside(self.features) / f"{name.replace(' ', '_')}.npz"

    def _untrained(self, cases: Sequence[str]) -> Baselines:
        """Pool the maps of an encoder with random weights over all clips of each run."""
        settings = settings_of(self.description, self.device)
        where = (self.weights, self.plans, self.configuration)
        untrained, found = untrained_encoder(self.dataset_id, self.description, *where, self.seed)
        view, runs = untrained.view, PreprocessedRuns(found, untrained.tile, "", "")
        vectors = vectors_of_runs(
            view, stages_of(settings.stages, len(view.channels)), [settings.pooling, "covariance"],
            brain=settings.foreground, device=self.device,
        )  # fmt: skip
        key = {**asdict(settings), "device": None, "seed": self.seed, "encoder": repr((untrained.tile, view.module)),
               "runs": stamp_of(runs.files())}  # fmt: skip
        kept = {name: PartialFeatures(self._kept(name), key | {"name": name}) for name in (UNTRAINED, COVARIANCE)}
        missing = [case for case in cases if any(each.missing([case]) for each in kept.values())]
        for case, clips in tqdm(runs.shown(missing), total=len(missing), desc="baselines", unit="run", disable=None):
            for each, vector in zip(kept.values(), vectors(clips), strict=True):
                each.put(case, vector)
        said = {"kind": KIND, "notes": list(untrained.notes)}
        tables: dict[str, FeatureTable] = {
            name: each.finish(cases, {**said, "baseline": name}) for name, each in kept.items()
        }
        return Baselines(tables, untrained.notes)


def has_runs(dataset_id: int) -> bool:
    """Return whether a data set holds 4-D runs.

    Raises:
        InputError: there is no such data set, or its description is damaged.
    """
    paths = [folder / "dataset.json" for folder in dataset_folders(dataset_id)]
    return any("sequences" in read_dataset_json(path) for path in paths if path.is_file())
