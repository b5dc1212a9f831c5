"""A temperature that was planted is found, and intervals hold as often as they say."""

import json
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.ensemble_calibration import LEVEL, calibrate, read_calibration
from bdfm_nnunet.evaluation.temperature import (
    VoxelSample,
    calibration_error,
    draw_voxels,
    fit_temperature,
    sharpened,
    surprise,
)

REGIONS = {"core": [1, 2]}


def sample(*, temperature: float, regions: bool, seed: int = 0, voxels: int = 40_000) -> VoxelSample:
    """Voxels whose truth is drawn from probabilities that are then sharpened, as an over-sure network does."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(3, voxels))
    if regions:
        honest = 1 / (1 + np.exp(-logits))
        truth = rng.random(honest.shape) < honest
        said = 1 / (1 + np.exp(-logits * temperature))
    else:
        honest = np.exp(logits) / np.exp(logits).sum(axis=0)
        truth = (rng.random(voxels) < np.cumsum(honest, axis=0)).argmax(axis=0) == np.arange(3)[:, None]
        said = np.exp(logits * temperature) / np.exp(logits * temperature).sum(axis=0)
    return VoxelSample(said.astype(np.float32), truth, np.ones(voxels), np.ones(voxels, dtype=bool), regions)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("planted", [0.6, 1.0, 2.5])
def test_a_planted_temperature_is_found(planted: float, regions: bool) -> None:
    made = sample(temperature=planted, regions=regions)
    found = fit_temperature(made)
    assert found == pytest.approx(planted, rel=0.04)
    assert all(surprise(made, found) < surprise(made, found * factor) for factor in (0.9, 1.1))
    after = calibration_error(made, found)
    assert after < 0.01 and (planted == 1.0 or calibration_error(made) > 4 * after)


@pytest.mark.parametrize("regions", [False, True])
def test_a_temperature_changes_no_answer(regions: bool) -> None:
    said = sample(temperature=2, regions=regions, voxels=500).probabilities
    for temperature in (0.3, 4.0):
        changed = sharpened(said, temperature, regions=regions)
        if regions:
            np.testing.assert_array_equal(changed > 0.5, said > 0.5)
        else:
            np.testing.assert_array_equal(changed.argmax(axis=0), said.argmax(axis=0))
            np.testing.assert_allclose(changed.sum(axis=0), 1, atol=1e-5)


def test_drawn_voxels_stand_for_all() -> None:
    made = sample(temperature=3, regions=False, voxels=30_000)
    said, truth = made.probabilities.copy(), made.truth.copy()
    said[:, :20_000], truth[:, :20_000] = [[1], [0], [0]], [[True], [False], [False]]
    known = np.arange(30_000) < 29_000
    drawn = draw_voxels(said, truth, known, regions=False, seed=1)
    whole = VoxelSample(said[:, known], truth[:, known], np.ones(29_000), np.ones(29_000, bool), False)
    assert drawn.weights.sum() == pytest.approx(29_000) and len(drawn.weights) == 2500
    assert calibration_error(drawn) == pytest.approx(calibration_error(whole), abs=0.01)
    assert calibration_error(drawn, only_doubtful=True) > 2 * calibration_error(drawn)


def test_intervals_of_volumes_hold_for_new_cases() -> None:
    rng = np.random.default_rng(3)
    voxels = sample(temperature=1, regions=False, voxels=50)
    held = []
    for _ in range(40):
        true = np.exp(rng.normal(8, 1.5, size=60))
        said = true * np.exp(rng.normal(0.1, 0.4, size=60))
        pairs = list(zip(true.tolist(), said.tolist()))
        found = calibrate([voxels], {"core": pairs[:30]}, REGIONS)
        for volume, predicted in pairs[30:]:
            interval = found.interval("core", predicted)
            assert interval is not None
            held.append(interval[0] <= volume <= interval[1])
    assert LEVEL - 0.03 < np.mean(held) < LEVEL + 0.07
    assert calibrate([voxels], {"core": pairs[:8]}, REGIONS).interval("core", 5.0) is None


def test_the_file_is_read_back_and_others_are_refused(tmp_path: Path) -> None:
    found = calibrate([sample(temperature=2, regions=True, voxels=200)], {"core": [(1.0, 2.0)] * 20}, REGIONS)
    found.write(tmp_path / "a.json")
    assert read_calibration(tmp_path / "a.json") == found and "ECE" in found.summary()
    content = json.loads((tmp_path / "a.json").read_text())
    for change in ({"temperature": 0}, {"format": 2}, {"volumes": {"core": -1}}, {"temperature": "2"}):
        (tmp_path / "b.json").write_text(json.dumps(content | change))
        with pytest.raises(InputError, match="is no calibration of an ensemble"):
            read_calibration(tmp_path / "b.json")
