"""From a data set of images to a plans file and preprocessed data, with nnU-Net's planners and preprocessing."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write
from bdfm_nnunet.output_log import output_to
from bdfm_nnunet.plans.like_checkpoint import planner_like
from bdfm_nnunet.plans.likeness import read_likeness
from bdfm_nnunet.plans.matching import MatchingPlanner
from bdfm_nnunet.plans.network_names import PRIMUS_KINDS, RUN_NETWORKS
from bdfm_nnunet.plans.planners import OurPlanner, PlainUNetPlanner, ResidualUNetPlanner
from bdfm_nnunet.plans.planning_request import PlanningRequest
from bdfm_nnunet.plans.plans_lookup import dataset_name, plans_path, raw_folder
from bdfm_nnunet.plans.prepared_files import copy_manifest
from bdfm_nnunet.plans.preprocessing import prepare_data, prepare_fingerprint
from bdfm_nnunet.plans.pretrained_plans import read_pretrained_plans
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


def plan_images(request: PlanningRequest) -> Path:
    """Plan and preprocess a data set of images; see `plan_dataset`."""
    dataset_id, name = request.dataset_id, request.plans_name
    planner = _planner(request)
    path = plans_path(dataset_id, name)
    log = path.with_suffix(".log")
    logger.info("planning %s; what nnU-Net prints goes to %s", dataset_name(dataset_id), log)
    with output_to(log):
        prepare_fingerprint(dataset_id, workers=request.workers)
        copy_manifest(dataset_id)
        _plan(planner, dataset_name(dataset_id), request.gpu_memory, name)
        for configuration in request.configurations if request.preprocess else ():
            prepare_data(dataset_id, name, configuration, workers=request.workers)
    return path


def _planner(request: PlanningRequest) -> Callable[..., OurPlanner]:
    """Return what makes the planner of the network that is asked for, or of a checkpoint.

    Raises:
        InputError: the network reads 4-D runs, or the checkpoint cannot be matched.
    """
    raw, network = raw_folder(request.dataset_id), request.network
    if network in RUN_NETWORKS:
        raise InputError(
            f"--network {network} reads 4-D runs, but {raw} holds 3-D images: choose one of {', '.join(PLANNERS)}, or "
            "convert runs with `bdfm convert fmri-...`"
        )
    if request.weights is not None:
        source = read_pretrained_plans(request.weights, network, **request.reading)
        if source.network in RUN_NETWORKS:
            raise InputError(
                f"{request.weights} is of a {source.network} network, which reads 4-D runs, but {raw} holds 3-D "
                "images: choose weights of a 3-D network"
            )
        return partial(MatchingPlanner, source=source)
    planner: Callable[..., OurPlanner] = PLANNERS[network or "swin"]
    return planner if request.like is None else planner_like(planner, read_likeness(request.like, request.spacing))


def _plan(make: Callable[..., OurPlanner], name: str, gpu_memory: float, plans_name: str) -> None:
    try:
        planner = make(name, gpu_memory_target_in_gb=gpu_memory, plans_name=plans_name)
    except AssertionError:
        raise InputError(
            f"splits_final.json of {name} in nnUNet_raw disagrees with the one in nnUNet_preprocessed: "
            f"remove the one in nnUNet_preprocessed if the raw one is newer",
            entry="splits-disagree",
        ) from None
    try:
        planner.plan_experiment()
    except OSError as error:  # nnU-Net copies dataset.json beside the plans
        raise cannot_write(Path(error.filename or name), error) from error
