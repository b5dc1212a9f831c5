"""Checkpoints of small untrained networks as our trainers write them, with plans that describe the network."""

from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.checkpoints.adaptation_plan import adaptation_plan
from bdfm_nnunet.checkpoints.citations import citations_of
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from tests.networks import zoo
from tests.test_nnunet_files import DATASET, PLANS, SETTINGS

CHANNELS = {"0": "T1", "1": "T2"}
CASES = {"case": ["p1", "p2"], "patient": ["p1", "p2"], "release": ["upenn-gbm"] * 2, "aliases": [[], []],
         "sha256": [[], []]}  # fmt: skip
RUN = {"dataset": "Dataset501_A", "note": "", "trainer": "nnUNetTrainerSimMIM", "train": CASES,
       "val": {name: values[:1] for name, values in CASES.items()},
       "releases": {"upenn-gbm": {"licence": "CC BY 4.0", "overlaps": ["brats2021"]}}}  # fmt: skip


def architecture(kind: str) -> dict[str, Any]:
    """The plans' entry for a network of the zoo."""
    network = type(zoo.network(kind, 1))
    found = {"swin": zoo._SWIN, "resnet18": zoo._RESNET18, "primus": zoo._PRIMUS}.get(kind)
    if found is None:
        blocks = "n_blocks_per_stage" if kind == "resenc" else "n_conv_per_stage"
        found = zoo._CONV | {blocks: [1, 1, 2, 2] if kind == "resenc" else [2, 2, 2, 2]}
    named = {key: f"{value.__module__}.{value.__name__}" for key, value in found.items() if isinstance(value, type)}
    return {
        "network_class_name": f"{network.__module__}.{network.__name__}",
        "arch_kwargs": found | named,
        "_kw_requires_import": list(named),
    }


def plans_of(kind: str, channels: int = 2, **changes: Any) -> dict[str, Any]:
    """Plans whose 3d_fullres is that network."""
    settings = SETTINGS | {
        "architecture": architecture(kind), "patch_size": [32, 32, 32], "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"] * channels, "use_mask_for_norm": [False] * channels, **changes,
    }  # fmt: skip
    return PLANS | {"configurations": {"3d_fullres": settings}}


def pretrained(path: Path, kind: str = "swin", *, exposure: Any = RUN, **changes: Any) -> dict[str, Any]:
    """Write a checkpoint of a pre-training; its content."""
    plans = plans_of(kind, finetuning={"weights": "/home/me/a.pth", "weights_sha256": "0" * 64})
    settings = plans["configurations"]["3d_fullres"]
    torch.manual_seed(1)
    network = build_network(settings, inputs=1, outputs=2, deep_supervision=False)
    weights = MaskedImageModelling(encoder_of(network)).state_dict()
    content = {
        "network_weights": weights,
        "optimizer_state": {"state": {0: {"exp_avg": torch.zeros(3)}}},
        "current_epoch": 7,
        "trainer_name": "nnUNetTrainerSimMIM",
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu"),
                      "dataset_json": DATASET | {"dataset": {"p1": {"images": ["/home/me/p1.nii.gz"]}}}},
        "inference_allowed_mirroring_axes": None,
        "nnssl_adaptation_plan": adaptation_plan(plans, settings, network=network, weights=weights, channels=1),
        "citations": citations_of(["simmim"], type(network).__name__),
    }  # fmt: skip
    if exposure is not None:
        content["bdfm_exposure"] = {"format": 1, "runs": [exposure]}
    torch.save(content | changes, path)
    return content | changes
