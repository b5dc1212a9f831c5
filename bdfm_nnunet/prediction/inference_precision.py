"""Precision of inference: the type in which a network predicts, and what makes it fast on a CPU."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.number_types import multiplies_bf16, type_named

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def autocast_type(precision: str, device: str) -> torch.dtype | None:
    """Return the type of matrix products and convolutions, or None for full precision throughout.

    Args:
        precision: one of `PRECISIONS`. "auto" is nnU-Net's fp16 on CUDA, bf16 on a CPU that multiplies it natively, and
            fp32 elsewhere.
        device: "cuda", "cpu" or "mps".
    """
    if precision == "auto":
        fast_on_cpu = "bf16" if device == "cpu" and multiplies_bf16() else "fp32"
        precision = "fp16" if device == "cuda" else fast_on_cpu
    return type_named(precision, device)


def to_channels_last(network: nn.Module, axes: int) -> None:
    """Let a convolutional network run with the channels innermost in memory, which makes bf16 fast on CPUs.

    PyTorch's instance normalisation copies to the other layout, and its average pooling has no bf16. Both are replaced
    by other operators with the same result. Parameters keep their names, so weights can be loaded before and after.

    Args:
        network: changed in place; it must be used for inference only.
        axes: spatial axes of its images.
    """
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # named_children() leaves out second names of a module
            if child is None:
                continue
            if child not in replaced:
                replaced[child] = _same_in_channels_last(child)
            parent._modules[name] = replaced[child]
    network.to(memory_format=torch.channels_last_3d if axes == 3 else torch.channels_last)


def keep_logits_exact(network: nn.Module) -> None:
    """Let the layers that give the logits compute in fp32 under autocast on a CPU.

    Mirrored copies and overlapping windows are averaged: logits of +5 and -5 leave a small difference, and bf16 rounds
    either of them by up to 0.01. The layers are those that nnU-Net's decoders call `seg_layers`, as ours do.

    Args:
        network: changed in place.
    """
    for layer in getattr(getattr(network, "decoder", None), "seg_layers", ()):
        layer.forward = partial(_without_autocast, layer.forward)


def _without_autocast(forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(features.float())


def _same_in_channels_last(module: nn.Module) -> nn.Module:
    if isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d) and not module.track_running_stats:
        return _InstanceNorm(module)
    if isinstance(module, nn.AvgPool2d | nn.AvgPool3d) and (kernel := _exact_kernel(module)):
        return _AveragePooling(kernel)
    return module


def _exact_kernel(module: nn.AvgPool2d | nn.AvgPool3d) -> tuple[int, ...] | None:
    """Return its kernel if it pools disjoint blocks and bf16 can hold the share of each voxel."""
    axes = 2 if isinstance(module, nn.AvgPool2d) else 3
    kernel, stride, padding = (_per_axis(value, axes) for value in (module.kernel_size, module.stride, module.padding))
    power_of_two = all(size & (size - 1) == 0 for size in kernel)
    plain = kernel == stride and not any(padding) and not module.ceil_mode and module.divisor_override is None
    return kernel if power_of_two and plain else None


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


class _InstanceNorm(nn.Module):
    """Instance normalisation as the batch normalisation of a single image, which keeps the layout."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.register_parameter("weight", norm.weight)
        self.register_parameter("bias", norm.bias)
        self.eps = norm.eps

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, *spatial) to the same shape."""
        images = [
            functional.batch_norm(image, None, None, self.weight, self.bias, True, 0.0, self.eps)
            for image in features.split(1)
        ]
        return images[0] if len(images) == 1 else torch.cat(images)


class _AveragePooling(nn.Module):
    """Average pooling as a depthwise convolution."""

    def __init__(self, kernel: tuple[int, ...]) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, *spatial) to (B, C, *spatial / kernel), leaving out the rest."""
        channels = features.shape[1]
        shares = features.new_ones((channels, 1, *self.kernel))
        convolve = functional.conv3d if len(self.kernel) == 3 else functional.conv2d
        return convolve(features, shares / shares[0].numel(), stride=self.kernel, groups=channels)
