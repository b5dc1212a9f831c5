"""What a scan holds at once, keeps, and how many operations it starts."""

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.networks import scan_schedules, selective_scan
from bdfm_nnunet.networks.scan_schedules import CHUNK, BlockSizes
from tests.networks.scans import Watch, arguments, definition

COUNT, CHANNELS, STATES, LENGTH = 6, 32, 16, 64
STATE = CHANNELS * STATES
EVERYTHING = LENGTH * COUNT * STATE
STARTS = EVERYTHING // CHUNK
"""Numbers in the states at the starts of the chunks."""


def both_passes(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], sizes: BlockSizes, *, length: int = LENGTH
) -> list[Watch]:
    """What the forward and the backward pass do."""
    for name, value in (("STEPWISE_DEVICES", devices), ("IN_CACHE", sizes), ("ON_CARD", sizes)):
        monkeypatch.setattr(scan_schedules, name, value)
    given = arguments(COUNT, CHANNELS, STATES, length).to(torch.float32)
    with Watch() as forward:
        outputs = selective_scan(*given[:6], z=given.z, state=given.state)
    assert isinstance(outputs, Tensor)
    with Watch() as backward:
        outputs.sum().backward()
    return [forward, backward]


def test_no_tensor_has_the_states_of_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    forward, backward = both_passes(monkeypatch, ("cpu",), BlockSizes(2 * STATE, 2 * STATE))
    assert forward.largest == STARTS == EVERYTHING // 16
    assert backward.largest == (CHUNK + 1) * 2 * STATE < EVERYTHING / 10


def test_the_bound_of_a_card_does_not_grow_with_the_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = both_passes(monkeypatch, (), BlockSizes(2 * STATE, 2 * STATE))
    assert forward.largest == STARTS
    assert backward.largest == (CHUNK + 1) * 2 * STATE < EVERYTHING / 10


def test_all_chunks_at_once_start_few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = BlockSizes(1 << 24, 1 << 24)
    one_by_one = both_passes(monkeypatch, ("cpu",), sizes, length=256)
    at_once = both_passes(monkeypatch, (), sizes, length=256)
    assert all(watch.operations < 300 for watch in at_once)
    assert all(one.operations > 4 * other.operations for one, other in zip(one_by_one, at_once))


@pytest.mark.parametrize("devices", [("cpu",), ()])
@pytest.mark.parametrize("length", [16, 256, 250])
def test_kept_are_the_arguments_and_every_sixteenth_state(
    length: int, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_schedules, "STEPWISE_DEVICES", devices)
    given = arguments(2, 3, 4, length)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        selective_scan(*given[:6], z=given.z, state=given.state)
    starts = -(-length // 16) * 2 * 3 * 4 * 8
    assert sum(kept.values()) == starts + sum(value.nbytes for value in given[:7] if value is not None)


def test_nothing_is_kept_without_gradients() -> None:
    given = arguments(2, 3, 4, 40)
    with torch.no_grad(), Watch() as watch:
        outputs = selective_scan(*given[:5])
    assert isinstance(outputs, Tensor) and not outputs.requires_grad
    assert watch.largest <= max(given.x.numel(), given.B.numel())


def test_blocks_grow_with_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_schedules, "IN_CACHE", BlockSizes(12, 12))  # a sequence a thread
    given = arguments(4, 3, 4, 16, bare=True)
    counts = []
    for threads in (1, 2, 4):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        with Watch() as watch:
            outputs = selective_scan(*given[:5])
        assert isinstance(outputs, Tensor)
        torch.testing.assert_close(outputs, definition(given)[0])
        counts.append(watch.operations)
    assert counts[0] > 1.8 * counts[1] > 3 * counts[2]
