"""The network that a checkpoint's weights come from, built from what its file says."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.mamba_stages import add_prompts_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_classes import ALLOWED


def build_source(checkpoint: Checkpoint, *, device: str = "cpu", initialise: bool = False) -> nn.Module | None:
    """Build the network that a checkpoint describes, without its weights.

    Args:
        checkpoint: the file.
        device: "meta" builds the modules alone, without memory for the weights.
        initialise: draw the weights by the network's rule, from torch's global generator, as for a training without
            pre-training.

    Returns:
        The network; None where the file does not describe one that can be built and has an encoder.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
        >>> build_source(checkpoint_of(Path("a.pth"), {"weight": torch.zeros(2)})) is None
        True
    """
    said = checkpoint.source_network
    if said.class_name is None or said.arch_kwargs is None:
        return None
    kwargs = dict(said.arch_kwargs)
    classes = [key for key, value in kwargs.items() if isinstance(value, str) and value.startswith(ALLOWED)]
    architecture = {"network_class_name": said.class_name, "arch_kwargs": kwargs, "_kw_requires_import": classes}
    inputs, outputs, name = _inputs(checkpoint), _outputs(checkpoint), f"the network in {checkpoint.path}"
    known: dict[str, Any] = {"inputs": inputs, "outputs": outputs, "deep_supervision": False, "initialise": initialise}
    try:
        with nullcontext() if initialise else torch.random.fork_rng(devices=[]), torch.device(device):
            network = build_network({"architecture": architecture}, **known, name=name)
        encoder_of(network)
        add_prompts_of(network, needed_weights(checkpoint))
    except (InputError, ValueError, RuntimeError):  # RuntimeError: a constructor reads values, and there are none
        return None
    return network


def needed_weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the weights by our names without those that a network may lack without loss.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
        >>> list(needed_weights(checkpoint_of(Path("a.pth"), {"weight": torch.zeros(2)})))
        ['weight']
    """
    renamed = checkpoint.renamed
    return {name: tensor for name, tensor in renamed.weights.items() if name not in renamed.optional}


def _inputs(checkpoint: Checkpoint) -> int:
    """Return the channels of the images: of the first kernel, since what all others read is wider."""
    kernels = (tensor.shape[1] for tensor in checkpoint.renamed.weights.values() if tensor.ndim > 3)
    return checkpoint.source_network.input_channels or max(min(kernels, default=1), 1)


def _outputs(checkpoint: Checkpoint) -> int:
    heads = (tensor for name, tensor in checkpoint.renamed.weights.items() if ".seg_layers." in name)
    return next((len(head) for head in heads if head.ndim), 2)
