"""Where scores of subjects come from: tables of predictions, targets, and the trainings behind the models."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.exposure.subject_exposure import RECORD_ENDING, joined
from bdfm_nnunet.results import Provenance, Session, citations_of_data, cited_once, licences_of
from bdfm_nnunet.results.hashed_files import hashed_file, hashed_files
from bdfm_nnunet.targets import TARGETS_TABLE, TARGETS_TYPES


def subject_provenance(
    out: Path,
    *,
    tables: Iterable[Path],
    dataset: Sequence[Path],
    exposures: Iterable[Exposure],
    session: Session,
    seed: int,
) -> Provenance:
    """Return the provenance of scores, once all files but the result are written.

    Args:
        out: folder of the results.
        tables: of predictions.
        dataset: folders of the data set.
        exposures: what the models have seen.
        session: of the evaluation.
        seed: of the intervals.

    Raises:
        InputError: a file cannot be read any more.
    """
    read = [("predictions", path) for path in tables]
    read += [("record of the model", path.with_suffix(RECORD_ENDING)) for _, path in read]
    read += [("targets", folder / name) for folder in dataset for name in (TARGETS_TABLE, TARGETS_TYPES)]
    written = [path for path in out.iterdir() if path.suffix in (".csv", ".md", ".png") and path.name != "result.md"]
    seen = joined(exposures).counted()
    return Provenance(
        inputs=[hashed_file(role, path, beside=out) for role, path in read if path.is_file()],
        outputs=[hashed_files("tables and figures", out, written, beside=out)],
        seeds={"intervals": seed},
        sessions=[session.as_dict()],
        licences=licences_of(seen),
        citations=cited_once(citations_of_data(seen)),
    )
