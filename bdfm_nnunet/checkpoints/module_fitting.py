"""Changes to a checkpoint's tensors that concern several of them at once, before each is fitted to its place."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.block_depth import Depth, extra_blocks, zeros_for_identity
from bdfm_nnunet.checkpoints.network_functions import norm_of
from bdfm_nnunet.checkpoints.token_adapting import adapt_merging
from bdfm_nnunet.checkpoints.transfer_chain import Target
from bdfm_nnunet.networks.mamba import Mamba
from bdfm_nnunet.networks.mamba_stages import MambaBlock
from bdfm_nnunet.networks.swin import PatchMerging

_SPACE = 3  # axes


@dataclass
class Known:
    """The tensors of a checkpoint, changed so that each fits its place or can be fitted to it alone.

    Attributes:
        tensors: by the network's names.
        how: what was changed, by name.
        made: names whose tensors do not come from the checkpoint.
        harmless: names that stay new without a change to what the network computes, and why.
        used: names of the checkpoint that were taken into others, and how.

    Example:
        >>> Known({"weight": torch.ones(1)}).how
        {}
    """

    tensors: dict[str, Tensor]
    how: dict[str, str] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    harmless: dict[str, str] = field(default_factory=dict)
    used: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, tensor: Tensor, how: str, *, made: bool = False) -> None:
        """Set a tensor and say how it came about; `made`: it does not come from the checkpoint."""
        self.tensors[name], self.how[name] = tensor, how
        if made:
            self.made.add(name)


def prepare(target: Target, tensors: dict[str, Tensor], *, depth: Depth, merging: Sequence[Sequence[int]]) -> Known:
    """Fit merging, biases and depth.

    Args:
        target: the network.
        tensors: of the checkpoint, by the network's names where it has them.
        depth: what further blocks of a stage start with.
        merging: tokens per axis that the checkpoint's network merges before each stage after the first; empty: unknown.

    Example:
        >>> from bdfm_nnunet.networks import ResNet18
        >>> network = ResNet18(1, features=(2, 4, 4, 4))
        >>> weights = {name: tensor for name, tensor in network.state_dict().items() if "layer1.1." not in name}
        >>> prepare(Target(network), weights, depth="new", merging=()).how["layer1.1.bn2.weight"]
        'zero, so that the additional block starts as the identity'
    """
    known = Known(dict(tensors))
    _fit_merging(target, known, merging)
    _fit_biases(target, known)
    _fit_additions(target, known)
    _fit_depth(target, known, depth)
    return known


def _fit_merging(target: Target, known: Known, merging: Sequence[Sequence[int]]) -> None:
    places = [name for name, module in target.modules.items() if isinstance(module, PatchMerging)]
    for number, name in enumerate(places):
        module = target.modules[name]
        names = [f"{name}.norm.weight", f"{name}.norm.bias", f"{name}.reduction.weight"]
        found = [known.tensors.get(each) for each in names]
        if not isinstance(module, PatchMerging) or any(each is None or each.ndim == 0 for each in found):
            continue
        scale, shift, reduction = (each for each in found if each is not None)
        channels = module.reduction.in_features // torch.Size(module.stride).numel()
        old = merging[number] if number < len(merging) else _merging_of(reduction.shape[-1], channels, module.stride)
        fits = reduction.ndim == 2 and reduction.shape[1] == channels * torch.Size(old).numel() == len(scale)
        if tuple(old) == module.stride or not fits or not _multiples(old, module.stride):
            continue
        (scale, shift), reduction = adapt_merging((scale, shift), reduction, old, module.stride)
        for each, tensor in zip(names, (scale, shift, reduction), strict=True):
            known.put(each, tensor, f"merging {tuple(old)} to {module.stride}")


def _merging_of(columns: int, channels: int, stride: Sequence[int]) -> tuple[int, ...]:
    """Guess how many tokens per axis were merged: one along the first axes, as in video transformers.

    Of four axes the last one is time, along which nothing is merged.
    """
    if len(stride) > _SPACE and columns == channels * torch.Size(stride).numel():
        return tuple(stride)
    left, found = columns // max(channels, 1), []
    for _ in stride:
        found.append(2 if left % 2 == 0 and left > 1 else 1)
        left //= found[-1]
    return tuple(reversed(found))


def _multiples(old: Sequence[int], new: Sequence[int]) -> bool:
    return len(old) == len(new) and all(a > 0 and (a % b == 0 or b % a == 0) for a, b in zip(old, new, strict=True))


def _fit_biases(target: Target, known: Known) -> None:
    """Start biases that the checkpoint's convolutions do without at zero, and take in those that ours do without."""
    order = [name for name in target.modules if name]
    layers = [name for name in order if isinstance(target.modules[name], (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    filled = [name for name in layers if f"{name}.weight" in known.tensors and target.is_of_encoder(f"{name}.weight")]
    without = not any(f"{name}.bias" in known.tensors for name in filled)
    for name in filled:
        ours = getattr(target.modules[name], "bias", None)
        if ours is not None and without:
            known.put(f"{name}.bias", torch.zeros_like(ours).detach(), "zero: the checkpoint has none", made=True)
        elif ours is None and f"{name}.bias" in known.tensors:
            _take_in(target, known, name, order)


def _take_in(target: Target, known: Known, name: str, order: list[str]) -> None:
    """Take a bias into the norm behind it, which the norm subtracts again: its own mean or its running one."""
    following = order[order.index(name) + 1 :]
    behind = next((each for each in following if [*target.modules[each].parameters(recurse=False)]), "")
    norm = norm_of(target.modules[behind]) if behind else None
    bias, mean = known.tensors[f"{name}.bias"], known.tensors.get(f"{behind}.running_mean")
    if norm == "instance norm" and mean is None:
        known.used[f"{name}.bias"] = "a bias in front of an instance norm changes nothing"
    elif norm == "batch norm" and mean is not None and mean.shape == bias.shape:
        known.put(f"{behind}.running_mean", mean - bias, f"less the bias of {name}")
        known.used[f"{name}.bias"] = f"taken into {behind}.running_mean"


def _fit_additions(target: Target, known: Known) -> None:
    """Start a second direction of scans without an effect and prompts anew, where a checkpoint lacks them."""
    for name, module in target.modules.items():
        gate, prompt = f"{name}.reverse_gate", f"{name}.prompt"
        if isinstance(module, Mamba) and module.reverse_gate is not None and gate not in known.tensors:
            zeros = torch.zeros_like(module.reverse_gate).detach()
            known.put(gate, zeros, "zero, so that the second direction starts without an effect", made=True)
        if isinstance(module, MambaBlock) and module.prompt is not None and prompt not in known.tensors:
            known.harmless[prompt] = "prompts belong to their task"


def _fit_depth(target: Target, known: Known, depth: Depth) -> None:
    for block, last in list(extra_blocks(target.network, known.tensors)):
        if not target.is_of_encoder(f"{block}.weight"):
            continue
        if depth == "copied" and last:
            inside = [name for name in known.tensors if name.startswith(f"{last}.")]
            for name in inside:
                known.put(f"{block}{name.removeprefix(last)}", known.tensors[name].clone(), f"copied from {last}")
            continue
        zeros = zeros_for_identity(target.network, block)
        for name, tensor in zeros.items():
            known.put(name, tensor, "zero, so that the additional block starts as the identity", made=True)
        if zeros:
            names = [name for name in target.every_name if name.startswith(f"{block}.") and name not in zeros]
            known.harmless |= dict.fromkeys(names, "of an additional block, which starts as the identity")
