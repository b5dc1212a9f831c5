"""One case to score, and the scores of its regions."""

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
    """Scores of one region by name, and the table of its lesions if the metric version has one.

    Example:
        >>> RegionScores({"dice": 0.75, "hd95_mm": 1.0}).scores["dice"]
        0.75
    """

    scores: dict[str, float]
    lesions: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """Reference and prediction on one grid, cut to the box that holds all labels.

    Attributes:
        reference: labels (x, y, z).
        prediction: labels of the same shape.
        spacing: voxel size in mm along each axis.
        shape: shape of the volume before it was cut.
        regions: region name -> its label values.

    Example:
        >>> labels = np.zeros((64, 64, 64), dtype=np.uint8)
        >>> labels[30:34, 30:34, 30:34] = 3
        >>> case = Case.cut(labels, labels, spacing=(1, 1, 1), regions={"enhancing_tumor": (3,)})
        >>> case.reference.shape, case.shape
        ((16, 16, 16), (64, 64, 64))
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
        """Cut two label volumes to the box that holds all labels.

        Raises:
            ValueError: the volumes are not three-dimensional or differ in shape.
        """
        if reference.shape != prediction.shape or reference.ndim != 3 or len(spacing) != 3:
            raise ValueError(f"expected two volumes (x, y, z), got {reference.shape} and {prediction.shape}")
        labelled = (reference != 0) | (prediction != 0)
        box = box_of(labelled, _MARGIN) if labelled.any() else (slice(0, 1),) * 3
        steps = tuple(float(step) for step in spacing)
        first, second = (np.ascontiguousarray(volume[box]) for volume in (reference, prediction))
        return Case(first, second, steps, reference.shape, regions)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return float(np.prod(self.spacing))

    def masks(self, values: Sequence[int]) -> tuple[Mask, Mask]:
        """Return the masks of reference and prediction where they have one of the values."""
        return mask_of(self.reference, values), mask_of(self.prediction, values)


def mask_of(labels: NDArray[Any], values: Sequence[int]) -> Mask:
    """Return the mask of the voxels that have one of the values.

    Example:
        >>> mask_of(np.array([0, 1, 2, 3]), values=(1, 3))
        array([False,  True, False,  True])
    """
    mask = np.zeros(labels.shape, dtype=bool)
    for value in values:
        mask |= labels == value
    return mask
