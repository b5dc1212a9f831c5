"""How good a segmentation is likely to be, before anybody has seen it.

The first sign is the Dice that the probabilities themselves expect: 2 sum(p s) / (sum(p) + sum(s)) of a region's
probabilities p and its segmentation s. Where mirrored copies or folds contradict each other, their mean probability is
near the middle, and so the sign falls. The others are the volumes of the regions. What they mean in Dice is learned
from the cases that the cross-validation held out (`QualityScale`).
"""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import spearmanr
from torch import Tensor

from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.json_shapes import Anything
from bdfm_nnunet.prediction.case_table import CaseTable

logger = logging.getLogger(__name__)

QUALITY_TABLE, QUALITY_FILE = "case_quality.csv", "validation_quality.json"
COLUMNS = ("case", "estimated_dice", "low_dice", "high_dice", "expected_dice", "agreement", "inputs")
FEWEST_CASES = 8
"""Cases of a cross-validation that a scale is fitted to, at least."""
_PENALTY = 3.0
_SIGN = ".sign.json"
_SUMMARY = {"metric_per_case": [{"prediction_file": str, "metrics": {str: {"Dice": Anything}}}]}
_SIGNS = {"expected_dice": float, "volumes": [float]}
_SHAPE = {"cases": {str: _SIGNS | {"dice": (float, None)}}}


@dataclass(frozen=True)
class Signs:
    """What a segmentation tells of its own quality.

    Attributes:
        expected_dice: that its probabilities expect.
        volumes: of each region, mm3.
    """

    expected_dice: float
    volumes: tuple[float, ...]

    @property
    def features(self) -> list[float]:
        """Numbers for a fit."""
        return [self.expected_dice, *np.log1p(self.volumes)]


class ExpectedDice:
    """The Dice that probabilities expect of their own segmentation, gathered piece by piece."""

    def __init__(self) -> None:
        self._sums: NDArray[np.float64] | None = None
        self._largest = 0.0

    def add(self, probabilities: NDArray[Any], *, regions: bool) -> None:
        """Add voxels.

        Args:
            probabilities: (K, *spatial).
            regions: whether the channels are overlapping regions, else classes of which the first is the background.
        """
        if regions:
            found = probabilities > 0.5
        else:
            best, probabilities = probabilities.argmax(axis=0), probabilities[1:]
            found = np.stack([best == channel for channel in range(1, len(probabilities) + 1)])
        axes = tuple(range(1, found.ndim))
        inside = (probabilities * found).sum(axis=axes, dtype=np.float64)
        sums = np.stack([inside, probabilities.sum(axis=axes, dtype=np.float64), found.sum(axis=axes)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._largest = max(self._largest, float(probabilities.max(initial=0.0)))

    @property
    def value(self) -> float:
        """Mean over the regions that are found; where none is, how sure the network is of that."""
        assert self._sums is not None
        inside, whole, found = self._sums[:, self._sums[2] > 0]
        return float(np.mean(2 * inside / (whole + found))) if inside.size else 1.0 - self._largest

    def signs(self, voxel: float) -> Signs:
        """Return all signs, given the volume of a voxel in mm3."""
        assert self._sums is not None
        return Signs(self.value, tuple(float(count) * voxel for count in self._sums[2]))


def signs_of(logits: NDArray[Any], *, regions: bool, spacing: Sequence[float]) -> Signs:
    """Return the signs of logits (K, *spatial), which have this spacing in mm."""
    values = logits.astype(np.float32)
    expected = ExpectedDice()
    expected.add(expit(values) if regions else softmax(values, axis=0), regions=regions)
    return expected.signs(math.prod(spacing))


def agreement_of(segmentations: Sequence[NDArray[np.uint8]]) -> float | None:
    """Return the mean Dice of the foreground of all pairs of segmentations; None of fewer than two."""
    dices = []
    for at, one in enumerate(segmentations):
        for other in segmentations[at + 1 :]:
            size = np.count_nonzero(one) + np.count_nonzero(other)
            dices.append(2 * np.count_nonzero((one == other) & (one > 0)) / size if size else 1.0)
    return float(np.mean(dices)) if dices else None


# ------------------------------------------------------------------------------------------------------------- scale


@dataclass(frozen=True)
class QualityScale:
    """What signs have meant in cases that were held out: a plane, and how far they lay from it.

    Attributes:
        centre: mean of each feature.
        width: standard deviation of each.
        weights: of the features, so scaled.
        offset: mean true Dice.
        below: 5th percentile of the true Dice less the estimate.
        above: 95th percentile.
        cases: it was fitted to.
        rank_correlation: Spearman's, of the estimates and the true Dice, each case left out of its own fit.
    """

    centre: NDArray[np.float64]
    width: NDArray[np.float64]
    weights: NDArray[np.float64]
    offset: float
    below: float
    above: float
    cases: int
    rank_correlation: float

    @classmethod
    def fit(cls, signs: Sequence[Signs], true: Sequence[float]) -> "QualityScale | None":
        """Fit a plane; None for too few cases, or where estimates of cases left out tell nothing of the truth."""
        if len(signs) < FEWEST_CASES or len({len(each.volumes) for each in signs}) > 1:
            return None
        x, y = np.array([each.features for each in signs]), np.asarray(true, dtype=np.float64)
        centre, width = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
        x = (x - centre) / width
        estimates = []
        for at in range(len(x)):
            others = np.arange(len(x)) != at
            weights, offset = _ridge(x[others], y[others])
            estimates.append(float(x[at] @ weights + offset))
        if np.ptp(estimates) < 1e-9 or np.ptp(y) < 1e-9:
            return None
        correlation = float(spearmanr(estimates, y).statistic)
        if correlation <= 0:
            return None
        below, above = np.percentile(y - np.array(estimates), (5, 95))
        return cls(centre, width, *_ridge(x, y), float(below), float(above), len(x), correlation)

    def estimate(self, signs: Signs) -> tuple[float, float, float]:
        """Return an estimate of the Dice, and between what it lies in nine of ten cases."""
        middle = float((np.array(signs.features) - self.centre) / self.width @ self.weights) + self.offset
        low, here, high = (min(max(middle + by, 0.0), 1.0) for by in (self.below, 0.0, self.above))
        return here, low, high


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Return weights and offset of a ridge regression on scaled features."""
    mean = x.mean(axis=0)
    centred = x - mean
    weights = np.linalg.solve(centred.T @ centred + _PENALTY * np.eye(x.shape[1]), centred.T @ (y - y.mean()))
    return weights, float(y.mean() - mean @ weights)


def read_scale(folder: Path) -> QualityScale | None:
    """Return the scale of a model, from what the validations of its folds have left.

    Raises:
        InputError: a file of them is damaged.
    """
    signs, true = [], []
    for path in sorted(folder.glob(f"fold_*/{QUALITY_FILE}")):
        for case in read_json(path, _SHAPE)["cases"].values():
            if case["dice"] is not None:
                signs.append(Signs(float(case["expected_dice"]), tuple(map(float, case["volumes"]))))
                true.append(float(case["dice"]))
    scale = QualityScale.fit(signs, true)
    if scale is None:
        logger.info("%s: estimates are what the network expects, as no validation tells what that means", QUALITY_TABLE)
    else:
        logger.info(
            "%s: estimates come from %d validated cases, in which their rank correlation with the true Dice was %.2f",
            QUALITY_TABLE, scale.cases, scale.rank_correlation,
        )  # fmt: skip
    return scale


# ------------------------------------------------------------------------------------------------------- validation


def sign_path(output: str | os.PathLike[str]) -> Path:
    """Return where the sign of a validated case waits for its score."""
    path = Path(output)
    return path.with_name(f".{path.name}{_SIGN}")


def _ends(name: str) -> Iterator[int]:
    """Yield where the ending of a file's name may begin."""
    yield from (at for at, letter in enumerate(name) if letter == "." and at)


def write_sign(output: str | os.PathLike[str], signs: Signs) -> None:
    """Keep what the segmentation of a validated case tells of its quality.

    Args:
        output: of the segmentation, without ending.
        signs: of it.
    """
    write_json(sign_path(output), asdict(signs))


def collect_signs(validation: Path) -> None:
    """Write what the probabilities of each validated case expected beside the Dice it had.

    Args:
        validation: the folder of nnU-Net's validation with its summary.json, whose signs are removed.

    Raises:
        InputError: the summary is damaged.
    """
    cases = {}
    for row in read_json(validation / "summary.json", _SUMMARY)["metric_per_case"]:
        name = Path(row["prediction_file"]).name
        path = next((found for end in _ends(name) if (found := sign_path(validation / name[:end])).is_file()), None)
        if path is not None:
            values = [each["Dice"] for each in row["metrics"].values()]
            dices = [float(dice) for dice in values if isinstance(dice, int | float) and math.isfinite(dice)]
            sign = read_json(path, _SIGNS)
            cases[path.name[1 : -len(_SIGN)]] = {**sign, "dice": float(np.mean(dices)) if dices else None}
            path.unlink()
    if cases:
        write_json(validation.parent / QUALITY_FILE, {"cases": cases})


# ------------------------------------------------------------------------------------------------------------ table


class QualityJudge:
    """The judge of predicted cases: a list of them, the worst first, that grows case by case.

    Args:
        scale: of the model.
    """

    def __init__(self, scale: QualityScale | None = None) -> None:
        self.scale = scale
        self._members: list[NDArray[np.uint8]] = []

    def add_member(self, logits: Tensor, *, of: int, regions: bool) -> None:
        """Remember what one `of` several folds says of a case: logits (K, *spatial)."""
        if len(self._members) >= of:
            self._members = []
        found = (logits > 0).any(0) if regions else logits.argmax(0)
        self._members.append(found.to("cpu", torch.uint8).numpy())

    def judge(self, output: str | os.PathLike[str], signs: Signs, *, inputs: str) -> None:
        """Write the row of a case, in the place of the one that it had; several processes may do that.

        Args:
            output: of the case, without ending; the table lies beside it.
            signs: of its segmentation.
            inputs: what is known of its images.

        Raises:
            InputError: the table cannot be written.
        """
        agreement, self._members = agreement_of(self._members), []
        expected = signs.expected_dice
        estimate = self.scale.estimate(signs) if self.scale is not None else (expected, None, None)
        numbers = ["" if each is None else f"{each:.4f}" for each in (*estimate, expected, agreement)]
        path, case = Path(output).parent / QUALITY_TABLE, Path(output).name
        table = CaseTable(path, COLUMNS, "list of quality", order=_order)
        table.put(case, [[case, *numbers, inputs]])


def _order(row: Sequence[str]) -> tuple[float, str]:
    try:
        return float(row[1]), row[0]
    except ValueError:
        return math.inf, row[0]
