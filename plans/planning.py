"""From a data set number to a plans file and preprocessed data."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write
from bdfm_nnunet.output_log import output_to
from bdfm_nnunet.plans.like_checkpoint import planner_like, read_likeness
from bdfm_nnunet.plans.matching import MatchingPlanner, read_pretrained_plans
from bdfm_nnunet.plans.network_names import PRIMUS_KINDS
from bdfm_nnunet.plans.planners import OurPlanner, PlainUNetPlanner, ResidualUNetPlanner
from bdfm_nnunet.plans.plans_lookup import CONFIGURATION, DEFAULT_PLANS, dataset_name, plans_path, raw_folder
from bdfm_nnunet.plans.plans_summary import describe_plans
from bdfm_nnunet.plans.preprocessing import copy_manifest, prepare_data, prepare_fingerprint
from bdfm_nnunet.plans.primus_planner import PrimusPlanner
from bdfm_nnunet.plans.resnet_planner import ResNet18UNetPlanner
from bdfm_nnunet.plans.swin_planner import SwinUNetPlanner

logger = logging.getLogger(__name__)

PLANNERS: dict[str, Callable[..., OurPlanner]] = {
    "swin": SwinUNetPlanner,
    "resenc": ResidualUNetPlanner,
    "plain": PlainUNetPlanner,
    "resnet18": ResNet18UNetPlanner,
    **{name: partial(PrimusPlanner, network=name) for name in PRIMUS_KINDS},
}


def plan_dataset(
    dataset_id: int,
    *,
    network: str | None = None,
    gpu_memory: float = 8.0,
    weights: str | Path | None = None,
    like: str | Path | None = None,
    spacing: str | Sequence[float] | None = None,
    plans_name: str = DEFAULT_PLANS,
    preprocess: bool = True,
    workers: int | None = None,
    configurations: Sequence[str] = (CONFIGURATION,),
    reading: Mapping[str, Any] | None = None,
) -> Path:
    """Extract the fingerprint of a data set in nnUNet_raw, plan a network for it and preprocess its images.

    What is up to date is not done again. Variants in a plans file of the same name are kept and follow the new plans.
    What nnU-Net prints goes to a log file beside the plans.

    Args:
        dataset_id: number of the data set.
        network: a name in `PLANNERS`; by default the network of `weights`, or "swin".
        gpu_memory: GB of GPU memory that training may take, as nnU-Net counts it.
        weights: a checkpoint whose network, patch size, spacing and normalisation the plans must match, and from which
            fine-tuning starts.
        like: a checkpoint whose axes, spacing, normalisation and patch size the plans take over for any network;
            nothing starts from it.
        spacing: with `like`, another spacing than the checkpoint's, see `read_likeness`.
        plans_name: name of the plans file.
        preprocess: whether to preprocess the images too.
        workers: processes that read and preprocess; by default one a core, at most 8.
        configurations: the configurations to preprocess.
        reading: what the file of `weights` cannot tell, see `ReadingSettings`; fine-tuning reads it so too.

    Returns:
        The plans file.

    Raises:
        InputError: an nnU-Net folder is not set, the data set is missing or faulty, the weights cannot be matched, or
            the memory is too little. An existing plans file is then left as it was.
    """
    _check_sources(weights, like, spacing, reading)
    path = plans_path(dataset_id, plans_name)
    raw_folder(dataset_id)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    _check_settings(network, gpu_memory, workers)
    source = read_pretrained_plans(weights, network, **(reading or {})) if weights is not None else None
    planner: Callable[..., OurPlanner] = PLANNERS[network or "swin"]
    if source is not None:
        planner = partial(MatchingPlanner, source=source)
    elif like is not None:
        planner = planner_like(planner, read_likeness(like, spacing))
    log = path.with_suffix(".log")
    logger.info("planning %s; what nnU-Net prints goes to %s", dataset_name(dataset_id), log)
    with output_to(log):
        prepare_fingerprint(dataset_id, workers=workers)
        copy_manifest(dataset_id)
        _plan(planner, dataset_name(dataset_id), float(gpu_memory), plans_name)
        for configuration in configurations if preprocess else ():
            prepare_data(dataset_id, plans_name, configuration, workers=workers)
    logger.info("%s", describe_plans(path))
    return path


def _check_settings(network: str | None, gpu_memory: float, workers: int) -> None:
    if network is not None and network not in PLANNERS:
        raise InputError(f"--network {network!r} does not exist: choose one of {', '.join(PLANNERS)}")
    if not gpu_memory > 0:
        raise InputError(f"--gpu-memory is {gpu_memory}, expected GB above 0")
    if workers < 1:
        raise InputError(f"--workers is {workers}, expected at least 1")


def _check_sources(weights: Any, like: Any, spacing: Any, reading: Any) -> None:
    if reading and weights is None:
        raise InputError(
            f"--{next(iter(reading)).replace('_', '-')} needs --weights CKPT: it says how to read that file"
        )
    if weights is not None and like is not None:
        raise InputError("--weights and --like were given: --weights matches the plans too, give one of them")
    if spacing is not None and like is None:
        raise InputError("--spacing needs --like CKPT: other plans have the spacing of the data set or of the weights")


def _plan(make: Callable[..., OurPlanner], name: str, gpu_memory: float, plans_name: str) -> None:
    try:
        planner = make(name, gpu_memory_target_in_gb=gpu_memory, plans_name=plans_name)
    except AssertionError:
        raise InputError(
            f"splits_final.json of {name} in nnUNet_raw disagrees with the one in nnUNet_preprocessed: "
            f"remove the one in nnUNet_preprocessed if the raw one is newer"
        ) from None
    try:
        planner.plan_experiment()
    except OSError as error:  # nnU-Net copies dataset.json beside the plans
        raise cannot_write(Path(error.filename or name), error) from error
