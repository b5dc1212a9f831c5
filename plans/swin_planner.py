"""The planner for SwinUNet: patch size, stages, widths and batch size for a data set and a memory target.

Swin transformer: Liu et al. 2021, https://arxiv.org/abs/2103.14030.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans.memory_targets import configuration_costs, largest_batch, memory_gb
from bdfm_nnunet.plans.planners import FixedDataPlanner
from bdfm_nnunet.plans.token_grid import SwinLayout, layouts_for

MIN_BATCH_SIZE = 2
STRIDE = 4


@dataclass(frozen=True, kw_only=True)
class Width:
    """A size of SwinUNet, and the patch from which on it is worth its memory.

    Attributes:
        from_voxels: the smallest patch that gets this width, as long as larger patches are to be had.
        stem: channels at full resolution.
        embedding: channels of the first Swin stage; they double from stage to stage.
        head: channels of an attention head.
        depths: blocks of up to four Swin stages.
    """

    from_voxels: int
    stem: int
    embedding: int
    head: int
    depths: tuple[int, int, int, int]


WIDTHS = (
    Width(from_voxels=0, stem=8, embedding=24, head=12, depths=(2, 2, 2, 2)),
    Width(from_voxels=32**3, stem=16, embedding=32, head=16, depths=(2, 2, 2, 2)),
    Width(from_voxels=48**3, stem=16, embedding=48, head=16, depths=(2, 2, 4, 2)),
    Width(from_voxels=80**3, stem=24, embedding=64, head=32, depths=(2, 2, 6, 2)),
    Width(from_voxels=96**3, stem=32, embedding=96, head=32, depths=(2, 2, 6, 2)),
)


def architecture_of(layout: SwinLayout, width: Width) -> dict[str, Any]:
    """Return the `architecture` entry of a configuration."""
    stages = len(layout.merges) + 1
    features = [width.embedding * 2**stage for stage in range(stages)]
    return {
        "network_class_name": "bdfm_nnunet.networks.swin_unet.SwinUNet",
        "arch_kwargs": {
            "strides": layout.strides,
            "features_per_stage": [width.stem, *features],
            "depths": list(width.depths[:stages]),
            "num_heads": [channels // width.head for channels in features],
            "window_size": list(layout.window),
            "mlp_ratio": 4.0,
            "drop_path_rate": 0.1,
            "n_conv_per_stage_decoder": 1,
        },
        "_kw_requires_import": [],
    }


def ladder(layouts: list[SwinLayout]) -> Iterator[tuple[SwinLayout, Width]]:
    """List networks from the cheapest to the dearest: each step takes the next patch or, once earned, the next width.

    Patch and width never shrink along the way, which makes plans monotone in memory.
    """
    tier = 0
    for layout in layouts:
        yield layout, WIDTHS[tier]
        earned = sum(layout.voxels >= width.from_voxels for width in WIDTHS) - 1
        while tier < (earned if layout is not layouts[-1] else len(WIDTHS) - 1):
            tier += 1
            yield layout, WIDTHS[tier]


class SwinUNetPlanner(FixedDataPlanner):
    """The planner of SwinUNet: the largest patch that fits with two samples, then as many samples as fit.

    More memory never gives a smaller product of patch and batch size: a batch only grows as far as two samples of the
    next larger patch. As with nnU-Net, no batch covers more than 5 % of the data set's voxels if it has more than two
    samples.
    """

    def choose_network(self, spacing: list[float], median_shape: list[float], voxels: float) -> dict[str, Any]:
        """Choose patch size, batch size and architecture.

        Raises:
            InputError: the memory is too small for the smallest network.
        """
        steps = list(ladder(layouts_for(spacing, median_shape)))
        best, costs = self._climb(steps)
        layout, _ = steps[best]
        batch_size = largest_batch(costs, self.UNet_vram_target_GB)
        if best + 1 < len(steps):
            batch_size = min(batch_size, MIN_BATCH_SIZE * steps[best + 1][0].voxels // layout.voxels)
        covered = math.floor(voxels * self.max_dataset_covered / layout.voxels)
        return {
            "patch_size": list(layout.patch_size),
            "batch_size": max(min(batch_size, covered), MIN_BATCH_SIZE),
            "architecture": architecture_of(*steps[best]),
        }

    def _climb(self, steps: list[tuple[SwinLayout, Width]]) -> tuple[int, Costs]:
        """Return the last step up to which everything that was counted fits in memory, and its costs.

        Strides first and single steps last: about a third of the steps are counted.
        """
        place, costs = 0, self._costs(*steps[0])
        if not self._fits(costs):
            needed = math.ceil(memory_gb(costs, MIN_BATCH_SIZE) * 1000) / 1000
            raise InputError(
                f"--gpu-memory {self.UNet_vram_target_GB} is too little for any network: give at least {needed}",
                entry="too-little-memory",
            )
        end = len(steps)
        for stride in (STRIDE, 1):
            for following in range(place + stride, end, stride):
                more = self._costs(*steps[following])
                if not self._fits(more):
                    end = following
                    break
                place, costs = following, more
        return place, costs

    def _costs(self, layout: SwinLayout, width: Width) -> Costs:
        configuration = {"patch_size": layout.patch_size, "architecture": architecture_of(layout, width)}
        return configuration_costs(configuration, channels=self.input_channels, classes=self.output_channels)

    def _fits(self, costs: Costs) -> bool:
        return largest_batch(costs, self.UNet_vram_target_GB) >= MIN_BATCH_SIZE
