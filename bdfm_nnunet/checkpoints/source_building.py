"""The network that a checkpoint's weights come from, built from what its file says."""

from typing import Any

import torch
from torch import nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.network_building import architecture_of, build_network
from bdfm_nnunet.nnunet_files import resolve_configuration

_PLANS = {"configurations": {str: {"inherits_from?": str}}}
_ARCHITECTURE = {"network_class_name": str, "arch_kwargs": {str: object}, "_kw_requires_import": [str]}


def build_source(checkpoint: Checkpoint, *, device: str = "cpu") -> nn.Module | None:
    """Build the network that the plans in a checkpoint describe, without its weights.

    Args:
        checkpoint: the file.
        device: "meta" builds the modules alone, without memory for the weights.

    Returns:
        The network; None where the file has no plans that a network can be built from.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
        >>> build_source(checkpoint_of(Path("a.pth"), {"weight": torch.zeros(2)})) is None
        True
    """
    name = f"the plans in {checkpoint.path}"
    try:
        configuration = _configuration(checkpoint)
        with torch.device(device):
            network = build_network(
                configuration,
                inputs=_inputs(checkpoint),
                outputs=_outputs(checkpoint),
                deep_supervision=False,
                initialise=False,
                name=name,
            )
        encoder_of(network)
    except (InputError, ValueError, RuntimeError):  # RuntimeError: a constructor reads values, and there are none
        return None
    return network


def _configuration(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a configuration with the architecture that a file names; the rest of its plans may be odd."""
    if checkpoint.configuration is None or fault_of(checkpoint.plans, _PLANS):
        raise InputError("no plans")
    configuration = resolve_configuration(checkpoint.plans or {}, checkpoint.configuration)
    if fault := fault_of(configuration, {"architecture?": _ARCHITECTURE}):
        raise InputError(fault)
    return {"architecture": architecture_of(configuration)}


def _inputs(checkpoint: Checkpoint) -> int:
    """Return the channels of the images: of the first kernel, since what all others read is wider."""
    kernels = (tensor for tensor in checkpoint.renamed.weights.values() if tensor.ndim > 3)
    return min((kernel.shape[1] for kernel in kernels), default=1)


def _outputs(checkpoint: Checkpoint) -> int:
    heads = (tensor for name, tensor in checkpoint.renamed.weights.items() if ".seg_layers." in name)
    return next((len(head) for head in heads), 2)
