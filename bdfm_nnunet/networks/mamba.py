"""The selective state-space layer Mamba-1 (Gu and Dao 2023, https://arxiv.org/abs/2312.00752) without a CUDA build.

Shapes: N sequences, L tokens of a sequence, C channels of a token, E = expansion * C inner channels, S states of an
inner channel, P prompts.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.frequency import full_precision
from bdfm_nnunet.networks.state_space_scan import selective_scan

_SHORTEST, _LONGEST = 1e-3, 1e-1  # of the step sizes that a new layer starts with


class Start(NamedTuple):
    """What a sequence has seen before its first token.

    Attributes:
        history: last inputs of the convolution, (1, E, kernel - 1).
        state: of the scan, (1, E, S); None for zeros.
    """

    history: Tensor
    state: Tensor | None


class Mamba(nn.Module):
    """A causal scan of sequences of tokens, gated by the tokens themselves; parameters are named as in mamba-ssm.

    Args:
        channels: channels of a token.
        states: states of each inner channel.
        kernel: tokens that the causal convolution in front of the scan sees.
        expansion: inner channels per channel.
        both_directions: also scan each sequence from its end, with the same weights. What that gives is added with a
            weight per inner channel, `reverse_gate`, which is zero at the start: weights of one direction compute what
            they did.

    Example:
        >>> mamba = Mamba(8)
        >>> mamba(torch.rand(2, 5, 8)).shape, mamba.rank
        (torch.Size([2, 5, 8]), 1)
    """

    def __init__(
        self, channels: int, *, states: int = 16, kernel: int = 4, expansion: int = 2, both_directions: bool = False
    ) -> None:
        super().__init__()
        inner = expansion * channels
        self.states, self.rank = states, math.ceil(channels / 16)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.reverse_gate = nn.Parameter(torch.zeros(inner)) if both_directions else None
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.out_proj = nn.Linear(inner, channels, bias=False)
        self._start_steps()

    @torch.no_grad()
    def _start_steps(self) -> None:
        """Let step sizes start log-uniform between two bounds, as in the paper's code."""
        bound = self.rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        steps = torch.empty_like(self.dt_proj.bias).uniform_(math.log(_SHORTEST), math.log(_LONGEST)).exp()
        self.dt_proj.bias.copy_(steps + (-torch.expm1(-steps)).log())  # the inverse of softplus

    def forward(self, tokens: Tensor, *, valid: Tensor | None = None, prompts: Tensor | None = None) -> Tensor:
        """Scan sequences.

        Args:
            tokens: (N, L, C).
            valid: boolean (N, L); tokens that are not valid change neither the state nor the convolution of those that
                come after them, wherever they stand, and get zeros. By default all are valid.
            prompts: (P, C), tokens in front of every sequence. As they are the same for all, they are scanned once, and
                each sequence starts from the state and the history of the convolution that they leave.

        Returns:
            (N, L, C).
        """
        x, z = self.in_proj(tokens).mT.chunk(2, 1)
        start = self._after(prompts)
        out = self._scanned(x, z, start, _order(valid))
        if self.reverse_gate is not None:
            every = torch.ones_like(tokens[..., 0], dtype=torch.bool) if valid is None else valid
            last_first = tokens.shape[1] - 1 - torch.argsort(~every.flip(1), dim=1, stable=True)
            out = out + self.reverse_gate[:, None].to(out.dtype) * self._scanned(x, z, start, last_first)
        if valid is not None:
            out = torch.where(valid[:, None], out, 0.0)
        return cast(Tensor, self.out_proj(out.mT))

    def _after(self, prompts: Tensor | None) -> Start | None:
        """Return what prompts leave behind."""
        if prompts is None or not len(prompts):
            return None
        x = self.in_proj(prompts[None]).mT.chunk(2, 1)[0]
        count = self.conv1d.kernel_size[0] - 1
        state = cast(tuple[Tensor, Tensor], self._scan(x, None, None, return_state=True))[1]
        return Start(functional.pad(x, (count, 0))[..., x.shape[-1] :], state)

    def _scanned(self, x: Tensor, z: Tensor, start: Start | None, order: Tensor | None) -> Tensor:
        """Return the gated outputs (N, E, L) of tokens that are scanned in an order of their numbers, (N, L)."""
        if order is None:
            return cast(Tensor, self._scan(x, z, start))
        places = order[:, None].expand_as(x)
        out = cast(Tensor, self._scan(x.gather(-1, places), z.gather(-1, places), start))
        return out.gather(-1, order.argsort(1)[:, None].expand_as(x))

    def _scan(
        self, x: Tensor, z: Tensor | None, start: Start | None, *, return_state: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Convolve and scan inputs (N, E, L) that are gated by z, which is alike."""
        count = self.conv1d.kernel_size[0] - 1
        before = x.new_zeros(1, x.shape[1], count) if start is None else start.history
        x = functional.silu(self.conv1d(torch.cat([before.to(x.dtype).expand(len(x), -1, -1), x], -1)))
        steps, b, c = self.x_proj(x.mT).mT.split([self.rank, self.states, self.states], 1)
        with full_precision(x.device):  # steps are exponents: half precision is too coarse
            weight, bias = self.dt_proj.weight, self.dt_proj.bias
            delta = functional.softplus(functional.linear(steps.mT.to(weight.dtype), weight, bias)).mT
        decays, state = -self.A_log.exp(), None if start is None else start.state
        return selective_scan(x, delta, decays, b, c, self.D, z=z, state=state, return_state=return_state)


def _order(valid: Tensor | None) -> Tensor | None:
    """Return the numbers of the valid tokens of each sequence in front of the others, (N, L)."""
    return None if valid is None else torch.argsort(~valid, dim=1, stable=True)
