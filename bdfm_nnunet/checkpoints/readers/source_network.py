"""What a file tells of the network that its weights come from, beyond their names and shapes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.old_plans import architecture_of

MergingOrder = Literal["swin", "monai-1.4"]
TokenOrder = Literal["whd", "hwd"]

_NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch", "LayerNorm": "layer", "GroupNorm": "group"}
_ARCHITECTURE = {"network_class_name": str, "arch_kwargs": {str: object}}


@dataclass(frozen=True, kw_only=True)
class SourceNetwork:
    """The network of a file as far as the file, or what is known of its project, tells; None: not known.

    Equal names and shapes do not make equal functions: these are the differences that tensors do not show. The weights
    under our names are already turned to our orders, and `merging_order` says which of ours.

    Attributes:
        class_name: full name of its class, not checked.
        arch_kwargs: arguments of that class, not checked.
        input_channels: channels of its images.
        channel_names: the modality of each channel.
        norm: kind of its norms: "instance", "batch", "layer" or "group".
        activation: class name of its activation, like "LeakyReLU".
        heads: attention heads of each stage.
        strides: strides per stage and axis, as in nnU-Net's plans.
        merging_order: order of the neighbours that a Swin encoder merges, as `SwinEncoder` calls it.
        legacy_attention: whether padding takes part in its window attention, see `SwinEncoder`.
        token_order: order in which the file's transformer reads its tokens: "whd" first axis slowest, "hwd" second axis
            slowest; the weights under our names are turned to "whd".
        deep_supervision: whether it was trained with outputs at several resolutions.
        labels: whether it was trained on labels.

    Example:
        >>> SourceNetwork(norm="instance").heads is None
        True
    """

    class_name: str | None = None
    arch_kwargs: Mapping[str, Any] | None = None
    input_channels: int | None = None
    channel_names: tuple[str, ...] = ()
    norm: str | None = None
    activation: str | None = None
    heads: tuple[int, ...] | None = None
    strides: tuple[tuple[int, ...], ...] | None = None
    merging_order: MergingOrder | None = None
    legacy_attention: bool | None = None
    token_order: TokenOrder | None = None
    deep_supervision: bool | None = None
    labels: bool | None = None


def described_network(configuration: Mapping[str, Any], **known: Any) -> SourceNetwork:
    """Return the network that a configuration of nnU-Net's plans describes, those of its first plans too.

    Args:
        configuration: with everything that it inherits, not checked; entries of an odd kind count as missing.
        known: what is known otherwise, see `SourceNetwork`.

    Example:
        >>> kwargs = {"norm_op": "torch.nn.modules.batchnorm.BatchNorm3d", "strides": [[1, 1, 1], [1, 2, 2]]}
        >>> network = described_network({"architecture": {"network_class_name": "a.UNet", "arch_kwargs": kwargs}})
        >>> network.norm, network.strides
        ('batch', ((1, 1, 1), (1, 2, 2)))
    """
    try:
        architecture = architecture_of(configuration)
    except (InputError, KeyError, TypeError, ValueError):
        return SourceNetwork(**known)
    if fault_of(architecture, _ARCHITECTURE):
        return SourceNetwork(**known)
    kwargs = architecture["arch_kwargs"]
    found = {
        "class_name": architecture["network_class_name"],
        "arch_kwargs": kwargs,
        "norm": _norm(kwargs.get("norm_op")),
        "activation": _last(kwargs.get("nonlin")),
        "heads": _sizes(kwargs.get("num_heads", kwargs.get("eva_numheads"))),
        "strides": _strides(kwargs.get("strides")),
        "merging_order": kwargs.get("merging_order", "swin") if "window_size" in kwargs else None,
        "legacy_attention": bool(kwargs.get("legacy", False)) if "window_size" in kwargs else None,
    }
    return SourceNetwork(**(found | known))


def _last(name: Any) -> str | None:
    return name.rpartition(".")[2] if isinstance(name, str) else None


def _norm(name: Any) -> str | None:
    kind = _last(name) or ""
    return next((norm for prefix, norm in _NORMS.items() if kind.startswith(prefix)), None)


def _sizes(value: Any) -> tuple[int, ...] | None:
    values = value if isinstance(value, (list, tuple)) else [value]
    return None if fault_of(values, [int]) else tuple(values)


def _strides(value: Any) -> tuple[tuple[int, ...], ...] | None:
    return None if fault_of(value, [[int]]) else tuple(tuple(stride) for stride in value)


def trained_on_labels(names: Iterable[str], trainer: str | None) -> bool | None:
    """Return whether weights come from a segmentation: nnU-Net's trainers, unless parts of ours for pre-training.

    Example:
        >>> trained_on_labels(["decoder.seg_layers.0.weight"], "nnUNetTrainer")
        True
        >>> trained_on_labels(["mask_token.value", "encoder.norm.weight"], "nnUNetTrainerSimMIM")
        False
    """
    names = list(names)
    if any(name.startswith(("mask_token", "projector", "pixel_decoder.", "frequency_decoder.")) for name in names):
        return False
    if any(".seg_layers." in name for name in names):
        return True if trainer is None or trainer.startswith("nnUNetTrainer") else None
    return None
