"""The table of volumes that a prediction writes: per case and region, with an interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.prediction.case_table import CaseTable
from bdfm_nnunet.table_files import plain_cell

COLUMNS = ("case", "region", "volume_mm3", "low_mm3", "high_mm3", "expected_mm3", "members", "interval")
FROM_MEMBERS = "lowest and highest of the members"


@dataclass(frozen=True)
class RegionVolume:
    """The volume of one region of a case.

    Attributes:
        region: its name.
        volume: of the written segmentation, in mm3.
        expected: sum of the region's probabilities over voxels, in mm3; None where no channel tells them.
        members: the volume that each member alone segments, in mm3.
        interval: low and high end in mm3 and what they are, where they do not come from the members.
    """

    region: str
    volume: float
    expected: float | None
    members: Sequence[float]
    interval: tuple[float, float, str] | None = None

    def cells(self, case: str) -> list[Any]:
        """Return the row of the table."""
        low, high, what = self.interval or (min(self.members), max(self.members), FROM_MEMBERS)
        numbers = ["" if value is None else f"{value:.1f}" for value in (self.volume, low, high, self.expected)]
        return [case, self.region, *numbers, len(self.members), what]


def voxels_of(labels: NDArray[Any], regions: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Return the voxels of each region.

    Example:
        >>> voxels_of(np.array([0, 1, 2, 2]), {"whole": (1, 2), "core": (2,)})
        {'whole': 3, 'core': 2}
    """
    values, counts = np.unique(labels, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    return {name: sum(found.get(value, 0) for value in sorted(set(wanted))) for name, wanted in regions.items()}


def region_probabilities(
    probabilities: NDArray[np.float32], regions: Mapping[str, Sequence[int]], channels: Sequence[frozenset[int]]
) -> dict[str, NDArray[np.float32]]:
    """Return the probability map of each region that the channels tell.

    Args:
        probabilities: (K, ...).
        regions: name -> label values.
        channels: the label values of each channel; where they are single labels, their probabilities add up.

    Example:
        >>> classes = [frozenset({label}) for label in range(3)]
        >>> maps = region_probabilities(np.array([[0.5], [0.2], [0.3]]), {"whole": (1, 2)}, classes)
        >>> maps["whole"].tolist()
        [0.5]
    """
    at = {labels: channel for channel, labels in enumerate(channels)}
    apart = all(len(labels) == 1 for labels in channels)
    found = {}
    for name, values in regions.items():
        if apart and all(frozenset({value}) in at for value in values):
            found[name] = probabilities[[at[frozenset({value})] for value in sorted(set(values))]].sum(axis=0)
        elif frozenset(values) in at:
            found[name] = probabilities[at[frozenset(values)]]
    return found


class VolumeTable:
    """A table of volumes that grows case by case, see `CaseTable`.

    Args:
        path: the CSV file.
    """

    def __init__(self, path: Path) -> None:
        self.table = CaseTable(path, COLUMNS, "table of volumes")

    def cases(self) -> set[str]:
        """Return the cases that are in it.

        Raises:
            InputError: it cannot be read, or is another table.
        """
        return {plain_cell(row[0]) for row in self.table.rows()}

    def put(self, case: str, volumes: Sequence[RegionVolume]) -> None:
        """Write the rows of a case, in the place of those that it had."""
        self.table.put(case, [volume.cells(case) for volume in volumes])
