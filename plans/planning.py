"""From a data set number to a plans file and preprocessed data: of 3-D images, or of 4-D runs.

Each way is imported when it is taken: that of images imports nnU-Net, which takes many seconds.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans.network_names import NETWORKS
from bdfm_nnunet.plans.planning_request import PlanningRequest
from bdfm_nnunet.plans.plans_lookup import CONFIGURATION, DEFAULT_PLANS, plans_path, raw_folder
from bdfm_nnunet.plans.plans_summary import describe_plans
from bdfm_nnunet.plans.run_fingerprint import holds_runs

logger = logging.getLogger(__name__)


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
    What nnU-Net prints goes to a log file beside the plans. Data sets of 4-D runs get the configuration `4d`, and their
    runs, which are standard scores already, are placed beside the plans as they are.

    Args:
        dataset_id: number of the data set.
        network: a name in `NETWORKS`; by default the network of `weights`, "swin" for images or "neurostorm" for runs.
        gpu_memory: GB of GPU memory that training may take, as nnU-Net counts it.
        weights: a checkpoint whose network, patch size, spacing and normalisation the plans must match, and from which
            fine-tuning starts.
        like: a checkpoint whose axes, spacing, normalisation and patch size the plans take over for any network;
            nothing starts from it.
        spacing: with `like`, another spacing than the checkpoint's, see `read_likeness`.
        plans_name: name of the plans file.
        preprocess: whether to preprocess the images too.
        workers: processes that read and preprocess; by default one a core, at most 8.
        configurations: the configurations of images to preprocess.
        reading: what the file of `weights` cannot tell, see `ReadingSettings`; fine-tuning reads it so too.

    Returns:
        The plans file.

    Raises:
        InputError: an nnU-Net folder is not set, the data set is missing or faulty, the weights cannot be matched, or
            the memory is too little. An existing plans file is then left as it was.
    """
    _check_sources(weights, like, spacing, reading)
    plans_path(dataset_id, plans_name)
    raw = raw_folder(dataset_id)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    _check_settings(network, gpu_memory, workers)
    request = PlanningRequest(
        dataset_id=dataset_id, network=network, gpu_memory=float(gpu_memory), weights=weights, like=like,
        spacing=spacing, plans_name=plans_name, preprocess=preprocess, workers=workers, configurations=configurations,
        reading=reading or {},
    )  # fmt: skip
    path = _planned(request, holds_runs(raw))
    logger.info("%s", describe_plans(path))
    return path


def _planned(request: PlanningRequest, of_runs: bool) -> Path:
    if of_runs:
        from bdfm_nnunet.plans.run_planning import plan_runs

        return plan_runs(request)
    from bdfm_nnunet.plans.image_planning import plan_images

    return plan_images(request)


def _check_settings(network: str | None, gpu_memory: float, workers: int) -> None:
    if network is not None and network not in NETWORKS:
        raise InputError(f"--network {network!r} does not exist: choose one of {', '.join(NETWORKS)}")
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
