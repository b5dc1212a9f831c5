import torch
from torch.nn import functional

from bdfm_nnunet.objectives.pixel_decoders import Expand, FinalDecoder, PyramidDecoder


def test_expand_is_a_transposed_convolution() -> None:
    expand = Expand(3, 5, (1, 4, 2))
    torch.nn.init.normal_(expand.bias)
    features = torch.randn(2, 3, 4, 2, 3)
    expected = functional.conv_transpose3d(features, expand.weight, expand.bias, stride=(1, 4, 2))
    torch.testing.assert_close(expand(features), expected)


def test_expand_in_four_axes() -> None:
    assert Expand(3, 2, (1, 2, 3, 2))(torch.randn(1, 3, 2, 2, 2, 2)).shape == (1, 2, 2, 4, 6, 4)


def test_final_decoder_is_the_published_one_for_the_published_strides() -> None:
    decoder = FinalDecoder(96, (4, 32, 32), 16, 1)
    assert decoder.expand.weight.shape == (96, 16, 4, 8, 8)
    assert decoder.project.weight.shape == (16, 1, 1, 4, 4)


def test_final_decoder_reads_the_last_feature_alone() -> None:
    features = [torch.randn(1, 8, 4, 4, 4), torch.randn(1, 16, 2, 2, 2)]
    decoder = FinalDecoder(16, (12, 16, 6), 4, 2)
    out = decoder(features)
    assert out.shape == (1, 2, 24, 32, 12)
    assert torch.equal(out, decoder([features[0] * 0, features[1]]))


STRIDES = [(1, 1, 1), (2, 2, 2), (4, 4, 4), (4, 8, 8)]


def test_pyramid_reads_every_stage_that_is_coarse_enough() -> None:
    channels = [4, 8, 16, 32]
    decoder = PyramidDecoder(channels, STRIDES, 12, 2)
    features = [
        torch.randn(1, c, *(16 // step for step in stride)).requires_grad_()
        for c, stride in zip(channels, STRIDES, strict=True)
    ]
    out = decoder(features)
    assert out.shape == (1, 2, 16, 16, 16)
    out.square().sum().backward()
    assert [feature.grad is not None for feature in features] == [False, False, True, True]


def test_first_reconstruction_is_nearly_flat() -> None:
    torch.manual_seed(0)
    decoder = PyramidDecoder([8, 16], [(4, 4, 4), (8, 8, 8)], 32, 1)
    assert decoder([torch.randn(1, 8, 4, 4, 4), torch.randn(1, 16, 2, 2, 2)]).std() < 0.2
