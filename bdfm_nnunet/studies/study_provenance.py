"""Where the results of a study come from: its data, plans and weights, and the sessions of its tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.patients import MANIFEST
from bdfm_nnunet.results import Provenance, RunResult, combined
from bdfm_nnunet.results.hashed_files import HashedFiles, hashed_data, hashed_file, hashed_files, hashed_plans
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.studies.study_folder import SETTINGS, StudyFolder

ROWS, REPORT, FIGURES = "study.json", "study.md", "figures"


def study_provenance(study: StudyFolder, finished: Sequence[RunResult]) -> Provenance:
    """Return the provenance of a study whose files are written but for its result.

    Sessions of one device and one set of versions are added up. Tasks that ran at the same time each count the energy
    of the whole processor.

    Args:
        study: the study.
        finished: results of the tasks that are done.

    Raises:
        InputError: a file cannot be read.
    """
    settings = study.settings
    return replace(
        combined(*(result.provenance for result in finished)),
        inputs=list(_inputs(study)),
        outputs=list(_outputs(study.path)),
        seeds={"first training": 0, "last training": settings.seeds - 1, "split": settings.split_seed},
    )


def _inputs(study: StudyFolder) -> Iterator[HashedFiles]:
    beside = study.path
    yield hashed_file("settings of the study", beside / SETTINGS, beside=beside)
    for weights in study.weights.values():
        if (path := Path(weights["path"])).is_file():
            yield hashed_file("weights", path, beside=beside, sha256=weights["sha256"])
    for dataset, plans_name, configuration in _plans_of(study):
        folder, plans = study.preprocessed / dataset, study.plans(dataset, plans_name)
        yield hashed_plans(folder / f"{plans_name}.json", configuration, plans, beside=beside)
        data = folder / resolve_configuration(plans, configuration)["data_identifier"]
        if data.is_dir():
            yield hashed_data(data, beside=beside)
        for role, name in (("dataset.json", "dataset.json"), ("splits", SPLITS), ("cases and their origin", MANIFEST)):
            if (folder / name).is_file():
                yield hashed_file(role, folder / name, beside=beside)


def _plans_of(study: StudyFolder) -> list[tuple[str, str, str]]:
    """Return each data set with the plans and the configuration that arms take, once."""
    arms = [study.settings.complete(arm) for arm in study.settings.arms]
    used = [(study.dataset, str(arm.plans), str(arm.configuration)) for arm in arms]
    used += [(study.pretraining_dataset(arm), str(arm.plans), str(arm.configuration)) for arm in arms if arm.pretrain]
    return list(dict.fromkeys(used))


def _outputs(folder: Path) -> Iterator[HashedFiles]:
    for role, name in (("scores", ROWS), ("report", REPORT)):
        yield hashed_file(role, folder / name, beside=folder)
    figures = [path for path in (folder / FIGURES).rglob("*") if path.is_file()] if (folder / FIGURES).is_dir() else []
    if figures:
        yield hashed_files("figures", folder / FIGURES, figures, beside=folder)
