import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.nnunet_scores import read_nnunet_scores
from bdfm_nnunet.results import RunResult, read_result, write_result

REGIONS = {"whole": (1, 2, 3), "core": (3,)}


def _row(case: str, whole: Any, core: Any, core_key: str = "3") -> dict[str, Any]:
    metrics = {"(1, 2, 3)": whole, core_key: core}
    return {
        "prediction_file": f"/results/validation/{case}.nii.gz",
        "reference_file": f"/labels/{case}.nii.gz",
        "metrics": {key: {"Dice": dice, "IoU": dice, "TP": 3} for key, dice in metrics.items()},
    }


def _read(path: Path, rows: Any) -> dict[str, Any]:
    path.write_text(json.dumps({"metric_per_case": rows, "mean": {}, "foreground_mean": {}}))
    return read_nnunet_scores(path, regions=REGIONS, dataset="Dataset001_Ours", file_ending=".nii.gz")


@pytest.mark.parametrize("core_key", ["3", "(3,)"])
def test_scores_have_our_form(core_key: str, tmp_path: Path) -> None:
    rows = [_row("a.1", 0.5, float("nan"), core_key), _row("b", 1.0, 0.25, core_key)]
    scores = _read(tmp_path / "summary.json", rows)
    assert (scores["release"], scores["metrics"]) == ("Dataset001_Ours", "nnunet")
    assert [row["case"] for row in scores["cases"]] == ["a.1", "b"]
    assert scores["cases"][0]["regions"] == {"whole": {"dice": 0.5, "iou": 0.5}, "core": {"dice": None, "iou": None}}
    whole, core = (scores["summary"][name]["dice"] for name in REGIONS)
    assert whole["mean"] == 0.75 and (whole["cases"], whole["undefined"]) == (2, 0)
    assert core["mean"] == 0.25 and (core["cases"], core["undefined"]) == (1, 1)
    result = RunResult(kind="segmentation", scores=scores)
    write_result(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([], "holds no case: validate again"),
        ([_row("a", 0.5, "high")], "has the score 'high', expected a number"),
        ([_row("a", 0.5, True)], "has the score True, expected a number"),
        ([_row("a", 0.5, 0.5, "2")], "has no scores of core: validate again"),
        ([{"metrics": {}}], r"metric_per_case\[0\]\.prediction_file is missing"),
        ({}, "metric_per_case is {}, expected a list"),
    ],
)
def test_a_file_of_another_shape_is_a_sentence(rows: Any, fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=fault):
        _read(tmp_path / "summary.json", rows)
