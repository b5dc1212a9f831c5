"""The scores of nnU-Net's final validation, in the form of ours."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.score_summary import INTERVAL, none_for_nan, summaries_of
from bdfm_nnunet.files import read_json
from bdfm_nnunet.json_shapes import Anything

VERSION = "nnunet"
DEFINITION = (
    "nnU-Net's final validation: Dice and IoU of the voxels of the whole label or region. Empty in both: undefined"
)
_MEASURES = {"dice": "Dice", "iou": "IoU"}
_SHAPE = {
    "metric_per_case": [{"prediction_file": str, "metrics": {str: dict.fromkeys(_MEASURES.values(), Anything)}}],
}


def read_nnunet_scores(
    path: Path, *, regions: Mapping[str, Sequence[int]], dataset: str, file_ending: str, seed: int = 0
) -> dict[str, Any]:
    """Return what nnU-Net's validation/summary.json says of each case, as `RunResult.scores`.

    Args:
        path: the file.
        regions: label or region to its label values, as in dataset.json.
        dataset: name of the data set.
        file_ending: of the predictions, with its dot.
        seed: of the bootstrap intervals.

    Raises:
        InputError: the file is missing or of another shape, or lacks one of the regions.

    Example:
        >>> from bdfm_nnunet.files import write_json
        >>> case = {"prediction_file": "validation/case_1.nii.gz", "metrics": {"(1, 2, 3)": {"Dice": 0.8, "IoU": 0.7}}}
        >>> write_json("summary.json", {"metric_per_case": [case]})
        >>> regions = {"whole_tumor": (1, 2, 3)}
        >>> scores = read_nnunet_scores(Path("summary.json"), regions=regions, dataset="D", file_ending=".nii.gz")
        >>> scores["cases"]
        [{'case': 'case_1', 'regions': {'whole_tumor': {'dice': 0.8, 'iou': 0.7}}}]
    """
    rows = [
        {
            "case": Path(row["prediction_file"]).name.removesuffix(file_ending),
            "regions": _regions_of(row["metrics"], regions, path),
        }
        for row in read_json(path, _SHAPE)["metric_per_case"]
    ]
    if not rows:
        raise InputError(f"{path} holds no case: validate again with --val")
    scores: dict[str, Any] = none_for_nan(
        {
            "release": dataset,
            "metrics": VERSION,
            "definition": DEFINITION,
            "regions": {name: list(values) for name, values in regions.items()},
            "interval": INTERVAL,
            "seed": seed,
            "summary": summaries_of(rows, regions, seed),
            "cases": rows,
        }
    )
    return scores


def _regions_of(
    metrics: Mapping[str, Any], regions: Mapping[str, Sequence[int]], path: Path
) -> dict[str, dict[str, float]]:
    """Return the scores of a case by name; nnU-Net names a label "3" and a region "(1, 2, 3)"."""
    found = {tuple(map(int, re.findall(r"\d+", key))): scores for key, scores in metrics.items()}
    missing = [name for name, values in regions.items() if tuple(values) not in found]
    if missing:
        raise InputError(f"{path} has no scores of {', '.join(missing)}: validate again with --val")
    return {
        name: {ours: _number(found[tuple(values)][theirs], path) for ours, theirs in _MEASURES.items()}
        for name, values in regions.items()
    }


def _number(value: Any, path: Path) -> float:
    """NaN, as nnU-Net writes it, where a score does not exist."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{path} has the score {value!r}, expected a number: validate again with --val")
    return float(value)
