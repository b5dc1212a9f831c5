import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from bdfm_nnunet.kept_tables import clear_tables
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.networks.network_costs import count_costs
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.networks.swin_unet import SwinUNet
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from tests.networks.zoo import network

CONVOLUTIONS = {
    "n_stages": 3,
    "features_per_stage": (4, 8, 8),
    "conv_op": nn.Conv3d,
    "kernel_sizes": 3,
    "strides": (1, 2, 2),
    "n_conv_per_stage_decoder": 1,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "deep_supervision": True,
}


def swin() -> nn.Module:
    return SwinUNet(
        2,
        3,
        strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2]],
        features_per_stage=[4, 8, 16],
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=[2, 2, 2],
        deep_supervision=True,
    )


def plain() -> nn.Module:
    return PlainConvUNet(2, num_classes=3, n_conv_per_stage=1, **CONVOLUTIONS)


def residual() -> nn.Module:
    return ResidualEncoderUNet(2, num_classes=3, n_blocks_per_stage=1, **CONVOLUTIONS)


def primus() -> nn.Module:
    return network("primus_v3", 2, input_shape=[16, 16, 16], deep_supervision=True)


NETWORKS = pytest.mark.parametrize("build", [swin, plain, residual, primus])


@NETWORKS
def test_meta_count_equals_what_a_real_pass_keeps(build: Callable[[], nn.Module]) -> None:
    clear_tables()  # else a table may be held twice that tests before this one made
    counted = count_costs(build, (2, 2, 16, 16, 16))
    real = count_costs(build, (2, 2, 16, 16, 16), device="cpu")
    assert counted == real
    assert counted.activation_bytes > 2 * 3 * 16**3 * 4  # more than the outputs


@NETWORKS
def test_activations_are_freed_by_the_backward_pass_and_no_more(build: Callable[[], nn.Module]) -> None:
    """An independent count: the storages that live only as long as the graph, found through weak references."""
    built = build()
    built.train()
    images = torch.zeros(1, 2, 16, 16, 16)
    built(images)  # makes the tables of windows, which stay for all passes
    own = {thing.untyped_storage()._cdata for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)}
    alive: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(tensor, torch.Tensor):
                    storage = tensor.untyped_storage()
                    alive[storage._cdata] = (weakref.ref(storage), storage.nbytes())
            return result

    with Recorder():
        outputs = built(images)
    gc.collect()
    held = sum(size for key, (storage, size) in alive.items() if storage() is not None and key not in own)
    counted = count_costs(build, images.shape, flops=False).activation_bytes
    produced = sum(output.untyped_storage().nbytes() for output in outputs)
    # what is alive: saved tensors and the outputs; the count has the input image in the place of the outputs
    assert held <= counted + produced
    assert counted <= held + images.untyped_storage().nbytes() + produced


def test_activations_grow_with_the_batch_and_parameters_do_not() -> None:
    one = count_costs(swin, (1, 2, 16, 16, 16))
    three = count_costs(swin, (3, 2, 16, 16, 16))
    assert three.parameters == one.parameters == sum(p.numel() for p in swin().parameters())
    assert three.state_bytes == one.state_bytes
    # the relative position biases are the same for every sample
    assert 2.7 < three.activation_bytes / one.activation_bytes <= 3


def test_state_copies_change_the_state_alone() -> None:
    three = count_costs(plain, (1, 2, 16, 16, 16), state_copies=3)
    four = count_costs(plain, (1, 2, 16, 16, 16), state_copies=4)
    assert three.state_bytes == 3 * 4 * three.parameters
    assert four.state_bytes - three.state_bytes == 4 * three.parameters
    assert four.activation_bytes == three.activation_bytes


def test_flops_of_one_linear_layer() -> None:
    costs = count_costs(lambda: nn.Linear(8, 16), (10, 8))
    assert costs.forward_flops == 2 * 10 * 8 * 16
    assert costs.parameters == 8 * 16 + 16
    assert costs.activation_bytes == 10 * 8 * 4  # the input, for the gradient of the weight
    assert costs.backward_flops == 2 * 10 * 8 * 16  # the gradient of the weight; nobody asks for the input's
    without = count_costs(lambda: nn.Linear(8, 16), (10, 8), flops=False)
    assert without.forward_flops is None and without.backward_flops is None


def test_flops_of_two_layers_and_of_a_convolution() -> None:
    first, second = 2 * 10 * 8 * 16, 2 * 10 * 16 * 4
    costs = count_costs(lambda: nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), (10, 8))
    assert (costs.forward_flops, costs.backward_flops) == (first + second, first + 2 * second)
    product = 2 * 27 * 2 * 4 * 6**3
    costs = count_costs(lambda: nn.Conv3d(2, 4, 3, padding=1), (1, 2, 6, 6, 6))
    assert (costs.forward_flops, costs.backward_flops) == (product, product)


def small_objective() -> MaskedImageModelling:
    """16^3 voxels: 4^3 tokens in windows of 2^3, then 2^3 tokens in one window."""
    encoder = SwinEncoder(
        1,
        patch_size=[4, 4, 4],
        features=[8, 16],
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=[2, 2, 2],
        merging=[[2, 2, 2]],
    )
    view = EncoderView(encoder, 1, (8, 16), ((4, 4, 4), (8, 8, 8)))
    return MaskedImageModelling(view, PretrainingSettings(decoder_channels=12, frequency_blocks=1))


def test_flops_of_pretraining_by_hand() -> None:
    def block(tokens: int, pairs: int, channels: int) -> int:
        linear = 3 + 1 + 4 + 4  # queries, keys, values; their join; two layers of the perceptron
        return 2 * channels * (linear * channels * tokens + 2 * pairs)  # scores, and sums of values by them

    embedding, merging = 64 * 64 * 8, 8 * (8 * 8) * 16
    whole, shifted = (2**2 + 2**2) ** 3, (1 + 2**2 + 1) ** 3  # 4 tokens an axis in windows of 2
    encoder = block(64, whole, 8) + block(64, shifted, 8) + 2 * block(8, 8**2, 16) + 2 * (embedding + merging)
    decoder = 2 * (64 * 8 * 12 + 8 * 16 * 12 + 8 * 12 * (12 * 8) + 64 * 12 * (2 * 64))
    # two kernels, axis after axis from 3 x 3 x 3 to 16 x 16 x 16: two parts each from two, of the last the real one
    first, second, third = 9 * 3 * 16, 16 * 3 * 3 * 16, 16 * 16 * 3 * 16
    frequency_block = 2 * 2 * (4 * first + 4 * second + 2 * third)
    frequency_loss = 2 * 64 * 64 * (2 * 36)  # 36 of the 64 frequencies of a patch are no conjugates of others
    costs = count_costs(small_objective, (1, 1, 16, 16, 16))
    assert costs.forward_flops == encoder + decoder + frequency_block + frequency_loss
    assert costs.backward_flops is not None
    # twice the forward pass, without the gradients of the image and of constant matrices; frequency blocks, whose
    # matrices are constant too, are computed again
    constant = 2 * embedding + frequency_loss
    assert costs.backward_flops == 2 * costs.forward_flops - constant
    assert costs.parameters == sum(p.numel() for p in small_objective().parameters())


def test_flops_of_pretraining_are_counted_alike_in_a_real_pass() -> None:
    counted, real = (count_costs(small_objective, (2, 1, 16, 16, 16), device=name) for name in ("meta", "cpu"))
    assert (counted.forward_flops, counted.backward_flops) == (real.forward_flops, real.backward_flops)
    assert counted.forward_flops > count_costs(small_objective, (1, 1, 16, 16, 16)).forward_flops


def test_frozen_parameters_are_not_trained_and_a_built_network_is_taken_as_it_is() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4))
    network[0].requires_grad_(False)
    assert count_costs(network, (10, 8)).parameters == 16 * 4 + 4


def test_constructors_that_read_values_are_built_on_the_cpu_first() -> None:
    def build() -> nn.Module:
        rates = torch.linspace(0, 0.5, 2).tolist()  # impossible on the meta device
        return nn.Sequential(nn.Linear(8, 16), nn.Dropout(rates[1]))

    assert count_costs(build, (10, 8)).parameters == 8 * 16 + 16
