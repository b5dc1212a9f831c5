"""The one door through which checkpoints come in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.hub_folder import weight_file, with_what_lies_beside
from bdfm_nnunet.checkpoints.last_training import named_checkpoint
from bdfm_nnunet.checkpoints.readers import Origin, Reader, ReadingSettings, Renamed, reader_of
from bdfm_nnunet.checkpoints.readers.families import shared_prefix, without_prefix
from bdfm_nnunet.checkpoints.readers.reader import Merging
from bdfm_nnunet.checkpoints.readers.renaming import without_wrappers
from bdfm_nnunet.checkpoints.readers.source_network import TokenOrder
from bdfm_nnunet.checkpoints.readers.weight_sets import chosen_set, named_tensors, weight_sets
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.checkpoints.soundness import fault_of_weights
from bdfm_nnunet.checkpoints.training_folder import checkpoint_of_training
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

        "nnunet" (ours are too), "bdfm_reference" (public BDFM code), "simclr_reference" (3D-Neuro-SimCLR),
        "neurostorm_reference" or "weights".
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


def read_checkpoint(
    path: str | Path,
    *,
    weight_set: str | None = None,
    merging: Merging | None = None,
    token_order: TokenOrder | None = None,
) -> Checkpoint:
    """Read the weights of a PyTorch or safetensors file and what it says about them.

    The first of `readers.READERS` that recognises the file reads it. Entries beside the weights that are not of the
    expected type count as missing. Nothing in the file is run.

    Args:
        path: a checkpoint of our trainers, of nnU-Net, nnssl, MONAI or another project with a reader, a file of named
            tensors, a folder of a model hub with one of them, or the folder of a training or of one of its folds in
            nnUNet_results; or `last:ID`, the last finished pre-training of a data set there.
        weight_set: which of several sets of weights in the file; see `ReadingSettings`.
        merging: order in which MONAI's Swin transformer merged tokens.
        token_order: order in which a Primus read its tokens.

    Raises:
        InputError: the file is no checkpoint, is damaged, or holds no weights that a network could use.
        ValueError: an order is unknown.

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
    settings = ReadingSettings(weight_set=weight_set, merging=merging, token_order=token_order)
    named, told = named_checkpoint(path)
    named, chosen = checkpoint_of_training(named)
    told, path = (*told, *chosen), weight_file(named)
    checkpoint = checkpoint_of(path, with_what_lies_beside(path, load_as_data(path)), settings)
    return replace(checkpoint, notes=(*told, *checkpoint.notes)) if told else checkpoint


def checkpoint_of(
    path: Path, content: Mapping[str, Any], settings: ReadingSettings | None = None, *, sound: bool = False
) -> Checkpoint:
    """Return the checkpoint in a file that was loaded already.

    Args:
        path: the file.
        content: from `load_as_data`.
        settings: what the file cannot tell.
        sound: whether its weights have been checked before, so that they are not looked at again.

    Raises:
        InputError: it holds no weights that a network could use.

    Example:
        >>> import torch
        >>> checkpoint_of(Path("a.pth"), {"state_dict": {"module.weight": torch.zeros(2)}}).weights
        {'weight': tensor([0., 0.])}
    """
    settings = settings or ReadingSettings()
    try:
        content, chosen = _with_one_set(content, settings.weight_set)
        reader = reader_of(content).configured(content, settings)
        weights = _checked(reader.tensors(content), path, sound=sound)
        origin = reader.origin(content)
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path} cannot be used as weights: {error}") from None
    said = vars(replace(origin, notes=(*chosen, *origin.notes)))
    return Checkpoint(path=path.resolve(), weights=weights, reader=reader, **said)


def checkpoint_in_memory(content: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint in weights in memory, in a usual container or bare, checked like those of a file.

    Raises:
        InputError: they are no weights that a network could use.

    Example:
        >>> import torch
        >>> checkpoint_in_memory({"state_dict": {"weight": torch.ones(2, requires_grad=True)}}).weights
        {'weight': tensor([1., 1.])}
    """
    found = {name: tensor.detach() for name, tensor in named_tensors(content).items()}
    tensors = {name: tensor if tensor.is_meta else tensor.cpu() for name, tensor in found.items()}
    return checkpoint_of(Path("the given state dict"), tensors)


def _checked(weights: Mapping[str, Tensor], path: Path, *, sound: bool) -> dict[str, Tensor]:
    """Return sound weights without the prefixes of wrappers."""
    if not weights:
        raise InputError(f"{path} holds no named tensors: give a checkpoint with the weights of a network")
    if not sound and (fault := fault_of_weights(weights)):
        raise InputError(f"{path} cannot be used as weights: {fault}; give another checkpoint, or save it anew")
    unwrapped = {without_wrappers(name): value.detach() for name, value in weights.items()}
    if len(unwrapped) < len(weights):
        raise InputError(f"{path} holds the same weights with and without prefixes: give a checkpoint of one network")
    return unwrapped


def _with_one_set(content: Mapping[str, Any], name: str | None) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Return the content with the chosen set of weights alone, without prefixes, and sentences about the choice."""
    chosen, told = chosen_set(content, name)
    prefix = shared_prefix(chosen.tensors)
    if not prefix and not told:
        return content, ()
    others = {each.name.partition(".")[0] for each in weight_sets(content) if each.name}
    beside = {key: value for key, value in content.items() if key not in others and not isinstance(value, Tensor)}
    weights = {without_prefix(key, prefix): value for key, value in chosen.tensors.items()}
    if len(weights) < len(chosen.tensors):
        return content, told
    return beside | {"network_weights" if "network_weights" in content else "state_dict": weights}, told
