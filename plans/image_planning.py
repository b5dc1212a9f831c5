"""From a data set of images to a plans file and preprocessed data, with nnU-Net's planners and preprocessing."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write
from bdfm_nnunet.output_log import output_to
from bdfm_nnunet.plans.like_checkpoint import planner_like, read_likeness
from bdfm_nnunet.plans.matching import MatchingPlanner, read_pretrained_plans
from bdfm_nnunet.plans.network_names import PRIMUS_KINDS, RUN_NETWORKS
from bdfm_nnunet.plans.planners import OurPlanner, PlainUNetPlanner, ResidualUNetPlanner
from bdfm_nnunet.plans.plans_lookup import dataset_name, plans_path, raw_folder
from bdfm_nnunet.plans.prepared_files import copy_manifest
from bdfm_nnunet.plans.preprocessing import prepare_data, prepare_fingerprint
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


def plan_images(
    dataset_id: int,
    *,
    network: str | None,
    gpu_memory: float,
    weights: str | Path | None,
    like: str | Path | None,
    spacing: str | Sequence[float] | None,
    plans_name: str,
    preprocess: bool,
    workers: int,
    configurations: Sequence[str],
    reading: Mapping[str, Any] | None,
) -> Path:
    """Plan and preprocess a data set of images; see `plan_dataset`."""
    if network in RUN_NETWORKS:
        raise InputError(
            f"--network {network} reads 4-D runs, but {raw_folder(dataset_id)} holds 3-D images: choose one of "
            f"{', '.join(PLANNERS)}, or convert runs with `bdfm convert fmri-...`"
        )
    source = read_pretrained_plans(weights, network, **(reading or {})) if weights is not None else None
    planner: Callable[..., OurPlanner] = PLANNERS[network or "swin"]
    if source is not None:
        planner = partial(MatchingPlanner, source=source)
    elif like is not None:
        planner = planner_like(planner, read_likeness(like, spacing))
    path = plans_path(dataset_id, plans_name)
    log = path.with_suffix(".log")
    logger.info("planning %s; what nnU-Net prints goes to %s", dataset_name(dataset_id), log)
    with output_to(log):
        prepare_fingerprint(dataset_id, workers=workers)
        copy_manifest(dataset_id)
        _plan(planner, dataset_name(dataset_id), float(gpu_memory), plans_name)
        for configuration in configurations if preprocess else ():
            prepare_data(dataset_id, plans_name, configuration, workers=workers)
    return path


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
