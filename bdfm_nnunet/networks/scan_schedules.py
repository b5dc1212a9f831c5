"""Orders in which the steps of a selective scan are taken: chunk after chunk in the cache, or all chunks at once.

Shapes: N sequences, E channels, S states, L steps, K chunks of `CHUNK` steps.

On a processor the scan is bound by memory: blocks of sequences, whose states fit the cache, go through all chunks
before the next block starts. On a card the launches of small operations would dominate: there the chunks of all
sequences take their steps side by side, each from a state of zero; from what they arrive at follow the states at which
they really start, chunk after chunk; then all take their steps again. Nothing is ever divided by a decay, so that any
step size is fine. For the backward pass only the states at the starts of chunks are kept, and the others are computed
again.
"""

import logging
from collections.abc import Iterator
from functools import cache, reduce
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.networks.scan_steps import StepGradients, Steps

logger = logging.getLogger(__name__)

CHUNK = 16
"""Steps between states that are kept."""

STEPWISE_DEVICES = ("cpu",)
"""Kinds of devices on which blocks of sequences go through chunk after chunk."""


class BlockSizes(NamedTuple):
    """Numbers in the states of a block: going forwards, and backwards, where a chunk's states are there at once."""

    forward: int
    backward: int


IN_CACHE = BlockSizes(forward=1 << 17, backward=1 << 15)
"""For one thread: what measured best with 0.5 MiB of cache a core and 32 MiB for all."""

ON_CARD = BlockSizes(forward=1 << 24, backward=1 << 20)
"""64 MiB a state going forwards, three times 64 MiB going backwards, in single precision."""


class ScanInputs(NamedTuple):
    """What a scan takes, but for the state at its start."""

    x: Tensor  # (N, E, L), as delta and z
    delta: Tensor
    A: Tensor  # (E, S)
    B: Tensor  # (N, S, L), as C
    C: Tensor
    D: Tensor | None  # (E,)
    z: Tensor | None

    @property
    def kind(self) -> torch.dtype:
        """Type of numbers of the states: single precision or better."""
        types = (self.x.dtype, self.delta.dtype, self.A.dtype, torch.float32)
        return reduce(torch.promote_types, types)

    def steps(self, lanes: slice, times: slice, rates: Tensor) -> Steps:
        """Return some steps of some sequences, time first."""
        x, delta, B, C = (self._cut(value, lanes, times) for value in (self.x, self.delta, self.B, self.C))
        z = None if self.z is None else self._cut(self.z, lanes, times).unsqueeze(2)
        skip = None if self.D is None else self.D.to(self.kind)
        driven = (delta * x).unsqueeze(2)
        return Steps(x.unsqueeze(2), delta.unsqueeze(2), B.unsqueeze(3), C.unsqueeze(3), z, driven, rates, skip)

    def of_outputs(self, gradient: Tensor, lanes: slice, times: slice) -> Tensor:
        """Return the gradient (T, n, 1, E) of some outputs from that of all (N, E, L)."""
        return self._cut(gradient, lanes, times).unsqueeze(2)

    def rates(self) -> Tensor:
        """Return A as (S, E)."""
        return self.A.to(self.kind).t().contiguous()

    def _cut(self, value: Tensor, lanes: slice, times: slice) -> Tensor:
        return value[lanes, :, times].permute(2, 0, 1).to(self.kind).contiguous()


class ScanGradients(NamedTuple):
    """Gradients of a scan: shapes as in `ScanInputs`, those of A and D transposed and as they are; of the state."""

    x: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    z: Tensor | None
    rates: Tensor  # (S, E)
    skip: Tensor  # (E,)
    state: Tensor  # (N, S, E)


def scan(inputs: ScanInputs, state: Tensor, *, keep: bool) -> tuple[Tensor, Tensor]:
    """Return the outputs (N, E, L), and the states (K, N, S, E) at the starts of the chunks if they are kept.

    Args:
        inputs: what is scanned.
        state: at the start, (N, S, E); changed in place into that at the end.
        keep: whether the states at the starts of chunks are kept for the backward pass.
    """
    stepwise = inputs.x.device.type in STEPWISE_DEVICES
    _say_once("chunk after chunk" if stepwise else "all chunks at once")
    if stepwise:
        return _by_blocks(inputs, state, _cache_of_all_threads().forward, keep=keep)
    if inputs.x.shape[2] <= CHUNK:
        return _by_blocks(inputs, state, ON_CARD.forward, keep=keep)
    return _at_once(inputs, state)


def scan_gradients(
    inputs: ScanInputs, starts: Tensor, gradient: Tensor, last: Tensor, *, rates_wanted: bool = True
) -> ScanGradients:
    """Return the gradients of a scan.

    Args:
        inputs: what was scanned.
        starts: states at the starts of the chunks, (K, N, S, E).
        gradient: of the outputs, (N, E, L).
        last: gradient of the state at the end, (N, S, E); changed in place.
        rates_wanted: whether the gradient of A is computed.
    """
    if inputs.x.device.type in STEPWISE_DEVICES:
        return _gradients(inputs, starts, gradient, last, _cache_of_all_threads().backward, rates_wanted)
    if len(starts) <= 1:
        return _gradients(inputs, starts, gradient, last, ON_CARD.backward, rates_wanted)
    return _gradients_at_once(inputs, starts, gradient, last, rates_wanted)


@cache
def _say_once(order: str) -> None:
    logger.info("Selective scans use plain PyTorch, %s", order)


def chunks_of(length: int) -> int:
    """Return the number of chunks of a sequence."""
    return -(-length // CHUNK)


# ---------------------------------------------------------------------------------------------- chunk after chunk


def _by_blocks(inputs: ScanInputs, state: Tensor, cells: int, *, keep: bool) -> tuple[Tensor, Tensor]:
    rates, outputs = inputs.rates(), torch.empty_like(inputs.x)
    starts = state.new_empty(chunks_of(inputs.x.shape[2]) if keep else 0, *state.shape)
    for lanes in _blocks(len(state), cells // max(1, rates.numel())):
        for number, times in _chunks(inputs.x.shape[2]):
            if keep:
                starts[number, lanes] = state[lanes]
            found = inputs.steps(lanes, times, rates).outputs(state[lanes])
            outputs[lanes, :, times] = found.squeeze(2).permute(1, 2, 0)
    return outputs, starts


def _gradients(
    inputs: ScanInputs, starts: Tensor, gradient: Tensor, last: Tensor, cells: int, rates_wanted: bool
) -> ScanGradients:
    rates = inputs.rates()
    found = _empty_gradients(inputs, rates, last)
    lanes_at_once = min(len(last), max(1, cells // max(1, rates.numel())))
    steps_at_once = min(CHUNK, inputs.x.shape[2])
    rooms = [rates.new_empty((steps_at_once + 1 - (i > 0)) * lanes_at_once * rates.numel()) for i in range(3)]
    for lanes in _blocks(len(last), lanes_at_once):
        for number, times in reversed(list(_chunks(inputs.x.shape[2]))):
            part = inputs.steps(lanes, times, rates).gradients(
                starts[number, lanes],
                last[lanes],
                inputs.of_outputs(gradient, lanes, times),
                rooms=rooms,
                rates_wanted=rates_wanted,
            )
            _put(found, part, lanes, times)
    return found


def _empty_gradients(inputs: ScanInputs, rates: Tensor, last: Tensor) -> ScanGradients:
    x, delta, B, C = (torch.empty_like(value) for value in (inputs.x, inputs.delta, inputs.B, inputs.C))
    z = None if inputs.z is None else torch.empty_like(inputs.z)
    return ScanGradients(x, delta, B, C, z, torch.zeros_like(rates), rates.new_zeros(rates.shape[1]), last)


def _put(found: ScanGradients, part: StepGradients, lanes: slice, times: slice) -> None:
    """Write the gradients of some steps to their places, and add those that all steps share."""
    pairs = ((found.x, part.x), (found.delta, part.delta), (found.B, part.B), (found.C, part.C), (found.z, part.z))
    for whole, piece in pairs:
        if whole is not None and piece is not None:
            whole[lanes, :, times] = piece.flatten(2).permute(1, 2, 0)
    if part.rates is not None:
        found.rates.add_(part.rates)
    found.skip.add_(part.skip)


def _blocks(lanes: int, at_once: int) -> Iterator[slice]:
    step = max(1, at_once)
    return (slice(start, min(start + step, lanes)) for start in range(0, lanes, step))


def _chunks(length: int) -> Iterator[tuple[int, slice]]:
    return enumerate(slice(start, min(start + CHUNK, length)) for start in range(0, length, CHUNK))


def _cache_of_all_threads() -> BlockSizes:
    return BlockSizes(*(size * torch.get_num_threads() for size in IN_CACHE))


# ----------------------------------------------------------------------------------------------- all chunks at once


def _at_once(inputs: ScanInputs, state: Tensor) -> tuple[Tensor, Tensor]:
    count = chunks_of(inputs.x.shape[2])
    folded = _folded(inputs, count)
    steps = folded.steps(slice(None), slice(None), inputs.rates())
    arrived, decay = state.new_zeros(count, *state.shape), steps.decay().view(count, *state.shape)
    steps.advance(arrived.flatten(0, 1))
    starts = torch.empty_like(arrived)
    starts[0] = state
    for number in range(1, count):
        torch.addcmul(arrived[number - 1], decay[number - 1], starts[number - 1], out=starts[number])
    ends = arrived.copy_(starts)
    outputs, _ = _by_blocks(folded, ends.flatten(0, 1), ON_CARD.forward, keep=False)
    state.copy_(ends[-1])
    return _unfold(outputs, inputs.x), starts


def _gradients_at_once(
    inputs: ScanInputs, starts: Tensor, gradient: Tensor, last: Tensor, rates_wanted: bool
) -> ScanGradients:
    count = len(starts)
    folded, outer = _folded(inputs, count), _fold(gradient, count)
    steps = folded.steps(slice(None), slice(None), inputs.rates())
    arrived, decay = torch.zeros_like(starts), steps.decay().view_as(starts)
    steps.retreat(arrived.flatten(0, 1), folded.of_outputs(outer, slice(None), slice(None)))
    carries = torch.empty_like(arrived)
    carries[-1] = last
    for number in reversed(range(1, count)):
        torch.addcmul(arrived[number], decay[number], carries[number], out=carries[number - 1])
    del steps, arrived, decay
    kept, carry = starts.flatten(0, 1).unsqueeze(0), carries.flatten(0, 1)
    found = _gradients(folded, kept, outer, carry, ON_CARD.backward, rates_wanted)
    x, delta, B, C = (_unfold(value, like) for value, like in zip(found[:4], (*inputs[:2], *inputs[3:5]), strict=True))
    z = None if found.z is None or inputs.z is None else _unfold(found.z, inputs.z)
    return ScanGradients(x, delta, B, C, z, found.rates, found.skip, carries[0])


def _folded(inputs: ScanInputs, count: int) -> ScanInputs:
    """Return the chunks of all sequences as sequences."""
    x, delta, B, C = (_fold(value, count) for value in (inputs.x, inputs.delta, inputs.B, inputs.C))
    z = None if inputs.z is None else _fold(inputs.z, count)
    return ScanInputs(x, delta, inputs.A, B, C, inputs.D, z)


def _fold(value: Tensor, count: int) -> Tensor:
    """Cut (N, any, L) into (K * N, any, CHUNK), time outermost in memory; steps of size zero fill the last chunk."""
    missing = count * CHUNK - value.shape[2]
    value = functional.pad(value, (0, missing)) if missing else value
    return value.unflatten(2, (count, CHUNK)).permute(3, 2, 0, 1).contiguous().flatten(1, 2).permute(1, 2, 0)


def _unfold(value: Tensor, like: Tensor) -> Tensor:
    """Put what `_fold` cut together again, laid out like the tensor that was cut."""
    whole = value.unflatten(0, (-1, len(like))).permute(1, 2, 0, 3).flatten(2)
    return torch.empty_like(like).copy_(whole[:, :, : like.shape[2]])
