import numpy as np
import pytest
from skimage.morphology import skeletonize

from bdfm_nnunet.evaluation import score_case
from bdfm_nnunet.evaluation.centrelines import centreline, cldice, lengths

REGIONS = {"artery": (1,), "vein": (2,), "vessel": (1, 2)}


def _tree() -> np.ndarray:
    """A trunk along x with a thinner branch along y."""
    labels = np.zeros((40, 32, 24), dtype=np.uint8)
    labels[4:36, 8:13, 10:15] = 1
    labels[18:21, 13:28, 11:14] = 2
    return labels


def _scores(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1)) -> dict:
    return score_case(reference, prediction, spacing=spacing, regions=REGIONS, release="a data set", metrics="vessels")


def published(prediction: np.ndarray, reference: np.ndarray) -> float:
    """The authors' function, line by line: https://github.com/jocpae/clDice."""

    def score(volume: np.ndarray, skeleton: np.ndarray) -> float:
        return float(np.sum(volume * skeleton) / np.sum(skeleton))

    precision = score(reference, skeletonize(prediction, method="lee") > 0)
    sensitivity = score(prediction, skeletonize(reference, method="lee") > 0)
    return 2 * precision * sensitivity / (precision + sensitivity)


@pytest.mark.parametrize("seed", range(4))
def test_cldice_is_the_published_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = _tree() > 0
    prediction = np.roll(reference, 1, axis=seed % 3) & (rng.random(reference.shape) < 0.97)
    prediction[rng.integers(4, 30) :][:3] = False
    assert cldice(reference, prediction) == pytest.approx(published(prediction, reference))


def test_a_cut_branch_costs_more_centreline_than_volume() -> None:
    reference = _tree()
    cut = np.where(reference == 2, 0, reference)
    scores = _scores(reference, cut)
    assert scores["vessel"]["centreline_precision"] == 1.0
    assert scores["vessel"]["centreline_sensitivity"] < 0.8
    assert scores["vessel"]["cldice"] < scores["vessel"]["dice"]
    assert scores["artery"]["cldice"] == scores["artery"]["dice"] == 1.0


def test_empty_regions() -> None:
    reference = _tree()
    cut = np.where(reference == 2, 0, reference)
    for here, there in ((reference, cut), (cut, reference)):
        scores = _scores(here, there)["vein"]
        assert {name: value for name, value in scores.items() if not name.endswith("_mm3")} == dict.fromkeys(
            ("dice", "cldice", "centreline_precision", "centreline_sensitivity", "cldice_length"), 0.0
        )
    nothing = _scores(cut, cut)["vein"]
    assert all(np.isnan(value) for name, value in nothing.items() if not name.endswith("_mm3"))


def test_length_is_in_millimetres() -> None:
    line = np.zeros((12, 12, 12), dtype=bool)
    line[2:9, 5, 5] = True
    assert lengths(line, spacing=(3, 1, 1)).sum() == pytest.approx(18)
    diagonal = np.zeros_like(line)
    diagonal[range(2, 9), range(2, 9), 5] = True
    assert lengths(diagonal, spacing=(3, 4, 1)).sum() == pytest.approx(30)
    alone = np.zeros_like(line)
    alone[11, 0, 0] = True
    assert lengths(alone, spacing=(1, 2, 3))[11, 0, 0] == 2


def test_thick_slices_weigh_the_branches_by_their_length() -> None:
    """Of two branches with as many voxels the one along the thick axis is four times as long."""
    reference = np.zeros((30, 30, 30), dtype=np.uint8)
    reference[2:26, 4:7, 4:7] = reference[22:25, 20:23, 2:26] = 1
    prediction = reference.copy()
    prediction[22:25, 20:23, 2:26] = 0
    even, thick = (_scores(reference, prediction, spacing=(1, 1, z))["artery"] for z in (1.0, 4.0))
    assert even["cldice"] == thick["cldice"] == pytest.approx(2 / 3, abs=0.03)
    assert even["cldice_length"] == pytest.approx(even["cldice"], abs=0.03)
    assert thick["cldice_length"] == pytest.approx(2 * 0.2 / 1.2, abs=0.03)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 2, 2), (4, 4, 4), (2, 5, 8), (9, 9, 1)])
def test_no_mask_loses_its_centreline(shape: tuple[int, ...]) -> None:
    for margin in (0, 2):
        mask = np.pad(np.ones(shape, dtype=bool), margin)
        line = centreline(mask)
        assert line.any() and not (line & ~mask).any()
        assert cldice(mask, mask) == 1.0
