"""Scans are counted like the other operations of a network, without being done."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bdfm_nnunet.networks import selective_scan
from bdfm_nnunet.networks.flop_counting import FlopCounter
from bdfm_nnunet.networks.network_costs import count_costs
from tests.networks.scans import Arguments, arguments

CELLS = 2 * 3 * 4 * 20
"""Numbers in the states of all steps of the arguments below."""


def _both_passes(counter: FlopCounter, given: Arguments) -> tuple[int, int]:
    with counter:
        outputs = selective_scan(*given[:6], z=given.z, state=given.state)
        assert isinstance(outputs, Tensor)
        forward = counter.flops
        outputs.sum().backward()
    return forward, counter.flops - forward


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("bare", [False, True])
def test_seven_operations_forwards_and_nineteen_backwards(device: str, bare: bool) -> None:
    given = arguments(2, 3, 4, 20, bare=bare).to(device)
    gate = 0 if bare else 2  # the outputs are computed again
    assert _both_passes(FlopCounter(device), given) == (7 * CELLS, (19 + gate) * CELLS)


def test_pytorch_counts_alike() -> None:
    given = arguments(2, 3, 4, 20).to("meta")
    counter = FlopCounterMode(display=False)
    with counter:
        outputs = selective_scan(*given[:6], z=given.z)
        assert isinstance(outputs, Tensor)
        outputs.sum().backward()
    assert counter.get_total_flops() == (7 + 21) * CELLS


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_results_without_content_are_laid_out_as_real_ones(kind: torch.dtype) -> None:
    real = arguments(2, 3, 4, 20).to(kind)
    real = real._replace(x=real.x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_())
    found = []
    for given in (real, real.to("meta")):
        outputs, last = selective_scan(*given[:6], z=given.z, state=given.state, return_state=True)
        results = outputs, last, *torch.autograd.grad([outputs, last], given.given(), [outputs, last])
        found.append([(each.shape, each.stride(), each.dtype) for each in results])
    assert found[0] == found[1]


class Scan(nn.Module):
    """A network of nothing but a scan, whose step sizes, inputs and outputs are the images."""

    def __init__(self) -> None:
        super().__init__()
        self.A_log, self.D = nn.Parameter(torch.zeros(3, 4)), nn.Parameter(torch.ones(3))
        self.weights = nn.Conv1d(3, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        B, C = self.weights(images).chunk(2, 1)
        outputs = selective_scan(images, images.abs(), -self.A_log.exp(), B, C, self.D, z=images)
        assert isinstance(outputs, Tensor)
        return outputs


@pytest.mark.parametrize("shape", [(2, 3, 40), (5, 3, 7)])
def test_a_network_costs_on_the_meta_device_what_it_costs_in_a_real_pass(shape: tuple[int, ...]) -> None:
    costs = count_costs(Scan, shape)
    assert costs == count_costs(Scan, shape, device="cpu")
    steps = shape[0] * shape[2]
    assert costs.forward_flops == steps * (7 * 3 * 4 + 2 * 3 * 8)


def test_memory_is_counted_with_the_states_that_are_kept() -> None:
    kept = [count_costs(Scan, (2, 3, length), flops=False).activation_bytes for length in (31, 32, 33)]
    a_step, a_step_and_a_state = kept[1] - kept[0], kept[2] - kept[1]
    assert a_step_and_a_state - a_step == 2 * 3 * 4 * 4
