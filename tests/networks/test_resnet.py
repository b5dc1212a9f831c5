"""The encoder against a plain transcription with PyTorch's functions, and against MONAI's where that is installed."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.networks import ResNet18, encoder_of
from tests.checkpoints.simclr_weights import weights_of

CONV: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
POOL: dict[int, Any] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _encoder(**changes: Any) -> ResNet18:
    encoder = ResNet18(**({"features": (4, 6, 8, 10)} | changes))
    encoder.load_state_dict(weights_of(encoder))
    return encoder


def _transcribed(images: Tensor, weights: dict[str, Tensor], strides: Any, *, training: bool) -> list[Tensor]:
    """ResNet-18 from its figure: names of the released file, statistics in `weights` changed by training."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, var, scale, shift, training=training)

    conv = CONV[images.ndim - 2]
    x = conv(images, weights["conv1.weight"], stride=strides[0], padding=3)
    features = [functional.relu(norm(x, "bn1"))]
    x = POOL[images.ndim - 2](features[0], 3, stride=strides[1], padding=1)
    for layer in range(1, 5):
        for block in range(2):
            name = f"layer{layer}.{block}"
            step = strides[layer] if layer > 1 and block == 0 else [1] * len(strides[0])
            shortcut = x
            if f"{name}.downsample.0.weight" in weights:
                kernel, bias = weights[f"{name}.downsample.0.weight"], weights[f"{name}.downsample.0.bias"]
                shortcut = norm(conv(x, kernel, bias, stride=step), f"{name}.downsample.1")
            y = functional.relu(norm(conv(x, weights[f"{name}.conv1.weight"], stride=step, padding=1), f"{name}.bn1"))
            y = norm(conv(y, weights[f"{name}.conv2.weight"], padding=1), f"{name}.bn2")
            x = functional.relu(y + shortcut)
        features.append(x)
    return features


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(16, 32, 24), (17, 19, 33)])
def test_it_computes_what_its_figure_says(size: tuple[int, ...], training: bool) -> None:
    torch.manual_seed(0)
    encoder, images = _encoder(in_channels=2).train(training), torch.randn(2, 2, *size)
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    expected = _transcribed(images, weights, encoder.strides, training=training)
    for ours, theirs in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    for name, value in encoder.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(value, weights[name])


@pytest.mark.parametrize("strides", [((1,), (2,), (2,), (2,), (2,)), ((1, 1), (1, 2), (2, 2), (2, 2), (2, 1))])
def test_other_axes_and_strides(strides: Any) -> None:
    torch.manual_seed(0)
    encoder = _encoder(strides=strides).eval()
    images = torch.randn(2, 1, *(37, 50)[: len(strides[0])])
    expected = _transcribed(images, encoder.state_dict(), strides, training=False)
    for ours, theirs in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_gradients_reach_every_parameter() -> None:
    encoder = _encoder()
    sum(feature.square().mean() for feature in encoder(torch.randn(2, 1, 32, 32, 32))[-1:]).backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_the_view_states_what_it_gives() -> None:
    view = encoder_of(ResNet18(3))
    assert (view.in_channels, view.channels) == (3, (64, 64, 128, 256, 512))
    assert view.strides == tuple((n, n, n) for n in (1, 2, 4, 8, 16))
    assert sum(parameter.numel() for parameter in ResNet18().parameters()) == 33_160_896


@pytest.mark.parametrize(
    "changes", [{"features": (4, 8, 16)}, {"strides": ((1, 1, 1),) * 4}, {"strides": ((1, 1),) + ((2, 2, 2),) * 4}]
)
def test_other_shapes_are_no_resnet18(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="four stages and five strides"):
        ResNet18(**changes)


@pytest.mark.parametrize("training", [False, True])
def test_monai_gives_the_same(training: bool) -> None:
    resnet = pytest.importorskip("monai.networks.nets.resnet")
    theirs = resnet.ResNet("basic", [2, 2, 2, 2], [4, 6, 8, 10], n_input_channels=1, feed_forward=False)
    ours = _encoder()
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 1, 33, 40, 47)
    found = ours.train(training)(images)[-1].flatten(2).mean(2)
    torch.testing.assert_close(found, theirs.train(training)(images).flatten(1))
