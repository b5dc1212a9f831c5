"""Files of every project with parts missing or of odd shapes are read, or refused in a sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.primus import Primus
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import ResNet18
from tests.checkpoints.monai_swin import MonaiSwin
from tests.networks.zoo import network

ODD = (torch.ones(()), torch.ones(0), torch.ones(3), torch.ones(2, 0), torch.ones(1, 5, 7), torch.ones(2, 1, 0, 2, 2))


def _primus() -> dict[str, Any]:
    sizes: dict[str, Any] = {"embed_dim": 24, "eva_depth": 1, "eva_numheads": 2, "num_register_tokens": 1}
    primus = Primus(1, patch_embed_size=(4, 4, 4), num_classes=1, input_shape=(8, 8, 8), **sizes)
    entry = {"architecture_plans": {"arch_class_name": "PrimusX", "arch_kwargs": {"eva_numheads": 2}},
             "pretrain_plan": {"configurations": {"a": {"patch_size": [8, 8, 8], "spacing": [1, 1, 1]}}}}  # fmt: skip
    return {"network_weights": primus.state_dict(), "nnssl_adaptation_plan": entry}


def _files() -> dict[str, dict[str, Any]]:
    torch.manual_seed(1)
    swin = MonaiSwin(1, features=12, depths=(1, 1), heads=(3, 2), window=2, order="monai-1.4")
    entry = {"architecture_plans": {"arch_class_name": "ResEncL"}}
    return {
        "monai": {"state_dict": swin.state_dict()},
        "primus": _primus(),
        "nnssl": {"network_weights": network("resenc", 1).state_dict(), "nnssl_adaptation_plan": entry},
        "simclr": {f"encoder.{name}": value for name, value in ResNet18(1, features=(4, 4, 4, 4)).state_dict().items()},
    }


def _spoilt(content: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """Some names dropped, added or with tensors of odd shapes."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found[key] = _spoilt(value, random)
        elif not isinstance(value, Tensor) or random.random() > 0.2:
            found[key] = value
        elif random.random() < 0.7:
            found[key] = ODD[random.integers(len(ODD))]
    return found


@pytest.mark.parametrize("project", ["monai", "primus", "nnssl", "simclr"])
def test_they_are_read_or_refused(tmp_path: Path, project: str) -> None:
    random, content, target = np.random.default_rng(5), _files()[project], network("resenc", 1)
    refused = 0
    for number in range(12):
        torch.save(_spoilt(content, random), tmp_path / "a.pth")
        try:
            assert read_checkpoint(tmp_path / "a.pth").renamed
            if number % 5 == 0:
                load_pretrained(target, tmp_path / "a.pth")
        except InputError as error:
            refused += 1
            assert str(tmp_path / "a.pth") in str(error) and "\n" not in str(error)
    assert refused > 0
