"""Low-rank additions to the kernels of a network (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685).

A kernel becomes W + (alpha / rank) up @ down, computed where the layer reads its weight. So any layer can have one,
linear or convolutional, also one whose weight other code reads. To everyone who asks the network for its state or
gives it one it looks like a plain network with merged kernels.

Shapes: a kernel (rows, *others), columns the product of the others, down (rank, columns), up (rows, rank).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

_ORIGINAL, _FACTORS = "parametrizations.weight.original", "parametrizations.weight.0."


class LowRank(nn.Module):
    """The addition to one kernel: nothing at the start, as `up` is zero.

    Args:
        kernel: (rows, *others).
        rank: rank of the addition.
        alpha: the product of the factors counts alpha / rank.
        generator: source of `down`, on the CPU.
    """

    def __init__(self, kernel: Tensor, *, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = kernel.shape[0], kernel[0].numel()
        bound = 1 / math.sqrt(columns)  # of a linear layer of PyTorch, as in the paper's code
        down = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator)
        self.down = nn.Parameter(down.to(kernel))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(kernel))
        self.scale = alpha / rank

    def forward(self, kernel: Tensor) -> Tensor:
        """Return the kernel with the addition; in full precision also where layers run in less."""
        with torch.autocast(kernel.device.type, enabled=False):
            return kernel + self.scale * (self.up @ self.down).view_as(kernel)


def kernels_of(encoder: nn.Module, targets: Sequence[str], *, besides: Sequence[nn.Parameter] = ()) -> list[str]:
    """Return the names of the layers of an encoder that get an addition.

    Args:
        encoder: linear layers and convolutions are in question.
        targets: ends of names; by default the linear layers of attention or of scans, and where there are none all
            convolutions.
        besides: kernels that get none by default, such as those that read the images.

    Raises:
        ValueError: no layer has a name with one of the ends.

    Example:
        >>> from bdfm_nnunet.networks import SwinUNet
        >>> sizes = {"strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "features_per_stage": [4, 8, 16],
        ...          "depths": [1, 1], "num_heads": [1, 2], "window_size": [2, 2, 2]}
        >>> kernels_of(SwinUNet(1, 2, **sizes).encoder, ["attn.proj"])
        ['stages.0.blocks.0.attn.proj', 'stages.1.blocks.0.attn.proj']
    """
    kinds = (nn.Linear, _ConvNd)
    layers = {
        name: module
        for name, module in encoder.named_modules()
        if isinstance(module, kinds) and not isinstance(module, _ConvTransposeNd)
    }
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            shown = ", ".join(list(layers)[:3])
            raise ValueError(f"no linear layer or convolution of the encoder ends in {target!r}, they are {shown} ...")
    if targets:
        return [name for name in layers if any(f".{name}".endswith(f".{target}") for target in targets)]
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    attention = [name for name in linear if ".attn." in name or ".mamba." in name]
    kept = {id(kernel) for kernel in besides}
    return attention or [
        name for name, layer in layers.items() if isinstance(layer, _ConvNd) and id(layer.weight) not in kept
    ]


def add_low_rank(
    network: nn.Module, layers: Sequence[nn.Module], *, rank: int, alpha: float, generator: torch.Generator
) -> None:
    """Give layers of a network an addition each, in place; their own kernels stay as they are.

    Args:
        network: from now on its state is that of a plain network with merged kernels. A state that it is given goes
            into the kernels, and the additions become zero.
        layers: modules of it with a "weight".
        rank: rank of the additions.
        alpha: their products count alpha / rank.
        generator: where they start, on the CPU.

    Example:
        >>> network = nn.Sequential(nn.Linear(3, 2))
        >>> add_low_rank(network, [network[0]], rank=1, alpha=1.0, generator=torch.Generator().manual_seed(0))
        >>> list(network.state_dict()), [name for name, _ in network.named_parameters()][-1]
        (['0.bias', '0.weight'], '0.parametrizations.weight.0.up')
    """
    for layer in layers:
        addition = LowRank(layer.weight, rank=rank, alpha=alpha, generator=generator)  # type: ignore[arg-type]
        layer.weight.requires_grad_(False)
        parametrize.register_parametrization(layer, "weight", addition)
    network.register_state_dict_post_hook(_merge)
    network.register_load_state_dict_pre_hook(_separate)


def additions_of(network: nn.Module) -> Iterator[tuple[str, nn.Module, LowRank]]:
    """Yield name, layer and addition of each layer that has one."""
    for name, module in network.named_modules():
        addition = _addition(module)
        if addition is not None:
            yield name, module, addition


def _addition(module: nn.Module) -> LowRank | None:
    if not parametrize.is_parametrized(module, "weight"):
        return None
    found = module.parametrizations.weight[0]  # type: ignore[union-attr, index]
    return found if isinstance(found, LowRank) else None


def low_rank_state(network: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return kernel and factors of each layer with an addition, by its name, which merged kernels do not tell."""
    return {
        name: {"kernel": _original(layer).detach(), "down": addition.down.detach(), "up": addition.up.detach()}
        for name, layer, addition in additions_of(network)
    }


@torch.no_grad()
def load_low_rank_state(network: nn.Module, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Take over what `low_rank_state` returned.

    Raises:
        ValueError: it is that of other layers or another rank.
    """
    found = {name: (layer, addition) for name, layer, addition in additions_of(network)}
    if found.keys() != state.keys():
        raise ValueError(f"low-rank additions for {len(state)} layers, not for the {len(found)} of this network")
    for name, (layer, addition) in found.items():
        targets = {"kernel": _original(layer), "down": addition.down, "up": addition.up}
        for key, target in targets.items():
            if target.shape != state[name][key].shape:
                raise ValueError(f"{key} of the low-rank addition to {name} has another shape")
            target.copy_(state[name][key])


def _original(layer: nn.Module) -> Tensor:
    original: Tensor = layer.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    return original


def _merge(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Turn kernels and factors of a state into merged kernels, under every name that a layer has."""
    for name in [name for name in state if name.endswith(_ORIGINAL)]:
        layer = network.get_submodule(name[len(prefix) :].removesuffix(f".{_ORIGINAL}"))
        if _addition(layer) is not None:
            stem = name.removesuffix(_ORIGINAL)
            for key in (name, f"{stem}{_FACTORS}down", f"{stem}{_FACTORS}up"):
                del state[key]
            state[f"{stem}weight"] = layer.weight.detach()  # type: ignore[operator]


def _separate(network: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    """Turn merged kernels of a state into kernels with an addition of zero, under every name that a layer has."""
    for name, layer in network.named_modules(remove_duplicate=False):
        addition, key = _addition(layer), f"{prefix}{name}.weight"
        if addition is not None and key in state:
            state[f"{prefix}{name}.{_ORIGINAL}"] = state.pop(key)
            state[f"{prefix}{name}.{_FACTORS}down"] = addition.down.detach()
            state[f"{prefix}{name}.{_FACTORS}up"] = torch.zeros_like(addition.up)
