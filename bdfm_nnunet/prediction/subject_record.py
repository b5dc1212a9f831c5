"""The run sheet of a table of predictions for subjects."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints import Checkpoint
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.exposure.subject_exposure import joined
from bdfm_nnunet.results import (
    Provenance,
    RunResult,
    Session,
    citations_of_data,
    cited_once,
    licences_of,
    versions_of,
    write_result,
)
from bdfm_nnunet.results.hashed_files import hashed_file, hashed_files
from bdfm_nnunet.results.run_result import SOFTWARE
from bdfm_nnunet.used_devices import device_of_prediction

KIND = "subject_prediction"
ENDING = ".run.json"
"""A table `subjects.csv` has its run sheet in `subjects.run.json` and `subjects.run.md`."""


def begin_session(device: str) -> Session:
    """Begin to count hours and energy of a prediction on "cpu", "cuda" or "mps"."""
    return Session([device_of_prediction(device)], versions=versions_of(*SOFTWARE))


def write_subject_record(
    tables: Sequence[Path],
    checkpoints: Sequence[Checkpoint],
    *,
    images: Path | None,
    cases: Sequence[str],
    settings: Mapping[str, Any],
    session: Session,
) -> Path:
    """Write the run sheet of predictions beside their first table, and return where.

    Args:
        tables: that were written.
        checkpoints: of the folds.
        images: folder of the images; None where they are those of the data set.
        cases: that were predicted.
        settings: of the prediction, in plain types.
        session: of the prediction.

    Raises:
        InputError: a file cannot be read any more, or the sheet cannot be written.
    """
    path = tables[0].with_suffix(ENDING)
    beside = path.parent
    seen = joined(Exposure.of_checkpoint(each) for each in checkpoints).counted()
    read = [hashed_file("model", each.path, beside=beside, sha256=each.sha256) for each in checkpoints]
    if images is not None and (files := _files_of(images, set(cases))):
        read.append(hashed_files("images", images, files, beside=beside))
    provenance = Provenance(
        inputs=read,
        outputs=[hashed_file("predictions", each, beside=beside) for each in tables],
        sessions=[session.as_dict()],
        licences=licences_of(seen) | {f"model {each.path.parent.name}": each.licence or None for each in checkpoints},
        citations=cited_once(*(each.citations for each in checkpoints), citations_of_data(seen)),
    )
    result = RunResult(
        kind=KIND,
        trainer=checkpoints[0].trainer,
        settings=settings,
        exposure=seen,
        versions=versions_of(*SOFTWARE),
        provenance=provenance,
    )
    write_result(path, result)
    return path


def _files_of(images: Path, cases: set[str]) -> list[Path]:
    """Return the files in a folder, or below it, that are named after the cases, with a channel or without."""
    found = []
    for path in images.rglob("*"):
        name = re.sub(r"(_\d{4})?\.(nii(\.gz)?|[^.]+)$", "", path.name)
        if path.is_file() and name in cases:
            found.append(path)
    return found
