"""Plans of runs that match a checkpoint: its network (`--weights`), or only the clips that it read (`--like`)."""

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import RUN_SCORES
from bdfm_nnunet.plans.clip_layout import ClipLayout, clip_layout
from bdfm_nnunet.plans.likeness import Likeness
from bdfm_nnunet.plans.network_names import RUN_NETWORKS
from bdfm_nnunet.plans.neurostorm_planner import FEWEST_FRAMES, PUBLISHED, check_length, costs_of_sample, samples_for
from bdfm_nnunet.plans.pretrained_plans import PretrainedPlans
from bdfm_nnunet.plans.run_fingerprint import RunFingerprint, near

logger = logging.getLogger(__name__)


def network_of_weights(
    runs: RunFingerprint, dataset: dict[str, Any], gpu_memory: float, source: PretrainedPlans
) -> dict[str, Any]:
    """Return the entries of a configuration whose network is that of a checkpoint, and which starts from it.

    Clips are no longer than the shortest run: positions of fewer frames are then the first ones of the checkpoint.
    Where runs have another time between frames than the checkpoint's, its positions in time are read at their seconds.

    Args:
        runs: of the data set.
        dataset: content of its dataset.json.
        gpu_memory: GB that training may take; the batch follows it.
        source: the plans of the checkpoint.

    Raises:
        InputError: the network reads images, or the runs are too short or have other voxels.
    """
    if source.network not in RUN_NETWORKS:
        raise InputError(
            f"{source.path} is of a {source.network} network, which reads 3-D images, but the data set holds 4-D runs: "
            f"choose weights of {', '.join(RUN_NETWORKS)}"
        )
    check_length(runs)
    _check_voxels(runs, source.spacing, source.path)
    _compare_scores(runs, source)
    patch = list(source.configuration["patch_size"])
    frames = min(patch[3], runs.fewest)
    architecture = deepcopy(source.configuration["architecture"])
    architecture["arch_kwargs"] |= {"input_shape": [*patch[:3], frames], **_seconds(architecture, runs, source)}
    finetuning = {"weights": str(source.path), "weights_sha256": source.sha256, **source.reading}
    if frames < patch[3]:
        logger.info("clips have %d frames, those of %s %d: the shortest run has no more", frames, source.path, patch[3])
        finetuning["positions"] = "extend"
    chosen = {"patch_size": [*patch[:3], frames], "architecture": architecture}
    batch_size = samples_for(costs_of_sample(chosen, dataset), frames, runs, gpu_memory)
    return chosen | {"batch_size": batch_size, "finetuning": finetuning}


def layout_like(runs: RunFingerprint, likeness: Likeness) -> tuple[ClipLayout, int]:
    """Return the layout of clips of the size that a checkpoint was trained on, and how many frames they may have.

    Raises:
        InputError: the runs have other voxels.
    """
    _check_voxels(runs, list(likeness.images.spacing), likeness.path)
    patch = likeness.patch or (*runs.shape, PUBLISHED.frames)
    layout = clip_layout(patch[:3], runs.spacing)
    if layout.image_size != patch[:3]:
        ours, theirs = (" x ".join(map(str, size)) for size in (layout.image_size, patch[:3]))
        logger.warning(
            "clips have %s voxels, those of %s %s: tokens and their merging divide it", ours, likeness.path, theirs
        )
    return layout, max(patch[3], FEWEST_FRAMES)


def _check_voxels(runs: RunFingerprint, spacing: list[float], path: Path) -> None:
    if all(near(a, b) for a, b in zip(runs.spacing, spacing)):
        return
    theirs, ours = (" x ".join(f"{step:g}" for step in each[:3]) for each in (spacing, runs.spacing))
    raise InputError(
        f"{path} was trained on voxels of {theirs} mm, the runs have {ours} mm: convert them with `bdfm convert "
        f"--spacing {spacing[0]:g}`"
    )


def _compare_scores(runs: RunFingerprint, source: PretrainedPlans) -> None:
    theirs = source.configuration.get("standardised", RUN_SCORES)
    if theirs != runs.standardised:
        logger.warning(
            "%s was trained on standard scores of each %s, the runs have those of each %s, which look different: "
            "convert them with --standardise %s", source.path, theirs, runs.standardised, theirs,
        )  # fmt: skip


def _seconds(architecture: dict[str, Any], runs: RunFingerprint, source: PretrainedPlans) -> dict[str, float]:
    """Return the arguments by which positions in time mean seconds, where runs have another time between frames."""
    kwargs, theirs = architecture["arch_kwargs"], source.spacing[3]
    if near(runs.repetition_time, theirs):
        return {}
    logger.info(
        "positions in time of %s are read at the seconds of frames, every %g s", source.path, runs.repetition_time
    )
    rows = kwargs.get("table_seconds", theirs) if kwargs.get("frame_seconds") else theirs
    return {"frame_seconds": runs.repetition_time, "table_seconds": rows}
