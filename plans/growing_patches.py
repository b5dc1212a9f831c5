"""What planners share whose network stays the same while its patch grows."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans.memory_targets import configuration_costs, largest_batch, memory_gb
from bdfm_nnunet.plans.planners import FixedDataPlanner
from bdfm_nnunet.plans.swin_planner import MIN_BATCH_SIZE


def growing_patches(unit: Sequence[int], spacing: Sequence[float], shape: Sequence[float]) -> list[list[int]]:
    """Return patch sizes, from the smallest to the largest, each inside the next and multiples of `unit`.

    The patch grows as a cube in space, one axis at a time, until it covers the median image.

    Args:
        unit: voxels per axis that a patch holds whole numbers of.
        spacing: millimetres per voxel and axis.
        shape: voxels per axis of the median image.

    Example:
        >>> growing_patches([8, 8, 8], [3.0, 1.0, 1.0], [20.0, 24.0, 24.0])
        [[16, 16, 16], [16, 24, 16], [16, 24, 24]]
    """
    most = [max(math.floor(voxels / step), 1) for voxels, step in zip(shape, unit)]
    counts = [min(2, count) for count in most]
    patches = [[count * step for count, step in zip(counts, unit)]]
    while any(count < limit for count, limit in zip(counts, most)):
        growing = [axis for axis in range(len(unit)) if counts[axis] < most[axis]]
        axis = min(growing, key=lambda a: ((counts[a] + 1) * unit[a] * spacing[a], -shape[a] * spacing[a], a))
        counts[axis] += 1
        patches.append([count * step for count, step in zip(counts, unit)])
    return patches


class GrowingPatchPlanner(FixedDataPlanner):
    """Base of planners of one network: the largest patch of which two samples fit, then as many samples as fit."""

    def too_little(self, costs: Costs) -> InputError:
        """Return the error for a memory target that even the cheapest network exceeds."""
        needed = math.ceil(memory_gb(costs, MIN_BATCH_SIZE) * 1000) / 1000
        return InputError(
            f"--gpu-memory {self.UNet_vram_target_GB} is too little for any network: give at least {needed}",
            entry="too-little-memory",
        )

    def largest(
        self, patches: list[list[int]], architecture: Callable[[list[int]], dict[str, Any]], best: int, costs: Costs
    ) -> tuple[int, Costs]:
        """Return the number of the largest patch of which two samples fit, by bisection from one that does."""
        end = len(patches)
        while end - best > 1:
            middle = (best + end) // 2
            more = self._costs(patches[middle], architecture(patches[middle]))
            if self._batch(more) >= MIN_BATCH_SIZE:
                best, costs = middle, more
            else:
                end = middle
        return best, costs

    def chosen(self, patch: list[int], costs: Costs, architecture: dict[str, Any], voxels: float) -> dict[str, Any]:
        """Return a patch with as many samples as fit and cover at most 5 % of the data set's voxels, two at least."""
        covered = math.floor(voxels * self.max_dataset_covered / math.prod(patch))
        batch_size = max(min(self._batch(costs), covered), MIN_BATCH_SIZE)
        return {"patch_size": patch, "batch_size": batch_size, "architecture": architecture}

    def _costs(self, patch: list[int], architecture: dict[str, Any]) -> Costs:
        configuration = {"patch_size": patch, "architecture": architecture}
        return configuration_costs(configuration, channels=self.input_channels, classes=self.output_channels)

    def _batch(self, costs: Costs) -> int:
        return largest_batch(costs, self.UNet_vram_target_GB)
