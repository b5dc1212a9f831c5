"""What `bdfm plan` is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PlanningRequest:
    """The checked arguments of `plan_dataset`, which explains them.

    Attributes:
        dataset_id: number of the data set.
        network: name of the network; None for the default one.
        gpu_memory: GB of GPU memory that training may take.
        weights: checkpoint whose network the plans get.
        like: checkpoint whose images or clips the plans get.
        spacing: with `like`, another spacing than the checkpoint's.
        plans_name: name of the plans file.
        preprocess: whether to prepare the data too.
        workers: processes or threads.
        configurations: the configurations of images to preprocess.
        reading: what the file of `weights` cannot tell.
    """

    dataset_id: int
    network: str | None
    gpu_memory: float
    weights: str | Path | None
    like: str | Path | None
    spacing: str | Sequence[float] | None
    plans_name: str
    preprocess: bool
    workers: int
    configurations: Sequence[str]
    reading: Mapping[str, Any]
