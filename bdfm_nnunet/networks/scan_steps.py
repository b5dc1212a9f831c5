"""Steps of a selective scan and their gradients, for some lanes at once.

Shapes: T steps, n lanes (sequences, or chunks of sequences), E channels, S states. Channels lie innermost: what is
broadcast over channels or states is then a scalar or contiguous along the innermost axis, which processors vectorise.
Sums over states or channels are batched matrix products. Whoever calls chooses T and n so that T states of n lanes, the
largest tensors here, fit the processor's cache or a share of a card's memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class StepGradients(NamedTuple):
    """Gradients of some steps: shapes as in `Steps`, of the rates (S, E) and of the skip (E,)."""

    x: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    rates: Tensor | None
    skip: Tensor


@dataclass(frozen=True)
class Steps:
    """Some steps of a scan, time first.

    Attributes:
        x: inputs (T, n, 1, E).
        delta: step sizes (T, n, 1, E).
        B: how much of an input enters each state, (T, n, S, 1).
        C: how much of each state is put out, (T, n, S, 1).
        z: gates (T, n, 1, E) or None.
        driven: delta * x.
        rates: (S, E), negative.
        skip: how much of x is added to the outputs, (E,) or None.
    """

    x: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    driven: Tensor
    rates: Tensor
    skip: Tensor | None

    def decay(self) -> Tensor:
        """Return what all steps together leave of a state, (n, S, E)."""
        return (self.delta.sum(0) * self.rates).exp_()

    def advance(self, state: Tensor) -> None:
        """Advance the state (n, S, E) in place."""
        decay = torch.empty_like(state)
        for time in range(len(self.delta)):
            self._step(state, decay, time)

    def outputs(self, state: Tensor) -> Tensor:
        """Advance the state (n, S, E) in place and return the outputs (T, n, 1, E)."""
        decay, outputs, weights = torch.empty_like(state), torch.empty_like(self.x), self.C.transpose(2, 3)
        for time in range(len(self.delta)):
            self._step(state, decay, time)
            torch.bmm(weights[time], state, out=outputs[time])
        outputs = self._with_skip(outputs)
        return outputs if self.z is None else outputs.mul_(functional.silu(self.z))

    def retreat(self, carry: Tensor, gradient: Tensor) -> None:
        """Turn the gradient (n, S, E) of the state after the last step into that before the first, in place.

        Args:
            carry: the gradient.
            gradient: of the outputs, (T, n, 1, E).
        """
        inner, decay = self._before_gate(gradient), torch.empty_like(carry)
        for time in reversed(range(len(self.delta))):
            torch.mul(self.delta[time], self.rates, out=decay).exp_()
            carry.addcmul_(self.C[time], inner[time]).mul_(decay)

    def gradients(
        self, state: Tensor, carry: Tensor, gradient: Tensor, *, rooms: Sequence[Tensor], rates_wanted: bool
    ) -> StepGradients:
        """Return gradients, and turn that of the state after the last step into that before the first, in place.

        Args:
            state: before the first step, (n, S, E).
            carry: gradient of the state after the last step, (n, S, E).
            gradient: of the outputs, (T, n, 1, E).
            rooms: three tensors for T + 1 states each, whose content is lost.
            rates_wanted: whether the gradient of the rates is computed.
        """
        states, decays, pulls = self._recomputed(state, rooms)
        inner = self._before_gate(gradient)
        z = None if self.z is None else self._gradient_of_gate(states, gradient)
        C = _products(inner, states[1:].transpose(2, 3)).transpose(2, 3)  # a row first: MKL is slow with columns
        later = carry
        for time in reversed(range(len(pulls))):  # from here on `pulls` are the gradients of the states, and
            torch.addcmul(later, self.C[time], inner[time], out=pulls[time])
            later = torch.mul(pulls[time], decays[time], out=decays[time])  # `decays` what of them arrives a step ago
        carry.copy_(later)
        B = _products(self.driven, pulls.transpose(2, 3)).transpose(2, 3)
        driven = _products(self.B.transpose(2, 3), pulls)
        exponents = decays.mul_(states[:-1])
        delta = torch.mul(exponents, self.rates, out=pulls).sum(2, keepdim=True).addcmul_(driven, self.x)
        rates = exponents.mul_(self.delta).sum((0, 1)) if rates_wanted else None
        x = driven.mul_(self.delta)
        x = x if self.skip is None else x.addcmul_(inner, self.skip)
        return StepGradients(x, delta, B, C, z, rates, (inner * self.x).sum((0, 1, 2)))

    def _step(self, state: Tensor, decay: Tensor, time: int) -> None:
        torch.mul(self.delta[time], self.rates, out=decay).exp_()
        state.mul_(decay).addcmul_(self.driven[time], self.B[time])

    def _with_skip(self, outputs: Tensor) -> Tensor:
        return outputs if self.skip is None else outputs.addcmul_(self.x, self.skip)

    def _before_gate(self, gradient: Tensor) -> Tensor:
        return gradient if self.z is None else gradient * functional.silu(self.z)

    def _gradient_of_gate(self, states: Tensor, gradient: Tensor) -> Tensor:
        assert self.z is not None
        outputs = self._with_skip(_products(self.C.transpose(2, 3), states[1:]))
        opened = torch.sigmoid(self.z)
        return outputs.mul_(gradient).mul_(opened * (1 + self.z * (1 - opened)))

    def _recomputed(self, state: Tensor, rooms: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return states before and after each step (T + 1, n, S, E), decays (T, n, S, E), and room like the decays."""
        count = len(self.delta)
        states, decays, room = (
            part[: size * state.numel()].view(size, *state.shape)
            for part, size in zip(rooms, (count + 1, count, count), strict=True)
        )
        states[0] = state
        torch.mul(self.delta, self.rates, out=decays).exp_()
        for time in range(count):
            torch.mul(states[time], decays[time], out=states[time + 1]).addcmul_(self.driven[time], self.B[time])
        return states, decays, room


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Return matrix products of (T, n, i, j) and (T, n, j, k)."""
    return torch.bmm(left.flatten(0, 1), right.flatten(0, 1)).unflatten(0, left.shape[:2])
