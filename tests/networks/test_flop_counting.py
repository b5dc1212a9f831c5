"""What is counted with fast answers on the meta device is what PyTorch's own counter counts with its own answers."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from bdfm_nnunet.networks import swin
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.flop_counting import FlopCounter, FusedAttention
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_costs import count_costs
from bdfm_nnunet.objectives import frequency_decoder
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import PretrainingSettings

Build = Callable[[], nn.Module]


def swin_unet(axes: int, **settings: Any) -> dict[str, Any]:
    kwargs = {
        "strides": [[1] * axes, [4] * axes, [2] * axes], "features_per_stage": [4, 8, 16], "depths": [2, 2],
        "num_heads": [2, 2], "window_size": [3] * axes, **settings,
    }  # fmt: skip
    name = "bdfm_nnunet.networks.swin_unet.SwinUNet"
    return {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": []}


def convolutional(name: str, axes: int, strides: Sequence[int] = (1, 2, 2)) -> dict[str, Any]:
    kwargs = {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "kernel_sizes": [[3] * axes] * 3,
        "strides": [[stride] * axes for stride in strides], "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
        "n_conv_per_stage" if name == "PlainConvUNet" else "n_blocks_per_stage": [1, 2, 2],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d", "dropout_op": None, "dropout_op_kwargs": None,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d", "norm_op_kwargs": {"affine": True},
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
    }  # fmt: skip
    name = f"dynamic_network_architectures.architectures.unet.{name}"
    return {
        "network_class_name": name, "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }  # fmt: skip


ARCHITECTURES = {
    "swin": (swin_unet(3), [(16, 16, 16), (32, 24, 16)]),
    "swin 2d": (swin_unet(2), [(32, 32), (64, 48)]),
    "swin legacy": (swin_unet(3, legacy=True), [(16, 16, 32)]),
    "swin recomputed": (swin_unet(3, gradient_checkpointing=True, drop_path_rate=0.0), [(16, 16, 32)]),
    "plain": (convolutional("PlainConvUNet", 3), [(16, 16, 16), (32, 20, 8)]),
    "plain 2d": (convolutional("PlainConvUNet", 2, (1, 4, 2)), [(32, 48)]),
    "residual": (convolutional("ResidualEncoderUNet", 3), [(16, 16, 16), (32, 20, 8)]),
}
PRETRAININGS: dict[str, dict[str, Any]] = {
    "default": {},
    "simmim": PRESETS["simmim"].settings,
    "published": asdict(PretrainingSettings.published(legacy_frequency_loss=False)),
    "zero padding": {"frequency_padding": "zero", "mask_token": "image_mean"},
    "magnitude": {"frequency_output": "magnitude", "decoder": "final"},
    "serial": {"frequency_decoder": "serial", "frequency_target": "patch_normalised"},
    "fft of patches": {"patch_size": 16, "mask_ratio": 0.5},
}


def build(architecture: dict[str, Any], pretraining: dict[str, Any] | None) -> nn.Module:
    configuration = {"architecture": architecture, "patch_size": architecture["arch_kwargs"]["strides"][0]}
    network = build_network(configuration, inputs=2, outputs=3, deep_supervision=pretraining is None, initialise=False)
    if pretraining is None:
        return network
    settings = PretrainingSettings(**{"block_size": 1, **pretraining})
    return MaskedImageModelling(encoder_of(network), settings)


def by_pytorch(make: Build, shape: Sequence[int]) -> tuple[int, int, int]:
    """Bytes of activations, FLOPs of both passes, on the meta device, with PyTorch's own answers and counter."""
    with torch.device("meta"):
        network = make()
    network.train()
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    images = torch.zeros(*shape, device="meta")
    network(images)
    counter = FlopCounterMode(display=False)
    with counter, FusedAttention(), saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = network(images)
    forward = counter.get_total_flops()
    outputs = [outputs["loss"]] if isinstance(outputs, dict) else outputs
    loss = sum(output.sum() for output in ([outputs] if isinstance(outputs, Tensor) else outputs))
    with counter:
        loss.backward()
    return sum(part.nbytes() for key, part in saved.items() if key not in own), forward, counter.get_total_flops()


def assert_counted_alike(make: Build, shape: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    costs = count_costs(make, shape)
    for module in (swin, frequency_decoder):
        monkeypatch.setattr(module, "recomputed", partial(checkpoint, use_reentrant=False))
    assert (costs.activation_bytes, costs.forward_flops, costs.backward_flops) == by_pytorch(make, shape)
    assert costs.forward_flops and costs.backward_flops


@pytest.mark.parametrize(
    ("name", "patch"), [(name, patch) for name, (_, patches) in ARCHITECTURES.items() for patch in patches]
)
def test_a_step_of_fine_tuning(name: str, patch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_counted_alike(partial(build, ARCHITECTURES[name][0], None), (1, 2, *patch), monkeypatch)


VISIBLE: dict[str, dict[str, Any]] = {
    "visible": {"encode": "visible", "block_size": None},
    "a share rebuilt": {"encode": "visible", "block_size": None, "rebuild": 0.5, "mask_token": "image_mean"},
}


@pytest.mark.parametrize("pretraining", VISIBLE)
@pytest.mark.parametrize("name", ["swin", "swin 2d", "swin recomputed"])
def test_a_step_that_encodes_what_is_visible(name: str, pretraining: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make = partial(build, ARCHITECTURES[name][0], VISIBLE[pretraining])
    assert_counted_alike(make, (1, 2, *ARCHITECTURES[name][1][-1]), monkeypatch)


@pytest.mark.parametrize("pretraining", PRETRAININGS)
@pytest.mark.parametrize("name", ["swin", "plain 2d", "residual"])
def test_a_step_of_pretraining(name: str, pretraining: str, monkeypatch: pytest.MonkeyPatch) -> None:
    architecture, patches = ARCHITECTURES[name]
    patch = tuple(max(32, size) for size in patches[0])  # two patches of 16 an axis
    make = partial(build, architecture, PRETRAININGS[pretraining])
    assert_counted_alike(make, (1, 2, *patch), monkeypatch)


def test_recomputed_blocks_cost_on_the_meta_device_what_they_cost_in_a_real_pass() -> None:
    make = partial(build, ARCHITECTURES["swin recomputed"][0], None)
    assert count_costs(make, (2, 2, 16, 16, 16)) == count_costs(make, (2, 2, 16, 16, 16), device="cpu")


class Attention(nn.Module):
    """Layers that none of our networks has."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.GroupNorm(2, 8), nn.SiLU(), nn.Dropout2d(0.1), nn.Upsample(scale_factor=2),
            nn.ConvTranspose2d(8, 8, 3, stride=2, padding=1, output_padding=1, bias=False), nn.PReLU(),
        )  # fmt: skip
        self.project = nn.Linear(8, 24)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.project(self.layers(images).flatten(2).transpose(1, 2))
        query, key, value = tokens.unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return functional.scaled_dot_product_attention(query, key, value)


def test_layers_of_other_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_counted_alike(Attention, (1, 2, 16, 16), monkeypatch)


OPERATIONS: dict[str, Callable[[Tensor], Any]] = {
    "strided convolution": lambda x: functional.conv3d(x, x.new_zeros(4, 1, 3, 2, 1), stride=(2, 1, 3),
                                                       padding=(1, 0, 2), dilation=(1, 2, 1), groups=2),
    "transposed convolution": lambda x: functional.conv_transpose3d(x, x.new_zeros(2, 3, 3, 3, 3), stride=2, padding=1,
                                                                    output_padding=1, dilation=2),
    "instance norm": lambda x: functional.instance_norm(x),
    "layer norm": lambda x: functional.layer_norm(x, x.shape[3:]),
    "fft": lambda x: torch.fft.fftn(x, dim=(2, 3, 4)),
    "fft of a permuted image": lambda x: torch.fft.ifftn(x.movedim(1, -1), dim=(1, 2)),
    "half an fft": lambda x: torch.fft.rfftn(x, dim=(2, 4)),
    "magnitude": lambda x: torch.complex(x, x).abs(),
    "where": lambda x: torch.where(x[:, :1] > 0, x, x.new_zeros(())),
    "roll and flip": lambda x: x.movedim(1, -1).roll((1, 2), (1, 2)).flip(1),
    "index": lambda x: x.index_select(-2, torch.zeros(7, dtype=torch.long, device=x.device)),
    "remainder": lambda x: torch.arange(5, device=x.device) % 3,
    "remainder of a fraction": lambda x: torch.arange(5, device=x.device) % 1.5,
    "moments": lambda x: torch.var_mean(x, dim=(2, 3), keepdim=True, unbiased=False),
    "stack": lambda x: torch.stack([x, x], -1),
    "sort": lambda x: x.argsort(dim=1),
    "broadcast": lambda x: x.movedim(1, -1) * x.new_zeros(2) + 1,
    "out": lambda x: torch.mul(x, 2, out=x.new_empty(0)),
    "in place": lambda x: x.clone().clamp_min_(0).add_(x.double()),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_laid_out_as_on_a_processor(name: str) -> None:
    real = OPERATIONS[name](torch.zeros(3, 2, 6, 5, 8))
    with FlopCounter("meta"):
        told = OPERATIONS[name](torch.zeros(3, 2, 6, 5, 8, device="meta"))
    pairs = list(zip(*((each,) if isinstance(each, Tensor) else each for each in (real, told)), strict=True))
    assert [(one.shape, one.stride(), one.dtype) for one, _ in pairs] == [
        (other.shape, other.stride(), other.dtype) for _, other in pairs
    ]
    assert all(other.is_meta for _, other in pairs)


def test_what_runs_elsewhere_is_done_and_not_counted() -> None:
    with FlopCounter("meta") as counter:
        product = torch.ones(2, 3) @ torch.ones(3, 4)
    assert product.sum() == 24 and counter.flops == 0


PROGRAM = """
import sys
from functools import partial
from tests.networks import test_flop_counting as cases
imported = {"torch._dynamo", "sympy"} & set(sys.modules)
assert not imported, f"the tests themselves import {imported}"
for name, (architecture, patches) in cases.ARCHITECTURES.items():
    cases.count_costs(partial(cases.build, architecture, None), (1, 2, *patches[0]))
    for settings in cases.PRETRAININGS.values():
        patch = [max(32, size) for size in patches[0]]
        cases.count_costs(partial(cases.build, architecture, settings), (1, 2, *patch))
print(*sorted({"torch._dynamo", "sympy", "torch.fx.experimental.symbolic_shapes"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_counting_imports_neither_the_compiler_nor_sympy() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("\n", 0), done.stderr


def test_numbers_stand_for_tensors() -> None:
    """PyTorch hands `tensor & 255` on as a number, which the operation itself refuses."""
    words = torch.zeros(3, dtype=torch.int32, device="meta")
    with FlopCounter("meta"):
        found = [words & 255, words ^ 7, words * 3]
    assert [(each.shape, each.dtype) for each in found] == [((3,), torch.int32)] * 3
