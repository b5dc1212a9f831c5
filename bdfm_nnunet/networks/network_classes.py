"""Check of the classes that plans name, before nnU-Net locates and calls them: no plans file can run other code."""

import importlib
import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from bdfm_nnunet.errors import InputError

ALLOWED = ("torch.nn.", "dynamic_network_architectures.", "bdfm_nnunet.networks.")
MOST_BLOCKS, MOST_FEATURES, MOST_SIDE = 1000, 65_536, 4096


def check_network_classes(configuration: Mapping[str, Any], name: str) -> None:
    """Check the class names and sizes of a configuration's architecture.

    nnU-Net calls whatever `pydoc.locate` finds under these names. Here each name must be a class of networks or layers
    that can be imported from PyTorch's layers, dynamic-network-architectures or this package.

    Args:
        configuration: configuration with everything that it inherits; those of nnU-Net's first plans, which have no
            "architecture", pass.
        name: name of the plans in messages.

    Raises:
        InputError: a name is something else, or a size is far too large.
    """
    architecture = configuration.get("architecture")
    if architecture is None:
        return
    kwargs = architecture["arch_kwargs"]
    find_class(architecture["network_class_name"], "network_class_name", name)
    for key in architecture["_kw_requires_import"]:
        if key not in kwargs:
            raise _refused(name, f"_kw_requires_import names {key!r}, which arch_kwargs does not have")
        if kwargs[key] is not None:
            find_class(kwargs[key], key, name)
    _check_sizes(kwargs, name)


def find_class(path: Any, what: str, name: str) -> type[nn.Module]:
    """Return the network or layer that plans name.

    Args:
        path: full name of a class.
        what: entry of the plans that names it, for messages.
        name: name of the plans in messages.

    Raises:
        InputError: the name is something else.
    """
    good = isinstance(path, str) and path.startswith(ALLOWED) and all(part.isidentifier() for part in path.split("."))
    if not good:
        raise _refused(name, f"{what} is {path!r}, expected a class of {', '.join(each[:-1] for each in ALLOWED)}")
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        raise _refused(name, f"{what} is {path!r}, which does not exist in the installed version") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module) and f"{found.__module__}.".startswith(ALLOWED)):
        raise _refused(name, f"{what} is {path!r}, which is no network or layer")
    return found


def _check_sizes(kwargs: Mapping[str, Any], name: str) -> None:
    blocks = ("n_stages", "n_blocks_per_stage", "n_conv_per_stage", "n_conv_per_stage_decoder", "depths", "eva_depth")
    limits = {
        **dict.fromkeys(blocks, MOST_BLOCKS),
        **dict.fromkeys(
            ("features_per_stage", "decoder_features", "num_heads", "embed_dim", "eva_numheads"), MOST_FEATURES
        ),
        **dict.fromkeys(("window_size", "kernel_sizes", "strides", "input_shape"), MOST_SIDE),
    }
    for key, most in limits.items():
        for value in _numbers(kwargs.get(key)):
            if not (isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most):
                raise _refused(name, f"arch_kwargs.{key} holds {value!r}, expected whole numbers of 1 to {most}")
    windows = [math.prod(_numbers(kwargs.get("window_size")))] if kwargs.get("window_size") else []
    if any(tokens > MOST_SIDE for tokens in windows):
        raise _refused(name, f"arch_kwargs.window_size is {kwargs['window_size']!r}, at most {MOST_SIDE} tokens")


def _numbers(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in _numbers(item)]
    return [] if value is None else [value]


def _refused(name: str, fault: str) -> InputError:
    return InputError(
        f"{name} describes a network that is not built ({fault}): correct the plans, or plan with `bdfm plan`"
    )
