"""What a subject-level training leaves of its validation cases."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.evaluation.subject_score_tables import value_text
from bdfm_nnunet.evaluation.subject_scores import score_target
from bdfm_nnunet.evaluation.subject_tables import Predictions, write_predictions
from bdfm_nnunet.files import write_json
from bdfm_nnunet.targets import Targets
from bdfm_nnunet.tasks.subject_outputs import TargetOutput

PREDICTIONS, OF_PATIENTS, SCORES = "subjects.csv", "patients.csv", "subject_scores.json"


def add_entries(path: Path, entries: Mapping[str, Any]) -> None:
    """Put entries into a checkpoint in the place of those of the same names; it is always whole.

    Raises:
        InputError: it cannot be read or written.
    """
    write_checkpoint({**load_as_data(path), **entries}, path, again="validate with --val")


def write_validation(
    folder: Path,
    tables: Sequence[Predictions],
    outputs: Sequence[TargetOutput],
    targets: Targets,
    tell: Callable[[str], None],
) -> None:
    """Write the predictions of the validation cases and their scores, and tell the scores.

    Args:
        folder: gets subjects.csv, perhaps patients.csv, and subject_scores.json.
        tables: for all validation cases; where runs of a subject are scored together also for these subjects.
        outputs: the targets that were learnt.
        targets: their true values.
        tell: takes a sentence for each target.

    Raises:
        InputError: a file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    for name, table in zip((PREDICTIONS, OF_PATIENTS), tables):
        write_predictions(folder / name, table)
    scores, predictions = {}, tables[-1]
    for output in outputs:
        name = output.column.name
        truth = targets.values(name, predictions.cases)
        scores[name] = score_target(output.column, truth, predictions.of(name), patients=predictions.patients)
        tell(f"Validation, {name}: " + ", ".join(f"{key} {_told(each)}" for key, each in scores[name].items()))
    write_json(folder / SCORES, scores)


def _told(score: Mapping[str, Any]) -> str:
    return "not defined" if score["value"] is None else value_text(score)
