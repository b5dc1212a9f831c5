"""Checks before a training begins: what it is given, and that all processes have the same."""

import hashlib
import inspect
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import bdfm_nnunet
from bdfm_nnunet.networks.network_classes import check_network_classes
from bdfm_nnunet.nnunet_files import check_dataset, check_plans, refuse_cascade, resolve_configuration
from bdfm_nnunet.settings import WEIGHTS_VARIABLE


def check_plans_and_dataset(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> None:
    """Raise InputError unless plans and dataset.json can be used; nothing that they name is located before."""
    name = "the plans file"
    check_plans(plans, name)
    resolved = resolve_configuration(plans, configuration)
    check_network_classes(resolved, name)
    refuse_cascade(resolved, f"configuration {configuration}")
    check_dataset(dataset_json, "dataset.json beside the plans")


def digest(content: Any) -> str:
    """Return a short value that differs where the content, as JSON, does."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def code_digest(trainer: type) -> str:
    """Return the digest of this package's modules, those beside a trainer, and the versions of what they stand on."""
    folders = {*map(Path, bdfm_nnunet.__path__), Path(inspect.getfile(trainer)).parent}
    files = sorted({path for folder in folders for path in folder.rglob("*.py")}, key=lambda path: path.name)
    sources = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return digest([sources, torch.__version__, version("nnunetv2")])


def agree_on_arguments(trainer: Any) -> None:
    """Raise InputError on all processes unless they have the same plans, arguments, weights and code."""
    if trainer.processes.count == 1:
        return
    trainer.processes.agree(
        {
            "plans": digest(trainer.plans_manager.plans),
            "contents of dataset.json": digest(trainer.dataset_json),
            "arguments": f"{type(trainer).__name__} {trainer.configuration_name} {trainer.fold} {trainer.device.type}",
            f"weights ({WEIGHTS_VARIABLE})": os.environ.get(WEIGHTS_VARIABLE, ""),
            "versions of the code": code_digest(type(trainer)),
        }
    )


def agree_on_data(trainer: Any) -> None:
    """Raise InputError on all processes unless they have the same preprocessed files and splits."""
    if trainer.local_rank == 0:
        trainer.do_split()  # writes the split of a data set that has none
    trainer.processes.wait()
    with os.scandir(trainer.preprocessed_dataset_folder) as entries:
        files = sorted((entry.name, entry.stat().st_size) for entry in entries)
    split = [sorted(map(str, part)) for part in trainer.do_split()]
    trainer.processes.agree({"preprocessed data": digest(files), "splits": digest(split)})
