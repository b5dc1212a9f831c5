"""nnU-Net's own loading of checkpoints, which would run code from a file, led through ours."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, checkpoint_of
from bdfm_nnunet.checkpoints.safe_loading import any_data, torch_load
from bdfm_nnunet.errors import InputError

_loaded: list[Checkpoint] = []


def checkpoints_loaded() -> list[Checkpoint]:
    """Return the checkpoints that nnU-Net has loaded this way in this process, without weights, the latest last.

    Example:
        >>> torch.save({"network_weights": {"weight": torch.zeros(2)}, "trainer_name": "nnUNetTrainer"}, "a.pth")
        >>> with loading_as_data():
        ...     content = torch.load("a.pth", weights_only=False)
        >>> checkpoints_loaded()[-1].trainer
        'nnUNetTrainer'
    """
    return list(_loaded)


def close_other_doors() -> None:
    """Let nnU-Net load checkpoints as data alone from now on in this process; see `loading_as_data`.

    Example:
        >>> before, torch.load = torch.load, torch.serialization.load
        >>> close_other_doors()
        >>> torch.load is torch.serialization.load
        False
        >>> torch.load = before
    """
    torch.load = _load_as_data_instead


@contextmanager
def loading_as_data() -> Iterator[None]:
    """Let nnU-Net load checkpoints as data alone inside this context, by `load_as_data`.

    nnU-Net calls `torch.load(path, weights_only=False)` in its predictor, for `-pretrained_weights` and to continue a
    training, which runs whatever code the file holds. Here such calls give the same content, on the CPU, or raise an
    InputError; weights that are no finite real numbers are refused too. Calls with weights_only=True, or with an open
    file, are left as they are.

    Example:
        >>> torch.save({"network_weights": {"weight": torch.zeros(2)}}, "checkpoint_final.pth")
        >>> with loading_as_data():
        ...     content = torch.load("checkpoint_final.pth", map_location="cuda", weights_only=False)
        >>> content["network_weights"]["weight"].device
        device(type='cpu')
    """
    before = torch.load
    close_other_doors()
    try:
        yield
    finally:
        torch.load = before


def _load_as_data_instead(f: Any, *arguments: Any, weights_only: bool | None = None, **options: Any) -> Any:
    """Stands for `torch.load`."""
    if weights_only is not False or not isinstance(f, (str, os.PathLike)):
        return torch_load(f, *arguments, weights_only=weights_only, **options)
    content = any_data(Path(f))
    if not isinstance(content, Mapping):  # no checkpoint, and somebody else's business
        return content
    if "network_weights" not in content:
        raise InputError(f"{f} is no checkpoint of nnU-Net (it has no entry network_weights): see `bdfm weights`")
    checkpoint = checkpoint_of(Path(f), content)
    _loaded.append(replace(checkpoint, weights={}))
    return content
