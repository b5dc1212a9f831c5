"""The optimiser LARS."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling, for large batches (You et al. 2017, https://arxiv.org/abs/1708.03888).

    For a tensor w with gradient g, d = g + weight_decay w and momentum buffer v:

        v <- momentum v + rate trust d,    w <- w - v,    trust = trust_coefficient |w| / |d|,

    as in SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709), which has the rate inside of the momentum.
    Trust is 1 where a norm is 0. Tensors of one axis (biases, norms) and those of groups with "adapt" = False have
    trust 1 and no decay.

    Args:
        params: parameters or groups; a group may have an own "lr", "weight_decay", "momentum", "trust_coefficient" and
            "adapt".
        lr: learning rate; that of SimCLR is 0.3 times the samples of all processes divided by 256.
        weight_decay: factor of the weights in d.
        momentum: share of v that is kept.
        trust_coefficient: the step's length relative to the tensor's at a rate of 1.

    Raises:
        ValueError: a value is below 0, or the momentum not below 1.

    Example:
        >>> weight, bias = torch.ones(1, 2, requires_grad=True), torch.ones(2, requires_grad=True)
        >>> optimizer = LARS([weight, bias], lr=1.0, trust_coefficient=0.5)
        >>> (weight.sum() + bias.sum()).backward()
        >>> optimizer.step()
        >>> weight.detach(), bias.detach()
        (tensor([[0.5000, 0.5000]]), tensor([0., 0.]))
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ) -> None:
        given = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust_coefficient": trust_coefficient}
        super().__init__(params, given | {"adapt": True})
        for group in self.param_groups:
            for name in given:
                if not 0 <= group[name] < (1 if name == "momentum" else float("inf")):
                    raise ValueError(f"{name} is {group[name]}, expected 0 or more (a momentum below 1)")

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            having = [parameter for parameter in group["params"] if parameter.grad is not None]
            for adapt in (True, False):
                chosen = [each for each in having if (group["adapt"] and each.ndim > 1) == adapt]
                if chosen:
                    self._descend(chosen, group, adapt=adapt)
        return loss

    @torch.no_grad()
    def _descend(self, parameters: list[Tensor], group: dict[str, Any], *, adapt: bool) -> None:
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        if adapt and group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        if adapt:
            trust = _trust(parameters, gradients, group["trust_coefficient"])
            gradients = list(torch._foreach_mul(gradients, trust))
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients, alpha=group["lr"])
        torch._foreach_sub_(parameters, buffers)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state: dict[str, Tensor] = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state["momentum_buffer"]


def _trust(parameters: list[Tensor], gradients: list[Tensor], coefficient: float) -> list[Tensor]:
    """Return the trust of each tensor, on its device: nobody waits for it."""
    lengths, slopes = torch.stack(torch._foreach_norm(parameters)), torch.stack(torch._foreach_norm(gradients))
    usable = (lengths > 0) & (slopes > 0)
    return list(torch.where(usable, coefficient * lengths / slopes, 1).unbind())
