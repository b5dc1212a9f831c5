"""The one door through which checkpoints come in."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers import Origin, Reader, Renamed, reader_of
from bdfm_nnunet.checkpoints.readers.renaming import without_wrappers
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.checkpoints.soundness import fault_of_weights
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Origin):
    """The weights of a file and what it says about where they come from (see `Origin`).

    Attributes:
        path: the file.
        weights: parameters and buffers by the file's names, without the prefixes of DDP and torch.compile; real, finite
            and dense.
        reader: the reader that recognised the file.

    Example:
        >>> import torch
        >>> torch.save({"layers.0.blocks.0.attn.qkv.weight": torch.ones(3, 1)}, "swin.pth")
        >>> checkpoint = read_checkpoint("swin.pth")
        >>> checkpoint.kind, list(checkpoint.renamed.weights)
        ('weights', ['encoder.stages.0.blocks.0.attn.qkv.weight'])
    """

    path: Path
    weights: dict[str, Tensor]
    reader: Reader

    @property
    def kind(self) -> str:
        """Project that wrote it.

        "nnunet" (ours are too), "bdfm_reference" (public BDFM code), "simclr_reference" (3D-Neuro-SimCLR) or "weights".
        """
        return self.reader.kind

    @cached_property
    def sha256(self) -> str:
        """Digest of the file, 64 hexadecimal digits."""
        return sha256_of(self.path)

    @cached_property
    def renamed(self) -> Renamed:
        """The weights under our names and in our axis order, and the names that were dropped on purpose.

        Raises:
            InputError: the reader cannot translate them.
        """
        try:
            return self.reader.rename(self.weights)
        except InputError as error:
            raise InputError(f"{self.path} cannot be used as weights: {error}") from error


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weights of a PyTorch or safetensors file and what it says about them.

    The first of `readers.READERS` that recognises the file reads it. Entries beside the weights that are not of the
    expected type count as missing. Nothing in the file is run.

    Args:
        path: a checkpoint of our trainers, of nnU-Net, of the public BDFM code, or a file of named tensors.

    Raises:
        InputError: the file is no checkpoint, is damaged, or holds no weights that a network could use.

    Example:
        >>> import torch
        >>> content = {"network_weights": {"module.encoder.weight": torch.ones(2, 3)}, "trainer_name": "nnUNetTrainer"}
        >>> torch.save(content, "checkpoint_final.pth")
        >>> checkpoint = read_checkpoint("checkpoint_final.pth")
        >>> checkpoint.kind, checkpoint.trainer
        ('nnunet', 'nnUNetTrainer')
        >>> {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
        {'encoder.weight': (2, 3)}
        >>> checkpoint.plans is None  # the file holds none
        True
    """
    path = Path(path)
    return checkpoint_of(path, load_as_data(path))


def checkpoint_of(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint in a file that was loaded already.

    Args:
        path: the file.
        content: from `load_as_data`.

    Raises:
        InputError: it holds no weights that a network could use.

    Example:
        >>> import torch
        >>> checkpoint_of(Path("a.pth"), {"state_dict": {"module.weight": torch.zeros(2)}}).weights
        {'weight': tensor([0., 0.])}
    """
    reader = reader_of(content)
    weights = reader.tensors(content)
    if not weights:
        raise InputError(f"{path} holds no named tensors: give a checkpoint with the weights of a network")
    if fault := fault_of_weights(weights):
        raise InputError(f"{path} cannot be used as weights: {fault}; give another checkpoint, or save it anew")
    unwrapped = {without_wrappers(name): value.detach() for name, value in weights.items()}
    if len(unwrapped) < len(weights):
        raise InputError(f"{path} holds the same weights with and without prefixes: give a checkpoint of one network")
    return Checkpoint(path=path.resolve(), weights=unwrapped, reader=reader, **vars(reader.origin(content)))
