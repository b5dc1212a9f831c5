"""How mamba-ssm's kernel is found and called; what it computes is compared in test_state_space_scan.py, on a card."""

import builtins
import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.networks import mamba_kernel
from tests.networks.scans import Arguments, arguments, definition


@pytest.fixture(autouse=True)
def _looked_for_anew() -> Iterator[None]:
    mamba_kernel._kernel.cache_clear()
    yield
    mamba_kernel._kernel.cache_clear()


def strict_kernel(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *more: Any, **settings: Any) -> Any:
    """Takes what the CUDA code takes, by position as in mamba-ssm 1 and 2."""
    D, z = more
    for value in (u, delta, A, B, C, *(value for value in (D, z) if value is not None)):
        assert value.dtype == torch.float32 and value.is_contiguous()
    outputs, last = definition(Arguments(u, delta, A, B, C, D, z))
    return (outputs, last) if settings["return_last_state"] else outputs


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_kernel, "INSTALLED", True)
    names = ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules[names[-1]].selective_scan_fn = strict_kernel  # type: ignore[attr-defined]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bare", [False, True])
def test_the_kernel_gets_what_it_takes(kind: torch.dtype, bare: bool) -> None:
    given = arguments(2, 3, 4, 9, bare=bare).to(kind)
    given = given._replace(x=given.x.transpose(1, 2).contiguous().transpose(1, 2))
    expected, expected_last = definition(given.to(torch.float64)._replace(state=None))
    outputs, last = mamba_kernel.scan(*given[:7], return_state=True)
    assert (outputs.dtype, last.dtype) == (kind, torch.float32)
    torch.testing.assert_close(outputs.double(), expected, rtol=2**-7, atol=1e-5)
    torch.testing.assert_close(last.double(), expected_last, rtol=1e-5, atol=1e-5)
    assert torch.equal(mamba_kernel.scan(*given[:7], return_state=False), outputs)


def _on_card(shape: tuple[int, ...] = (2, 3, 9), kind: torch.dtype = torch.float32) -> Any:
    return SimpleNamespace(is_cuda=True, dtype=kind, shape=shape, numel=lambda: torch.Size(shape).numel())


@pytest.mark.usefixtures("installed")
def test_the_kernel_serves_single_precision_on_a_card_from_zero() -> None:
    x, A, state = _on_card(), _on_card((3, 16)), torch.zeros(1, 3, 16)
    assert mamba_kernel.serves(x, x, A, None)
    assert mamba_kernel.serves(_on_card(kind=torch.bfloat16), x, A, None)
    assert not mamba_kernel.serves(torch.zeros(2, 3, 9), torch.zeros(2, 3, 9), torch.zeros(3, 16), None)
    assert not mamba_kernel.serves(x, x, A, state)
    assert not mamba_kernel.serves(x, x, _on_card((3, 257)), None)
    assert not mamba_kernel.serves(_on_card(kind=torch.float64), x, A, None)
    assert not mamba_kernel.serves(x, _on_card(kind=torch.float64), A, None)
    assert not mamba_kernel.serves(_on_card((0, 3, 9)), x, A, None)


@pytest.mark.usefixtures("installed")
def test_its_use_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=mamba_kernel.__name__):
        for _ in range(2):
            assert mamba_kernel.serves(_on_card(), _on_card(), _on_card((3, 16)), None)
    assert [record.getMessage() for record in caplog.records] == ["Selective scans on CUDA use the kernel of mamba-ssm"]


def test_without_the_package_nothing_is_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(mamba_kernel, "INSTALLED", False)
    with caplog.at_level(logging.INFO):
        assert not mamba_kernel.serves(_on_card(), _on_card(), _on_card((3, 16)), None)
    assert not caplog.records


@pytest.mark.parametrize(
    "error",
    [
        ImportError("undefined symbol: _ZN3c10"),
        ModuleNotFoundError("No module named 'causal_conv1d'", name="causal_conv1d"),
        RuntimeError("no driver"),
    ],
)
def test_a_package_that_cannot_be_imported_is_told_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = builtins.__import__

    def imported(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("mamba_ssm"):
            raise error
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.setattr(mamba_kernel, "INSTALLED", True)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert not mamba_kernel.serves(_on_card(), _on_card(), _on_card((3, 16)), None)
    assert len(caplog.records) == 1 and str(error) in caplog.text
