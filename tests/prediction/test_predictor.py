"""Our predictor beside nnU-Net's on the same untrained networks, whose answers are noise: any difference shows."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from bdfm_nnunet.prediction.predictor import Options, Predictor, windows_that_fit
from tests.networks.zoo import NETWORKS
from tests.prediction.models import CLASSES, REGIONS, brain_like, predictors
from tests.recording import RecordedTypes

FP32 = Options(precision="fp32")


def both(volume: Tensor, *args: Any, **settings: Any) -> tuple[Tensor, Tensor, Predictor]:
    """Logits of nnU-Net's predictor and of ours, and ours."""
    stock, ours = predictors(*args, **settings)
    results = [predictor.predict_logits_from_preprocessed_data(volume.clone()) for predictor in (stock, ours)]
    return results[0], results[1], ours


# eight passes each with all axes mirrored: no network needs them for itself
_MIRRORED_IN_ALL = [
    pytest.param(kind, (0, 1, 2), marks=() if kind == "swin" else pytest.mark.slow) for kind in NETWORKS
]


@pytest.mark.parametrize(
    ("kind", "mirrored"), [(kind, axes) for kind in NETWORKS for axes in (None, (0,))] + _MIRRORED_IN_ALL
)
def test_logits_are_those_of_nnunet(kind: str, mirrored: tuple[int, ...] | None) -> None:
    expected, found, _ = both(brain_like(2), kind, mirrored=mirrored, options=FP32)
    assert found.dtype == expected.dtype == torch.half
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)  # half precision: 1e-3 relative a sum


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 1},
        {"channels": 4, "labels": REGIONS},
        {"folds": 2, "mirrored": (1, 2)},
        {"use_gaussian": False},
        {"tile_step_size": 0.75},
        {"options": Options(precision="fp32", windows=3)},
        {"options": Options(precision="fp32", windows=3), "mirrored": (0, 1)},
        {"options": Options(precision="fp32", windows=9), "mirrored": (0, 1)},
    ],
    ids=str,
)
def test_logits_are_those_of_nnunet_with(settings: dict[str, Any]) -> None:
    volume = brain_like(settings.get("channels", 2))
    expected, found, _ = both(volume, **({"options": FP32} | settings))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("background", [0.0, -0.7])
def test_windows_without_brain_are_computed_once(background: float) -> None:
    expected, found, ours = both(brain_like(2, background=background), options=FP32)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)
    assert (ours.windows_seen, ours.windows_computed) == (3 * 2 * 4, 1 * 2 * 2 + 1 * 2 * 2 + 1)


def test_a_volume_smaller_than_the_patch_is_padded() -> None:
    expected, found, _ = both(brain_like(2, (12, 24, 15)), options=FP32)
    assert found.shape == (3, 12, 24, 15)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("settings", [{"kind": kind, "mirrored": (0,)} for kind in NETWORKS] + [{"folds": 2}], ids=str)
def test_reduced_precision_stays_close(precision: str, settings: dict[str, Any]) -> None:
    volume = torch.randn((2, 24, 16, 24), generator=torch.Generator().manual_seed(3))
    expected, found, _ = both(volume, **settings, options=Options(precision=precision))
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert 0 < error < (0.03 if precision == "bf16" else 0.01)


def test_threads_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert predictors()[1].threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert predictors()[1].threads == torch.get_num_threads()


class _CannotBeCompiled:
    """What `torch.compile` makes of a network for which the compiler fails at the first pass."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._orig_mod = network

    def __call__(self, images: Tensor) -> Tensor:
        raise TorchDynamoException("no compiler\nlong story")


def test_a_network_that_cannot_be_compiled_runs_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    stock, ours = predictors(options=FP32)
    monkeypatch.setattr("bdfm_nnunet.prediction.predictor.OptimizedModule", _CannotBeCompiled)
    ours.network = _CannotBeCompiled(ours.network)
    images = torch.randn(1, 2, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(ours._run_network(images), ours.network(images))
    assert "no compiler): going on without it" in caplog.text


def test_the_network_is_compiled_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda network: compiled.append(network) or network)
    predictors(options=FP32)
    assert not compiled
    _, ours = predictors(options=Options(precision="fp32", compile=True))
    assert compiled == [ours.network]


def test_windows_on_cuda_are_as_many_as_fit() -> None:
    assert [windows_that_fit(10_000, needed) for needed in (1, 1_000, 3_000, 20_000)] == [4, 4, 2, 1]


def test_labels_and_regions_have_their_own_number_of_classes() -> None:
    for labels, classes in ((CLASSES, 3), (REGIONS, 2)):
        _, ours = predictors(labels=labels, options=FP32)
        assert len(ours.predict_logits_from_preprocessed_data(brain_like(2))) == classes


@pytest.mark.parametrize("native", [False, True])
def test_a_cpu_predicts_in_bf16_where_it_has_units_for_it(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdfm_nnunet.prediction.inference_precision.multiplies_bf16", lambda: native)
    _, ours = predictors("plain")
    with RecordedTypes() as types:
        ours.predict_logits_from_preprocessed_data(brain_like(2, (16, 16, 16)))
    assert (torch.bfloat16 in types.seen) is native and torch.float32 in types.seen
