import copy
from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.number_types import multiplies_bf16
from bdfm_nnunet.prediction import inference_precision
from bdfm_nnunet.prediction.inference_precision import autocast_type, keep_logits_exact, to_channels_last
from tests.networks.zoo import network
from tests.prediction.models import weights_of


@pytest.mark.parametrize(
    ("chosen", "device", "native", "expected"),
    [
        ("auto", "cuda", False, torch.float16),
        ("auto", "cpu", True, torch.bfloat16),
        ("auto", "cpu", False, None),
        ("auto", "mps", True, None),
        ("fp32", "cuda", True, None),
        ("bf16", "cpu", False, torch.bfloat16),
        ("fp16", "cpu", False, torch.float16),
    ],
)
def test_types(chosen: str, device: str, native: bool, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference_precision, "multiplies_bf16", lambda: native)
    assert autocast_type(chosen, device) is expected


@pytest.mark.parametrize("kind", ["swin", "resenc", "plain"])
@pytest.mark.parametrize("batch", [1, 2])
def test_channels_last_changes_nothing_but_the_layout(kind: str, batch: int) -> None:
    model = network(kind, 2, 3).eval()
    model.load_state_dict(weights_of(kind, 2, 3, 0))
    changed = copy.deepcopy(model)
    to_channels_last(changed, 3)
    assert list(changed.state_dict()) == list(model.state_dict())
    assert not any(isinstance(module, nn.InstanceNorm3d | nn.AvgPool3d) for module in changed.modules())
    images = torch.randn(batch, 2, 16, 32, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(changed(images), model(images), rtol=1e-3, atol=1e-3)
        changed.load_state_dict(weights_of(kind, 2, 3, 1))
        model.load_state_dict(weights_of(kind, 2, 3, 1))
        torch.testing.assert_close(changed(images), model(images), rtol=1e-3, atol=1e-3)


def test_what_would_change_the_result_stays() -> None:
    kept = nn.Sequential(
        nn.InstanceNorm3d(2, track_running_stats=True),
        nn.AvgPool3d(3),  # a third has no exact bf16
        nn.AvgPool3d(2, stride=1),
        nn.AvgPool3d(2, padding=1),
        nn.AvgPool3d(2, ceil_mode=True),
        nn.AvgPool3d(2, divisor_override=3),
        nn.BatchNorm3d(2),
    )
    before = list(kept)
    to_channels_last(kept, 3)
    assert list(kept) == before


def test_two_axes() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.AvgPool2d((1, 2), ceil_mode=False)).eval()
    changed = copy.deepcopy(model)
    to_channels_last(changed, 2)
    images = torch.randn(2, 1, 9, 12)
    torch.testing.assert_close(changed(images), model(images), rtol=1e-4, atol=1e-5)
    assert type(changed[1]) is not nn.InstanceNorm2d and type(changed[2]) is not nn.AvgPool2d


@pytest.mark.parametrize("batch", [1, 2])
def test_replaced_layers_keep_the_channels_innermost(batch: int) -> None:
    layers = nn.Sequential(nn.InstanceNorm3d(8, affine=True), nn.AvgPool3d(2)).eval()
    features = torch.randn(batch, 8, 8, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    assert not layers[0](features).is_contiguous(memory_format=torch.channels_last_3d)
    to_channels_last(layers, 3)
    for layer in layers:
        features = layer(features)
        assert features.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.skipif(not multiplies_bf16(), reason="without units for bf16 PyTorch's convolutions choose another layout")
def test_bf16_features_keep_the_channels_innermost() -> None:
    model = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.InstanceNorm3d(8, affine=True), nn.AvgPool3d(2)).eval()
    to_channels_last(model, 3)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(torch.randn(1, 2, 8, 8, 8))
    assert features.dtype == torch.bfloat16 and features.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("kind", ["resenc", "plain", "swin"])
def test_logits_are_not_rounded_to_bf16(kind: str) -> None:
    model = network(kind, 2, 3).eval()
    names, head, seen = list(model.state_dict()), model.decoder.seg_layers[-1], []
    keep_logits_exact(model)
    head.register_forward_pre_hook(lambda _, features: seen.append(features[0]))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.randn(1, 2, 32, 32, 32))
    assert seen[-1].dtype == torch.bfloat16 and logits.dtype == torch.float32
    expected = nn.functional.conv3d(seen[-1].float(), head.weight, head.bias)
    torch.testing.assert_close(logits, expected)
    assert (logits != logits.bfloat16()).float().mean() > 0.5
    assert list(model.state_dict()) == names
