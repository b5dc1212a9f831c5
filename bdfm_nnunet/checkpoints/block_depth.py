"""Blocks that a network has more of than a checkpoint: copies of the last one, or blocks that start as the identity."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.network_functions import differences, norm_of

Depth = Literal["new", "copied"]


def extra_blocks(network: nn.Module, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Find the blocks at the end of a stage for which a checkpoint has nothing, though it has the ones before.

    Args:
        network: with the blocks.
        known: tensors of the checkpoint by the network's names.

    Yields:
        The name of a block, and that of the last known block of the same stage, shapes and shift of windows; without
        one of the same shift, of another; empty where all others have other shapes.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
        >>> list(extra_blocks(nn.ModuleDict({"stage": network}), {"stage.0.weight": None}))
        [('stage.1', 'stage.0'), ('stage.2', 'stage.0')]
    """
    holders = {name.rpartition(".")[0] for name in known}
    prefixes = {".".join(parts[:end]) for parts in (h.split(".") for h in holders) for end in range(1, len(parts) + 1)}
    for name, module in network.named_modules():
        if not (isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) > 1 and name):
            continue
        children = ((number, block) for number, block in module.named_children() if [*block.parameters()])
        blocks = {f"{name}.{number}": block for number, block in children}
        there = [each in prefixes for each in blocks]
        count = sum(there)
        if not 0 < count < len(blocks) or not all(there[:count]):
            continue
        for extra in [*blocks][count:]:
            if not changes_grid(blocks[extra]):
                yield extra, _like(blocks, extra, [*blocks][:count])


def _like(blocks: Mapping[str, nn.Module], extra: str, before: list[str]) -> str:
    """Return the last of some blocks that is like another, its shift of windows at best too; empty where none is."""
    shapes = {name: {key: value.shape for key, value in block.state_dict().items()} for name, block in blocks.items()}
    alike, shifted = [""], [""]
    for name in before:
        if shapes[name] != shapes[extra] or not shapes[name]:
            continue
        modules = (dict(block.named_modules()) for block in (blocks[name], blocks[extra]))
        found = {each.what for each in differences(*modules)}
        if not found:
            alike.append(name)
        elif found == {"shift of windows"}:
            shifted.append(name)
    return alike[-1] or shifted[-1]


def changes_grid(block: nn.Module) -> bool:
    """Return whether a block gives coarser features than it gets: then it is a stage, and no further block of one.

    Example:
        >>> changes_grid(nn.Sequential(nn.Conv3d(1, 1, 3, stride=2))), changes_grid(nn.Linear(1, 1))
        (True, False)
    """
    strides = (getattr(module, "stride", 1) for module in block.modules())
    steps = (stride if isinstance(stride, (tuple, list)) else [stride] for stride in strides)
    return any(isinstance(step, int) and step != 1 for each in steps for step in each)


def identity_ends(block: nn.Module) -> list[str]:
    """Return the parameters of a residual block that make it the identity when they are zero; empty for other blocks.

    These are the last layers of its branches: the projections of attention, or of a scan, and of the perceptron; or the
    last norm of a convolutional block, whose activation after the sum changes nothing that has passed one already (a
    leaky ReLU shrinks what is below zero once more, by its slope).

    Example:
        >>> from bdfm_nnunet.networks.resnet import BasicBlock
        >>> identity_ends(BasicBlock(4, 4, (1, 1, 1)))
        ['bn2.weight', 'bn2.bias']
        >>> identity_ends(nn.Sequential(nn.Conv3d(4, 4, 3), nn.ReLU()))
        []
    """
    modules, parameters = dict(block.named_modules()), dict(block.named_parameters())
    mixing = next((name for name in ("attn.proj", "mamba.out_proj") if name in modules), None)
    if mixing is not None and "mlp" in modules:
        last = [name for name, module in modules.items() if name.startswith("mlp.") and isinstance(module, nn.Linear)]
        ends = [mixing, last[-1]] if last else []
    else:
        ends = _last_norm(modules)
    return [f"{end}.{kind}" for end in ends for kind in ("weight", "bias") if f"{end}.{kind}" in parameters]


def _last_norm(modules: Mapping[str, nn.Module]) -> list[str]:
    if any(name.split(".")[0] in ("skip", "downsample") and [*module.parameters()] for name, module in modules.items()):
        return []  # the shortcut is a projection
    branches = [name for name in ("conv3.norm", "conv2.norm", "bn3", "bn2") if name in modules]
    return [name for name in branches[:1] if norm_of(modules[name]) is not None]


def zeros_for_identity(network: nn.Module, block: str) -> dict[str, Tensor]:
    """Return zeros for the parameters that make a block of a network the identity; empty where none do.

    Example:
        >>> from bdfm_nnunet.networks import ResNet18
        >>> zeros_for_identity(ResNet18(1, features=(2, 4, 4, 4)), "layer1.1")["layer1.1.bn2.weight"]
        tensor([0., 0.])
    """
    found = network.get_submodule(block)
    return {f"{block}.{end}": torch.zeros_like(found.get_parameter(end)).detach() for end in identity_ends(found)}
