"""What a network computes beside its tensors: norms, activations, heads, strides."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules import activation, batchnorm, instancenorm, pooling
from torch.nn.modules.conv import _ConvNd

_SLOPES = ("negative_slope", "approximate", "alpha", "beta", "threshold")
_GRID = ("stride", "dilation")
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


@dataclass(frozen=True)
class Difference:
    """One property that a checkpoint's network has otherwise.

    Attributes:
        what: the property.
        theirs: in the checkpoint.
        ours: in the network.
        names: modules in which it differs.
        grave: whether the weights would compute something else altogether; otherwise it is a matter of degree.

    Example:
        >>> print(Difference("norm", "batch norm", "instance norm", ("encoder.norm",), grave=True))
        norm is batch norm in the checkpoint, instance norm here (encoder.norm)
    """

    what: str
    theirs: str
    ours: str
    names: tuple[str, ...]
    grave: bool

    def __str__(self) -> str:
        more = f" and {len(self.names) - 1} more" if len(self.names) > 1 else ""
        where = f" ({self.names[0]}{more})" if self.names else ""
        return f"{self.what} is {self.theirs} in the checkpoint, {self.ours} here{where}"


def function_of(module: nn.Module) -> dict[str, Any]:
    """Return what a module computes beside its tensors; empty where the tensors tell all.

    Example:
        >>> function_of(nn.LeakyReLU(0.01))
        {'activation': 'LeakyReLU(negative_slope=0.01)'}
        >>> function_of(nn.InstanceNorm3d(4))
        {'norm': 'instance norm', 'eps': 1e-05}
        >>> function_of(nn.Conv2d(4, 8, 3, stride=2))
        {'axes': 2, 'groups': 1, 'stride': (2, 2), 'dilation': (1, 1)}
    """
    if (norm := norm_of(module)) is not None:
        return {"norm": norm, "eps": getattr(module, "eps", None)}
    if isinstance(module, _ConvNd):
        grid = {name: tuple(getattr(module, name)) for name in _GRID}
        return {"axes": len(module.kernel_size), "groups": module.groups, **grid}
    if type(module).__module__ == activation.__name__ and not [*module.children()]:
        slopes = [f"{name}={getattr(module, name)}" for name in _SLOPES if hasattr(module, name)]
        return {"activation": f"{type(module).__name__}({', '.join(slopes)})" if slopes else type(module).__name__}
    if type(module).__module__ == pooling.__name__:
        sizes = {name: getattr(module, name, None) for name in ("kernel_size", "stride")}
        return {"pooling": type(module).__name__.rstrip("d123"), **sizes}
    return _of_attention(module)


def _of_attention(module: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(heads := getattr(module, "num_heads", None), int):
        found["heads"] = heads
    for name, what in (("shifted", "shift of windows"), ("legacy", "legacy attention"), ("merging_order", "merging")):
        if isinstance(value := getattr(module, name, None), (bool, str)):
            found[what] = value
    return found | _of_scan(module)


def _of_scan(module: nn.Module) -> dict[str, Any]:
    """Return the windows that a block scans, and what positions in time stand for."""
    if isinstance(getattr(module, "mamba", None), nn.Module):
        return {"scanned windows": getattr(module, "window_size", None)}
    if (rows := getattr(module, "table_seconds", None)) is None:
        return {}
    frames = getattr(module, "frame_seconds", None)
    return {
        "positions in time": "counted in frames" if frames is None else f"read every {frames} s of rows for {rows} s"
    }


def norm_of(module: nn.Module) -> str | None:
    """Return the kind of a norm layer, None for other modules.

    Example:
        >>> norm_of(nn.BatchNorm3d(4)), norm_of(nn.LayerNorm(4)), norm_of(nn.Linear(4, 4))
        ('batch norm', 'layer norm', None)
    """
    if isinstance(module, instancenorm._InstanceNorm):
        return "instance norm"
    if isinstance(module, batchnorm._BatchNorm):
        return "batch norm"
    if isinstance(module, nn.GroupNorm):
        return f"group norm of {module.num_groups} groups"
    name = type(module).__name__.lower()
    return next((f"{kind} norm" for kind in ("layer", "rms") if f"{kind}norm" in name), None)


DEGREES = {"eps", "stride", "legacy attention", "kernel_size", "scanned windows", "positions in time"}
"""Properties whose difference changes features by a degree."""


def differences(theirs: Mapping[str, nn.Module], ours: Mapping[str, nn.Module]) -> list[Difference]:
    """Return what modules of the same names compute otherwise.

    Args:
        theirs: modules of the checkpoint's network by name.
        ours: modules of the network by the same names; those of one side alone are passed over.

    Example:
        >>> print(*differences({"act": nn.ReLU()}, {"act": nn.GELU()}))
        activation is ReLU in the checkpoint, GELU(approximate=none) here (act)
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, module in ours.items():
        if name not in theirs:
            continue
        here, there = function_of(module), function_of(theirs[name])
        if here.keys() != there.keys():  # a norm where the other has an activation, say
            here, there = {"layer": _plain(here)}, {"layer": _plain(there)}
        for what in here:
            if here[what] != there[what]:
                found.setdefault((what, str(there[what]), str(here[what])), []).append(name)
    return [Difference(*key, tuple(names), grave=key[0] not in DEGREES) for key, names in found.items()]


def _plain(function: Mapping[str, Any]) -> str:
    return next(
        (str(value) for name, value in function.items() if name in ("norm", "activation", "pooling")), "another"
    )


def summary_of(modules: Iterable[nn.Module]) -> dict[str, str]:
    """Return norms, activations and heads of a network, each kind once and in their order.

    Example:
        >>> summary_of(nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2), nn.ReLU()))
        {'stride': '(1, 1, 1)', 'norm': 'instance norm', 'activation': 'ReLU'}
    """
    found: dict[str, list[str]] = {}
    for module in modules:
        for what, value in function_of(module).items():
            if what in ("norm", "activation", "heads", "stride", "pooling", "merging", "legacy attention"):
                found.setdefault(what, []).append(str(value))
    return {what: ", ".join(dict.fromkeys(values)) for what, values in found.items()}


MARKS = (
    (".logit_scale", "cosine attention with a learned scale, as in Swin V2"),
    (".cpb_mlp.", "position biases from a network of their own, as in Swin V2"),
    (".q_norm.", "normalised queries"),
    (".gamma_1", "scaled branches"),
    (".squeeze_excitation.", "squeeze and excitation"),
)
"""Parts of names that tell of another function, and what it is."""


def marked_functions(names: Iterable[str]) -> list[str]:
    """Return what names for which a network has no place tell of the function that they belong to.

    Example:
        >>> marked_functions(["stages.0.blocks.0.attn.logit_scale"])
        ['cosine attention with a learned scale, as in Swin V2']
    """
    names = list(names)
    return [meaning for mark, meaning in MARKS if any(mark in f".{name}" for name in names)]
