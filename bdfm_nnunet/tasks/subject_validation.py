"""What a subject-level training leaves of its validation cases."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.data.subject_bags import whole_case
from bdfm_nnunet.evaluation.subject_score_tables import value_text
from bdfm_nnunet.evaluation.subject_scores import score_target
from bdfm_nnunet.evaluation.subject_tables import Predictions, write_predictions
from bdfm_nnunet.files import write_json
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.targets import Targets
from bdfm_nnunet.tasks.subject_outputs import TargetOutput

PREDICTIONS, SCORES = "subjects.csv", "subject_scores.json"


@torch.no_grad()
def predict_cases(
    trainer: Any, dataset: Any, cases: Iterable[str], *, crop: Sequence[int], overlap: float
) -> dict[str, Tensor]:
    """Return the outputs of a trainer's network for some cases, to each of its processes.

    Args:
        trainer: with the network in evaluation mode.
        dataset: nnU-Net's data set of the preprocessed cases.
        cases: ids.
        crop: voxels of a crop per axis.
        overlap: see `covering_starts`.

    Raises:
        InputError: a case is missing or damaged.
    """
    own = [str(case) for case in cases][trainer.local_rank :: trainer.processes.count]
    found = {}
    for case in tqdm(own, desc="validation", disable=None):
        crops, _ = whole_case(dataset, case, crop, overlap=overlap)
        with trainer.autocast():
            found[case] = unwrap(trainer.network)(crops[None].to(trainer.device))[0].float().cpu()
    return {case: row for part in trainer.processes.gather(found) for case, row in part.items()}


def add_entries(path: Path, entries: Mapping[str, Any]) -> None:
    """Put entries into a checkpoint in the place of those of the same names; it is always whole.

    Raises:
        InputError: it cannot be read or written.
    """
    write_checkpoint({**load_as_data(path), **entries}, path, again="validate with --val")


def write_validation(
    folder: Path,
    predictions: Predictions,
    outputs: Sequence[TargetOutput],
    targets: Targets,
    tell: Callable[[str], None],
) -> None:
    """Write the predictions of the validation cases and their scores, and tell the scores.

    Args:
        folder: gets subjects.csv and subject_scores.json.
        predictions: for all validation cases.
        outputs: the targets that were learnt.
        targets: their true values.
        tell: takes a sentence for each target.

    Raises:
        InputError: a file cannot be written.
    """
    folder.mkdir(exist_ok=True)
    write_predictions(folder / PREDICTIONS, predictions)
    scores = {}
    for output in outputs:
        name = output.column.name
        truth = targets.values(name, predictions.cases)
        scores[name] = score_target(output.column, truth, predictions.of(name), patients=predictions.patients)
        tell(f"Validation, {name}: " + ", ".join(f"{key} {_told(each)}" for key, each in scores[name].items()))
    write_json(folder / SCORES, scores)


def _told(score: Mapping[str, Any]) -> str:
    return "not defined" if score["value"] is None else value_text(score)
