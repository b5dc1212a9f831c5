"""What is scored and what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.nearest import Mask, box_of

# No dilation reaches further.
_MARGIN = 6


@dataclass(frozen=True)
class RegionScores:
    """Scores of a region by name, and a table of its lesions where the version has one."""

    scores: dict[str, float]
    lesions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """Reference and prediction on one grid, cut to the box that holds all labels.

    Attributes:
        reference: labels (x, y, z).
        prediction: labels of the same shape.
        spacing: voxel size in mm along each axis.
        shape: of the volume before it was cut.
        regions: region to its label values.
    """

    reference: NDArray[Any]
    prediction: NDArray[Any]
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    regions: Mapping[str, Sequence[int]]

    @staticmethod
    def cut(
        reference: NDArray[Any],
        prediction: NDArray[Any],
        *,
        spacing: Sequence[float],
        regions: Mapping[str, Sequence[int]],
    ) -> "Case":
        """From label volumes as they are."""
        if reference.shape != prediction.shape or reference.ndim != 3 or len(spacing) != 3:
            raise ValueError(f"expected two volumes (x, y, z), got {reference.shape} and {prediction.shape}")
        labelled = (reference != 0) | (prediction != 0)
        box = box_of(labelled, _MARGIN) if labelled.any() else (slice(0, 1),) * 3
        steps = tuple(float(step) for step in spacing)
        first, second = (np.ascontiguousarray(volume[box]) for volume in (reference, prediction))
        return Case(first, second, steps, reference.shape, regions)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing))

    def masks(self, values: Sequence[int]) -> tuple[Mask, Mask]:
        """Where reference and prediction have one of the values."""
        return mask_of(self.reference, values), mask_of(self.prediction, values)


def mask_of(labels: NDArray[Any], values: Sequence[int]) -> Mask:
    """Where labels have one of the values."""
    mask = np.zeros(labels.shape, dtype=bool)
    for value in values:
        mask |= labels == value
    return mask
