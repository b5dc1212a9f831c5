"""The planner for NeuroSTORM: frames of a clip, widths and batch size for 4-D runs and a memory target.

NeuroSTORM: Wang et al. 2025, https://arxiv.org/abs/2506.11167. The last step of the ladder has the published sizes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import channels_of, outputs_of
from bdfm_nnunet.plans.clip_layout import ClipLayout, clip_layout
from bdfm_nnunet.plans.memory_targets import configuration_costs, largest_batch, memory_gb
from bdfm_nnunet.plans.run_fingerprint import RunFingerprint

NETWORK_CLASS = "bdfm_nnunet.networks.neurostorm_network.NeuroSTORM"
WINDOW = (4, 4, 4, 4)
FEWEST_FRAMES = 4
"""Frames of the shortest clip, which are those of a window."""
PUBLISHED_BATCH = 8
MIN_BATCH_SIZE = 2
MOST_COVERED = 0.05
"""Share of the frames of a data set that a batch of more than two clips may hold, as in nnU-Net's plans."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A size of NeuroSTORM and of its clips.

    Attributes:
        width: channels of the tokens; they double from stage to stage.
        depths: blocks of up to four stages.
        frames: of a clip.
    """

    width: int
    depths: tuple[int, ...]
    frames: int


SIZES = (
    Size(width=12, depths=(2, 2, 2, 2), frames=4),
    Size(width=12, depths=(2, 2, 2, 2), frames=8),
    Size(width=24, depths=(2, 2, 2, 2), frames=8),
    Size(width=24, depths=(2, 2, 6, 2), frames=12),
    Size(width=24, depths=(2, 2, 6, 2), frames=20),
    Size(width=36, depths=(2, 2, 6, 2), frames=20),
)
"""From the cheapest to the published one: no number shrinks along the way, which makes plans monotone in memory."""


def sizes_for(fewest: int) -> list[Size]:
    """Return the sizes whose clips fit into runs of at least `fewest` frames; those of fewer frames are cut.

    Example:
        >>> [size.frames for size in sizes_for(10)]
        [4, 8, 8, 10, 10]
    """
    cut = [Size(width=size.width, depths=size.depths, frames=min(size.frames, fewest)) for size in SIZES]
    return list(dict.fromkeys(cut))


def architecture_of(layout: ClipLayout, size: Size) -> dict[str, Any]:
    """Return the `architecture` entry of a configuration."""
    stages = len(layout.merges) + 1
    return {
        "network_class_name": NETWORK_CLASS,
        "arch_kwargs": {
            "input_shape": [*layout.image_size, size.frames],
            "strides": layout.strides,
            "features_per_stage": [size.width * 2**stage for stage in range(stages)],
            "depths": list(size.depths[:stages]),
            "window_size": list(WINDOW),
            "mlp_ratio": 4.0,
            "full_last_window": True,
            "both_directions": False,
            "gradient_checkpointing": False,
            "legacy": False,
        },
        "_kw_requires_import": [],
    }


def choose_network(runs: RunFingerprint, dataset: Mapping[str, Any], gpu_memory: float) -> dict[str, Any]:
    """Choose image size, frames, architecture and batch size: the largest network of which two samples fit.

    A batch grows as far as two samples of the next larger network, or the published batch for the largest one, so more
    memory never gives less.

    Args:
        runs: of the data set.
        dataset: content of its dataset.json.
        gpu_memory: GB that training may take.

    Returns:
        `patch_size`, `batch_size` and `architecture` of a configuration.

    Raises:
        InputError: the runs are too short, or the memory is too small for the smallest network.
    """
    if runs.fewest < FEWEST_FRAMES:
        case = min(runs.frames, key=lambda name: runs.frames[name])
        raise InputError(
            f"run {case} has {runs.fewest} frames, a clip takes at least {FEWEST_FRAMES}: leave it out, for instance "
            f"with `bdfm convert --min-frames {FEWEST_FRAMES}`"
        )
    layout, sizes = clip_layout(runs.shape, runs.spacing), sizes_for(runs.fewest)

    def costs_of(size: Size) -> Costs:
        patch = [*layout.image_size, size.frames]
        configuration = {"patch_size": patch, "architecture": architecture_of(layout, size)}
        return configuration_costs(configuration, channels=len(channels_of(dataset)), classes=outputs_of(dataset))

    place, costs = _largest(sizes, costs_of, gpu_memory)
    covered = math.floor(MOST_COVERED * sum(runs.frames.values()) / sizes[place].frames)
    batch = min(largest_batch(costs, gpu_memory), _most_samples(sizes, place), covered)
    return {
        "patch_size": [*layout.image_size, sizes[place].frames],
        "batch_size": max(batch, MIN_BATCH_SIZE),
        "architecture": architecture_of(layout, sizes[place]),
    }


def _largest(sizes: list[Size], costs_of: Callable[[Size], Costs], gpu_memory: float) -> tuple[int, Costs]:
    """Return the place of the largest size of which two samples fit, and its costs; the published one is tried first.

    What fits is found by bisection, as costs grow along the sizes.
    """
    low, high, found = 0, len(sizes), None
    middle = len(sizes) - 1
    while low < high:
        costs = costs_of(sizes[middle])
        if largest_batch(costs, gpu_memory) >= MIN_BATCH_SIZE:
            low, found = middle + 1, (middle, costs)
        else:
            high, cheapest = middle, costs
        middle = (low + high) // 2
    if found is None:
        needed = math.ceil(memory_gb(cheapest, MIN_BATCH_SIZE) * 1000) / 1000
        raise InputError(f"--gpu-memory {gpu_memory} is too little for any network: give at least {needed}")
    return found


def _most_samples(sizes: list[Size], place: int) -> int:
    """Return the samples above which the next size is the better use of memory."""
    if place + 1 == len(sizes):
        return PUBLISHED_BATCH
    return MIN_BATCH_SIZE * sizes[place + 1].frames // sizes[place].frames
