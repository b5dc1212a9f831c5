"""What cross-validation says of an ensemble's probabilities and volumes: a temperature, and intervals that hold."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.temperature import VoxelSample, calibration_error, fit_temperature
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.json_shapes import fault_of

FORMAT = 1
LEVEL = 0.9
"""Share of new cases whose volume lies in its interval."""
SOFT_MM3 = 100.0
"""Added to volumes before ratios, so that the interval of a volume of nothing is in mm3."""
_NUMBER = (float, None)
_SHAPE = {
    "format": int,
    "temperature": float,
    "error": {str: [_NUMBER]},
    "cases": int,
    "volumes": {str: _NUMBER},
    "regions": {str: [int]},
}


@dataclass(frozen=True)
class EnsembleCalibration:
    """What held-out cases say.

    Attributes:
        temperature: divides the logits of the mean.
        error: expected calibration error before and after the temperature, of "all" voxels and of "doubtful" ones.
        cases: how many said it.
        volumes: by region the logarithm of the ratio within which `LEVEL` of new cases lie; None with too few cases.
        regions: by name their label values.

    Example:
        >>> found = EnsembleCalibration(1.3, {"all": [0.04, 0.01]}, 20, {"core": None}, {"core": [1]})
        >>> print(found.summary())
        temperature 1.300, from 20 held-out cases
          calibration error (ECE), all voxels: 0.0400 before, 0.0100 after
          volume of core: too few cases for an interval
    """

    temperature: float
    error: dict[str, list[float | None]]
    cases: int
    volumes: dict[str, float | None]
    regions: dict[str, list[int]]

    def interval(self, region: str, volume: float) -> tuple[float, float, str] | None:
        """Return the low and high end of a volume in mm3, and what they are; None where there is none.

        Example:
            >>> EnsembleCalibration(1.0, {}, 20, {"core": 0.5}, {"core": [1]}).interval("core", 0.0)[1] < SOFT_MM3
            True
        """
        ratio = self.volumes.get(region)
        if ratio is None:
            return None
        ends = [(volume + SOFT_MM3) * math.exp(sign * ratio) - SOFT_MM3 for sign in (-1, 1)]
        return max(0.0, ends[0]), ends[1], f"{LEVEL:.0%} of {self.cases} held-out cases"

    def write(self, path: Path) -> None:
        """Write the file that `bdfm predict --calibration` takes."""
        write_json(path, {"format": FORMAT, "level": LEVEL, **asdict(self)})

    def summary(self) -> str:
        """Return a few lines for a terminal."""
        lines = [f"temperature {self.temperature:.3f}, from {self.cases} held-out cases"]
        for what, values in self.error.items():
            before, after = ("-" if value is None else f"{value:.4f}" for value in values)
            lines.append(f"  calibration error (ECE), {what} voxels: {before} before, {after} after")
        for region, ratio in self.volumes.items():
            said = (
                "too few cases for an interval"
                if ratio is None
                else f"{LEVEL:.0%} within a factor of {math.exp(ratio):.2f}"
            )
            lines.append(f"  volume of {region}: {said}")
        return "\n".join(lines)


def calibrate(
    samples: Sequence[VoxelSample],
    volumes: Mapping[str, Sequence[tuple[float, float]]],
    regions: Mapping[str, Sequence[int]],
) -> EnsembleCalibration:
    """Fit the temperature and the intervals.

    An interval is that of split conformal prediction: it holds for new cases that are like the held-out ones, whatever
    the networks do (Lei et al. 2018, https://arxiv.org/abs/1604.04173).

    Args:
        samples: voxels of each held-out case.
        volumes: by region the reference's and the predicted volume of each case, in mm3.
        regions: by name their label values, for the record.

    Raises:
        ValueError: there is no case.

    Example:
        >>> said, truth = np.array([[0.2], [0.8]]), np.array([[False], [True]])
        >>> sample = VoxelSample(said, truth, np.ones(1), np.ones(1, bool), False)
        >>> calibrate([sample] * 9, {"core": [(900.0, 1000.0)] * 9}, {"core": [1]}).interval("core", 1000.0)
        (900.0, 1110.0, '90% of 9 held-out cases')
    """
    if not samples:
        raise ValueError("expected voxels of at least one case, got none")
    sample = VoxelSample.joined(samples)
    temperature = fit_temperature(sample)
    error: dict[str, list[float | None]] = {}
    for what in ("all", "doubtful"):
        found = [calibration_error(sample, each, only_doubtful=what == "doubtful") for each in (1.0, temperature)]
        error[what] = [None if math.isnan(value) else value for value in found]
    ratios = {region: _ratio(pairs) for region, pairs in volumes.items()}
    return EnsembleCalibration(
        temperature, error, len(samples), ratios, {name: list(values) for name, values in regions.items()}
    )


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the quantile of |log ratio| that a new case exceeds with a probability of at most 1 - LEVEL."""
    rank = math.ceil((len(pairs) + 1) * LEVEL)
    if rank > len(pairs):
        return None
    apart = np.array([abs(math.log((true + SOFT_MM3) / (said + SOFT_MM3))) for true, said in pairs])
    return float(np.sort(apart)[rank - 1])


def read_calibration(path: Path) -> EnsembleCalibration:
    """Read the file of a calibration.

    Raises:
        InputError: it is missing or another file.

    Example:
        >>> EnsembleCalibration(1.3, {}, 20, {"core": None}, {"core": [1]}).write(Path("calibration.json"))
        >>> read_calibration(Path("calibration.json")).temperature
        1.3
    """
    content: Any = read_json(path)
    fault = fault_of(content, _SHAPE)
    if not fault and content["format"] != FORMAT:
        fault = f"its format is {content['format']}, expected {FORMAT}"
    if not fault and not 0 < content["temperature"] < math.inf:
        fault = f"its temperature is {content['temperature']}, expected a number above 0"
    if not fault and not all(value is None or 0 <= value < 50 for value in content["volumes"].values()):
        fault = "a ratio of its volumes is not between 0 and 50"
    if fault:
        raise InputError(f"{path} is no calibration of an ensemble ({fault}): write one with `bdfm ensemble`")
    names = ("temperature", "error", "cases", "volumes", "regions")
    return EnsembleCalibration(*(content[name] for name in names))
