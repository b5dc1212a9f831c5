import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation import evaluate_folders, score_case
from bdfm_nnunet.evaluation.case_scores import Case
from bdfm_nnunet.evaluation.challenge_rules import Task
from bdfm_nnunet.evaluation.small_lesions import small_lesion_scores

REGIONS = {"lesion": (1, 2), "core": (2,)}
Spacing = tuple[float, float, float]


def _scores(reference: np.ndarray, prediction: np.ndarray, spacing: Spacing = (1, 1, 1), **limit: float) -> dict:
    options = {"regions": REGIONS, "release": "a data set", "metrics": "small-lesions"}
    return score_case(reference, prediction, spacing=spacing, **options, **limit)["lesion"]


def slow(reference: np.ndarray, prediction: np.ndarray, spacing: Spacing, limit: float) -> dict[str, float]:
    """Lesion by lesion, with distance transforms of the whole volume."""
    corners, voxel = np.ones((3, 3, 3)), float(np.prod(spacing))
    lesions, count = ndimage.label(reference, corners)
    predicted, others = ndimage.label(prediction, corners)
    met = {n: set(np.unique(lesions[predicted == n])) - {0} for n in range(1, others + 1)}
    away = {i: ndimage.distance_transform_edt(lesions != i, sampling=spacing) for i in range(1, count + 1)}
    owner = np.zeros_like(lesions)
    for n, touched in met.items():
        for place in np.argwhere(predicted == n) if touched else ():
            owner[tuple(place)] = min(sorted(touched), key=lambda i: round(away[i][tuple(place)], 6))
    small = [i for i in range(1, count + 1) if (lesions == i).sum() * voxel <= limit]
    dices = [2 * ((lesions == i) & (predicted > 0)).sum() / ((lesions == i).sum() + (owner == i).sum()) for i in small]
    tp, fn = sum(d > 0 for d in dices), sum(d == 0 for d in dices)
    fp = sum(not met[n] and (predicted == n).sum() * voxel <= limit for n in met)
    return {
        "small_f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else np.nan,
        "small_dice": float(np.mean(dices)) if dices else np.nan,
        "small_sensitivity": tp / (tp + fn) if tp + fn else np.nan,
        "small_precision": tp / (tp + fp) if tp + fp else np.nan,
        "small_tp": tp,
        "small_fp": fp,
        "small_fn": fn,
    }


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.1, 4.0)])
@pytest.mark.parametrize("seed", range(5))
def test_scores_agree_with_a_slow_count(seed: int, spacing: Spacing) -> None:
    rng = np.random.default_rng(seed)
    blobs = [ndimage.gaussian_filter(rng.standard_normal((24, 22, 20)), 1.2) for _ in range(2)]
    reference = (blobs[0] > 0.16).astype(np.uint8)
    prediction = (0.75 * blobs[0] + 0.5 * blobs[1] > 0.15).astype(np.uint8)
    for limit in (12.0, 60.0):
        ours = _scores(reference, prediction, spacing, small_mm3=limit)
        expected = slow(reference, prediction, spacing, limit)
        for name, value in expected.items():
            assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_the_limit_is_a_volume_and_belongs_to_the_small() -> None:
    labels = np.zeros((30, 30, 30), dtype=np.uint8)
    labels[2:6, 2:7, 2:7] = 1  # 100 voxels
    labels[15:20, 15:20, 15:20] = 2  # 125 voxels
    assert _scores(labels, labels)["small_tp"] == 1
    assert _scores(labels, labels, small_mm3=99)["small_tp"] == 0
    assert _scores(labels, labels, (1, 1, 2))["small_tp"] == 0
    assert _scores(labels, labels, (1, 0.5, 1.6))["small_tp"] == 2


def test_a_bridge_between_a_large_and_a_small_lesion_does_not_hide_the_small_one() -> None:
    reference = np.zeros((40, 20, 20), dtype=np.uint8)
    reference[2:18, 4:14, 4:14] = reference[26:30, 8:12, 8:12] = 1
    prediction = reference.copy()
    prediction[18:26, 10, 10] = 1
    scores = _scores(reference, prediction)
    assert scores["small_tp"] == 1 and scores["small_dice"] > 0.95


def test_a_false_lesion_is_one_that_meets_none_and_is_small() -> None:
    reference = np.zeros((40, 40, 40), dtype=np.uint8)
    reference[2:12, 2:12, 2:12] = 1  # large
    prediction = np.zeros_like(reference)
    prediction[11:14, 2:4, 2:4] = 1  # small, at the large one
    prediction[30:33, 30:33, 30:33] = 1  # small, false
    prediction[20:27, 2:9, 20:27] = 1  # large, false: not a matter of small lesions
    scores = _scores(reference, prediction)
    assert (scores["small_tp"], scores["small_fp"], scores["small_fn"]) == (0, 1, 0)
    assert scores["small_f1"] == 0 and np.isnan(scores["small_sensitivity"]) and np.isnan(scores["small_dice"])


def test_empty_sides() -> None:
    nothing, lesion = np.zeros((2, 20, 20, 20), dtype=np.uint8)
    lesion[4:6, 4:6, 4:6] = 1
    missed, invented, none = _scores(lesion, nothing), _scores(nothing, lesion), _scores(nothing, nothing)
    assert (missed["small_f1"], missed["small_dice"], missed["small_sensitivity"]) == (0, 0, 0)
    assert invented["small_f1"] == invented["small_precision"] == 0 and np.isnan(invented["small_dice"])
    assert np.isnan(none["small_f1"]) and none["small_tp"] == none["small_fp"] == none["small_fn"] == 0


def test_lesions_are_listed() -> None:
    reference, prediction = np.zeros((2, 30, 30, 30), dtype=np.uint8)
    reference[2:4, 2:4, 2:4] = prediction[3:5, 2:4, 2:4] = prediction[20:22, 20:22, 20:22] = 1
    case = Case.cut(reference, prediction, spacing=(1, 1, 2), regions=REGIONS)
    assert small_lesion_scores(case, Task(large_mm3=50.0))["lesion"].lesions == [
        {"id": 1, "volume_mm3": 16.0, "predicted": [1], "dice": 0.5},
        {"id": None, "volume_mm3": 16.0, "predicted": [2], "dice": 0.0},
    ]


def test_folders_record_the_limit_and_leave_undefined_scores_out(tmp_path: Path) -> None:
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[2:5, 2:5, 2:5] = 1
    for folder in ("reference", "prediction"):
        (tmp_path / folder).mkdir()
        for case, content in (("a", labels), ("b", 0 * labels)):
            nibabel.save(nibabel.Nifti1Image(content, np.eye(4)), tmp_path / folder / f"{case}.nii.gz")
    folders = tmp_path / "reference", tmp_path / "prediction"
    options = {"regions": REGIONS, "release": "a data set", "metrics": "small-lesions"}
    evaluate_folders(*folders, **options, small_mm3=30, out=tmp_path / "scores.json")
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["parameters"] == {"small_up_to_mm3": 30.0}
    summary = found["summary"]["lesion"]["small_f1"]
    assert (summary["mean"], summary["cases"], summary["undefined"]) == (1.0, 1, 1)
    with pytest.raises(InputError, match=r"whole.*no limit for small lesions"):
        evaluate_folders(*folders, **(options | {"metrics": "whole"}), small_mm3=30)
