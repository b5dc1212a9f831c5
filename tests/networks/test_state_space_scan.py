"""Selective scans by every way against the definition."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bdfm_nnunet.networks import mamba_kernel, scan_schedules, selective_scan
from bdfm_nnunet.networks.scan_schedules import BlockSizes
from tests.networks.scans import Arguments, arguments, definition

SINGLE = BlockSizes(1, 1)
"""Blocks of one sequence."""


@dataclass(frozen=True)
class Way:
    """A way to scan: where, in which precision, how exact."""

    device: str = "cpu"
    kind: torch.dtype = torch.float64
    tolerance: float = 1e-10

    def inputs(self, given: Arguments) -> Arguments:
        return given.to(self.device, self.kind)

    def close(self, found: Tensor | None, expected: Tensor) -> None:
        assert found is not None and found.dtype == self.kind
        scale = expected.abs().max().item() + 1e-30
        torch.testing.assert_close(found.double().cpu(), expected, rtol=0, atol=self.tolerance * scale)


def _kernel_here() -> bool:
    return torch.cuda.is_available() and mamba_kernel.INSTALLED and mamba_kernel._kernel() is not None


WAYS: dict[str, tuple[Way, dict[str, Any]]] = {
    "blocks": (Way(), {}),
    "blocks of one": (Way(), {"IN_CACHE": SINGLE}),
    "at once": (Way(), {"STEPWISE_DEVICES": ()}),
    "at once in blocks": (Way(), {"STEPWISE_DEVICES": (), "ON_CARD": SINGLE}),
    "single precision": (Way(kind=torch.float32, tolerance=3e-6), {}),
    "card": (Way("cuda"), {}),
    "kernel": (Way("cuda", torch.float32, 3e-5), {}),
}
MISSING = {
    "card": pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    "kernel": pytest.mark.skipif(not _kernel_here(), reason="needs a CUDA device and mamba-ssm"),
}


@pytest.fixture(params=[pytest.param(name, marks=MISSING.get(name, ())) for name in WAYS])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Way:
    found, settings = WAYS[request.param]
    for name, value in settings.items():
        monkeypatch.setattr(scan_schedules, name, value)
    if request.param == "card":
        monkeypatch.setattr(mamba_kernel, "serves", lambda *args: False)
    return found


def scanned(given: Arguments) -> tuple[Tensor, Tensor]:
    found = selective_scan(*given[:6], z=given.z, state=given.state, return_state=True)
    assert isinstance(found, tuple)
    return found


def score(outputs: Tensor, last: Tensor) -> Tensor:
    weights = torch.linspace(-3, 7, outputs.numel(), dtype=torch.float64, device=outputs.device).cos()
    return (outputs.double() * weights.view(outputs.shape)).sum() + last.double().square().sum()


def gradients(scan: Callable[[Arguments], tuple[Tensor, Tensor]], given: Arguments) -> tuple[Tensor, ...]:
    outputs, last = scan(given)
    return torch.autograd.grad(score(outputs, last), given.given())


@pytest.mark.parametrize("length", [1, 16, 17, 37])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_values_and_gradients(way: Way, length: int, bare: bool, count: int) -> None:
    exact = arguments(count, 5, 4, length, bare=bare)
    given = way.inputs(exact)
    for found, expected in zip(scanned(given), definition(exact), strict=True):
        way.close(found, expected)
    for found, expected in zip(gradients(scanned, given), gradients(definition, exact), strict=True):
        way.close(found, expected)


def test_every_sequence_can_start_from_its_state(way: Way) -> None:
    exact = arguments(3, 2, 3, 20, one_state=False)
    for found, expected in zip(gradients(scanned, way.inputs(exact)), gradients(definition, exact), strict=True):
        way.close(found, expected)


def test_a_scan_goes_on_from_a_state(way: Way) -> None:
    given = way.inputs(arguments(2, 3, 4, 50))
    whole, last = scanned(given)
    first = given._replace(x=given.x[..., :19], delta=given.delta[..., :19], B=given.B[..., :19], C=given.C[..., :19])
    second = given._replace(x=given.x[..., 19:], delta=given.delta[..., 19:], B=given.B[..., 19:], C=given.C[..., 19:])
    assert given.z is not None
    half, state = scanned(first._replace(z=given.z[..., :19]))
    rest, end = scanned(second._replace(z=given.z[..., 19:], state=state))
    way.close(torch.cat([half, rest], -1), whole.double().cpu())
    way.close(end, last.double().cpu())


@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_gradients_by_finite_differences(devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_schedules, "STEPWISE_DEVICES", devices)
    monkeypatch.setattr(scan_schedules, "CHUNK", 2)
    given = arguments(2, 2, 2, 5)
    assert torch.autograd.gradcheck(lambda *args: scanned(Arguments(*args)), tuple(given))


@pytest.mark.parametrize("name", Arguments._fields)
@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_only_what_wants_a_gradient_gets_one(
    name: str, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_schedules, "STEPWISE_DEVICES", devices)
    given = arguments(2, 3, 4, 20)
    expected = dict(zip(Arguments._fields, gradients(scanned, given), strict=True))
    alone = Arguments(*(None if value is None else value.detach() for value in given))
    wanted = getattr(alone, name).requires_grad_()
    outputs, last = scanned(alone)
    score(outputs, last).backward()
    torch.testing.assert_close(wanted.grad, expected[name])
    assert all(value.grad is None for value in alone.given() if value is not wanted)


def test_outputs_or_last_state_alone_have_gradients() -> None:
    given = arguments(2, 3, 4, 20)
    for part in range(2):
        of_part = (
            torch.autograd.grad(scan(given)[part].sum(), given.given(), materialize_grads=True)
            for scan in (scanned, definition)
        )
        for found, expected in zip(*of_part, strict=True):
            torch.testing.assert_close(found, expected)


def test_layouts_of_the_arguments_do_not_matter(way: Way) -> None:
    exact = arguments(3, 4, 4, 35)
    plain = way.inputs(exact)
    turned = {name: getattr(plain, name).transpose(1, 2).contiguous().transpose(1, 2) for name in ("x", "B", "z")}
    turned["C"] = torch.stack([plain.C, plain.C], -1).flatten(2)[..., ::2]
    turned["delta"] = plain.delta[:1, :1].expand(3, 4, -1)
    assert not any(value.is_contiguous() for value in turned.values())
    given = plain._replace(**{name: value.detach().requires_grad_() for name, value in turned.items()})
    exact = exact._replace(delta=exact.delta[:1, :1].detach().repeat(3, 4, 1).requires_grad_())
    for found, expected in zip(gradients(scanned, given), gradients(definition, exact), strict=True):
        way.close(found, expected)


@pytest.mark.parametrize("step", [0.0, 1e-30, 1e-3, 1e4, 1e30])
def test_any_step_size_is_fine(way: Way, step: float) -> None:
    exact = arguments(2, 3, 4, 40)
    given = way.inputs(exact._replace(delta=torch.full_like(exact.delta, step), x=exact.x / max(1, step)))
    given.delta.data[:, :, ::3] = 0  # some steps of size zero between the large ones
    outputs, last = scanned(given)
    for value in (outputs, last, *gradients(scanned, given)):
        assert value.isfinite().all()
    if step == 0:
        assert given.state is not None and (last == given.state).all()
    if step >= 1e4:  # nothing is left of what came before
        time = 38  # steps 39 and 36 are of size zero
        entered = given.delta[:, :, time, None] * given.x[:, :, time, None] * given.B[:, None, :, time]
        torch.testing.assert_close(last, entered)


@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_autocast_does_not_touch_the_state(devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_schedules, "STEPWISE_DEVICES", devices)
    given = arguments(2, 3, 4, 20).to(torch.float32)
    expected = (*scanned(given), *gradients(scanned, given))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = (*scanned(given), *gradients(scanned, given))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


@pytest.mark.parametrize("devices", [("cpu",), ()])
def test_inputs_of_half_precision_are_summed_in_single(
    devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_schedules, "STEPWISE_DEVICES", devices)
    given = arguments(2, 3, 4, 20).to(torch.bfloat16)
    single = given.to(torch.float32)
    outputs, last = scanned(given)
    expected, expected_last = scanned(single)
    assert (outputs.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(outputs, expected.bfloat16()) and torch.equal(last, expected_last)
    outer = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = torch.autograd.grad(outputs, given.given(), outer)
    for one, other in zip(found, torch.autograd.grad(expected, single.given(), outer.float()), strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), other, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_give_the_same_gradients(reentrant: bool) -> None:
    given = arguments(2, 3, 4, 20)
    score(*checkpoint(lambda *tensors: scanned(Arguments(*tensors)), *given, use_reentrant=reentrant)).backward()
    for value, expected in zip(given.given(), gradients(scanned, given), strict=True):
        assert value.grad is not None and torch.equal(value.grad, expected)


def test_two_runs_are_equal_to_the_bit(way: Way) -> None:
    given = way.inputs(arguments(4, 5, 4, 37))
    first, second = ((*scanned(given), *gradients(scanned, given)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_no_steps_leave_the_state() -> None:
    given = arguments(2, 3, 4, 1)
    empty = given._replace(**{name: getattr(given, name)[..., :0] for name in ("x", "delta", "B", "C", "z")})
    outputs, last = scanned(empty)
    assert given.state is not None and outputs.shape == (2, 3, 0)
    assert torch.equal(last, given.state.expand(2, -1, -1))
    (of_state,) = torch.autograd.grad(last.sum(), [given.state])
    assert (of_state == 2).all()


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("delta", (2, 3, 6), r"\[2, 3, 5\]"),
        ("A", (2, 4), r"\[3, 2\]"),
        ("B", (2, 3, 5), r"\[2, 4, 5\]"),
        ("C", (1, 4, 5), r"\[2, 4, 5\]"),
        ("D", (4,), r"\[3\]"),
        ("z", (3, 2, 5), r"\[2, 3, 5\]"),
        ("state", (3, 3, 4), r"\[2, 3, 4\] or \[1, 3, 4\]"),
    ],
)
def test_shapes_that_do_not_fit(name: str, shape: tuple[int, ...], expected: str) -> None:
    given = arguments(2, 3, 4, 5)
    with pytest.raises(ValueError, match=f"{name} is|B is") as caught:
        scanned(given._replace(**{name: torch.zeros(shape)}))
    assert name == "A" or caught.match(expected)
    with pytest.raises(ValueError, match="N, channels, length"):
        scanned(given._replace(x=given.x[0]))


def test_the_way_is_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_schedules._say_once.cache_clear()
    given = arguments(1, 2, 2, 20)
    with caplog.at_level(logging.INFO, logger=scan_schedules.__name__):
        for devices in (("cpu",), ()):
            monkeypatch.setattr(scan_schedules, "STEPWISE_DEVICES", devices)
            scanned(given)
            scanned(given)
    assert [record.getMessage() for record in caplog.records] == [
        "Selective scans use plain PyTorch, chunk after chunk",
        "Selective scans use plain PyTorch, all chunks at once",
    ]


@pytest.mark.parametrize("serves", [False, True])
def test_the_kernel_is_used_where_it_serves(serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(1, 2, 2, 3)
    monkeypatch.setattr(mamba_kernel, "serves", lambda *args: serves)
    monkeypatch.setattr(mamba_kernel, "scan", lambda *args, return_state: "by the kernel")
    assert (selective_scan(*given[:6], z=given.z) == "by the kernel") == serves


@pytest.mark.slow
def test_compilers_take_a_scan_as_a_whole() -> None:
    given = arguments(2, 3, 4, 20)
    compiled = torch.compile(lambda *tensors: scanned(Arguments(*tensors)), backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(*given), scanned(given), strict=True):
        assert torch.equal(found, expected)
    found = gradients(lambda same: compiled(*same), given)
    assert all(torch.equal(one, other) for one, other in zip(found, gradients(scanned, given), strict=True))
