"""Networks built from a configuration of the plans, as nnU-Net builds them but without importing nnU-Net.

nnU-Net takes ten seconds to import and calls whatever the plans name.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.networks.network_classes import check_network_classes, find_class
from bdfm_nnunet.old_plans import architecture_of


def build_network(
    configuration: Mapping[str, Any],
    *,
    inputs: int,
    outputs: int,
    deep_supervision: bool,
    initialise: bool = True,
    name: str = "the plans file",
) -> nn.Module:
    """Build the network of a configuration.

    Args:
        configuration: configuration with everything that it inherits; the format of nnU-Net's first plans works too.
        inputs: channels of the images.
        outputs: channels of the output.
        deep_supervision: whether the network returns outputs at several resolutions, as in training.
        initialise: whether the network initialises its weights by its rule.
        name: name of the plans in messages.

    Raises:
        InputError: the plans name a class that is not a network, its settings are wrong, or this machine's memory
            cannot hold it.
    """
    architecture = architecture_of(configuration, name)
    check_network_classes({**configuration, "architecture": architecture}, name)
    settings = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if settings[key] is not None:
            settings[key] = find_class(settings[key], key, name)
    kind = find_class(architecture["network_class_name"], "network_class_name", name)
    settings |= {"input_channels": inputs, "num_classes": outputs, "deep_supervision": deep_supervision}
    if torch.get_default_device().type != "meta":
        _check_memory(kind, settings, name)
    network = _made(kind, settings, name)
    fill: Any = getattr(network, "initialize", None)
    if initialise and fill is not None:
        network.apply(fill)
    return network


def _made(kind: type[nn.Module], settings: Mapping[str, Any], name: str) -> nn.Module:
    try:
        return kind(**settings)
    except Exception as error:  # a class that gets settings of another one fails in any way
        if isinstance(error, RuntimeError) and torch.get_default_device().type == "meta":
            raise  # its constructor reads values, which tensors without content do not have
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name} describes a {kind.__name__} that cannot be built ({reason}): correct its arch_kwargs, or plan "
            "with `bdfm plan`"
        ) from error


def _check_memory(kind: type[nn.Module], settings: Mapping[str, Any], name: str) -> None:
    """Refuse a network that is too large, by building it on the meta device, which takes no memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            network = _made(kind, settings, name)
        except RuntimeError:
            return
    needed = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if needed > memory_bytes():
        raise InputError(
            f"{name} describes a {kind.__name__} of {needed / 2**30:.0f} GB, more than this machine has memory: check "
            "its features_per_stage"
        )
