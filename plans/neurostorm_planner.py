"""The planner for NeuroSTORM: frames of a clip, widths and batch size for 4-D runs and a memory target.

NeuroSTORM: Wang et al. 2025, https://arxiv.org/abs/2506.11167. The last step of the ladder has the published sizes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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


PUBLISHED = SIZES[-1]


def sizes_for(fewest: int, most: int = PUBLISHED.frames) -> list[Size]:
    """Return the sizes whose clips fit into runs of at least `fewest` frames; those of fewer frames are cut.

    Args:
        fewest: frames of the shortest run.
        most: frames that clips have where memory allows.

    Example:
        >>> [size.frames for size in sizes_for(10)], sizes_for(100, 40)[-1].frames
        ([4, 8, 8, 10, 10], 40)
    """
    longest = {size: most if size.frames == PUBLISHED.frames else min(size.frames, most) for size in SIZES}
    cut = [replace(size, frames=min(longest[size], fewest)) for size in SIZES]
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


def choose_network(
    runs: RunFingerprint,
    dataset: Mapping[str, Any],
    gpu_memory: float,
    *,
    layout: ClipLayout | None = None,
    most_frames: int = PUBLISHED.frames,
) -> dict[str, Any]:
    """Choose image size, frames, architecture and batch size: the largest network of which two samples fit.

    A batch grows as far as two samples of the next larger network, or the published batch for the largest one, so more
    memory never gives less.

    Args:
        runs: of the data set.
        dataset: content of its dataset.json.
        gpu_memory: GB that training may take.
        layout: of the clips; by default that of whole volumes.
        most_frames: frames of a clip where memory and runs allow.

    Returns:
        `patch_size`, `batch_size` and `architecture` of a configuration.

    Raises:
        InputError: the runs are too short, or the memory is too small for the smallest network.
    """
    check_length(runs)
    layout, sizes = layout or clip_layout(runs.shape, runs.spacing), sizes_for(runs.fewest, most_frames)
    candidates = [
        {"patch_size": [*layout.image_size, size.frames], "architecture": architecture_of(layout, size)}
        for size in sizes
    ]
    place, costs = _largest(candidates, lambda chosen: costs_of_sample(chosen, dataset), gpu_memory)
    frames, most = sizes[place].frames, PUBLISHED_BATCH
    if place + 1 < len(sizes):
        most = MIN_BATCH_SIZE * sizes[place + 1].frames // frames
    return {**candidates[place], "batch_size": samples_for(costs, frames, runs, gpu_memory, most=most)}


def check_length(runs: RunFingerprint) -> None:
    """Raise InputError where the shortest run is too short for a clip."""
    if runs.fewest < FEWEST_FRAMES:
        case = min(runs.frames, key=lambda name: runs.frames[name])
        raise InputError(
            f"run {case} has {runs.fewest} frames, a clip takes at least {FEWEST_FRAMES}: leave it out, for instance "
            f"with `bdfm convert --min-frames {FEWEST_FRAMES}`"
        )


def samples_for(
    costs: Costs, frames: int, runs: RunFingerprint, gpu_memory: float, *, most: int = PUBLISHED_BATCH
) -> int:
    """Return the samples of a batch: as many as fit, two at least, and more only up to a small share of the data set.

    Args:
        costs: of one sample.
        frames: of a clip.
        runs: of the data set.
        gpu_memory: GB that training may take.
        most: samples of the largest batch.
    """
    covered = math.floor(MOST_COVERED * sum(runs.frames.values()) / frames)
    return max(min(largest_batch(costs, gpu_memory), most, covered), MIN_BATCH_SIZE)


def costs_of_sample(chosen: Mapping[str, Any], dataset: Mapping[str, Any]) -> Costs:
    """Return the costs of one sample of a configuration, arithmetic not counted."""
    return configuration_costs(chosen, channels=len(channels_of(dataset)), classes=outputs_of(dataset))


def _largest(
    candidates: Sequence[Mapping[str, Any]], costs_of: Callable[[Mapping[str, Any]], Costs], gpu_memory: float
) -> tuple[int, Costs]:
    """Return the place of the largest network of which two samples fit, and its costs; the last one is tried first.

    What fits is found by bisection, as costs grow along the candidates.
    """
    low, high, middle = -1, len(candidates), len(candidates) - 1
    counted: dict[int, Costs] = {}
    while high - low > 1:
        counted[middle] = costs_of(candidates[middle])
        if largest_batch(counted[middle], gpu_memory) >= MIN_BATCH_SIZE:
            low = middle
        else:
            high = middle
        middle = (low + high) // 2
    if low < 0:
        needed = math.ceil(memory_gb(counted[0], MIN_BATCH_SIZE) * 1000) / 1000
        raise InputError(
            f"--gpu-memory {gpu_memory} is too little for any network: give at least {needed}",
            entry="too-little-memory",
        )
    return low, counted[low]
