import itertools

import pytest
import torch
from torch.nn import functional

from bdfm_nnunet.objectives.frequency_decoder import FrequencyBlock, FrequencyDecoder


def _block(**settings: object) -> FrequencyBlock:
    torch.manual_seed(0)
    block = FrequencyBlock(2, 3, **settings)  # type: ignore[arg-type]
    torch.nn.init.normal_(block.kernels)
    if block.bias is not None:
        torch.nn.init.normal_(block.bias)
    return block.double()


def _by_fft(block: FrequencyBlock, images: torch.Tensor) -> torch.Tensor:
    """The block as its publication has it: transform, convolve both parts, transform back."""
    signal = functional.gelu(images) if block.output == "real" else images
    spectrum = torch.fft.fftn(signal, dim=(2, 3, 4), norm="ortho")
    mode = {"circular": "circular", "zero": "constant"}[block.padding]
    parts = [
        functional.conv3d(
            functional.pad(part, (1,) * 6, mode=mode),
            block.kernels[number].unsqueeze(1),
            None if block.bias is None else block.bias[number],
            groups=2,
        )
        for number, part in enumerate((spectrum.real, spectrum.imag))
    ]
    filtered = torch.fft.ifftn(torch.complex(*parts), dim=(2, 3, 4), norm="ortho")
    return images + (filtered.real if block.output == "real" else filtered.abs())


@pytest.mark.parametrize("size", [(4, 6, 8), (5, 7, 3)])
@pytest.mark.parametrize("output", ["real", "magnitude"])
def test_circular_padding_needs_no_transform(output: str, size: tuple[int, ...]) -> None:
    block = _block(output=output)
    images = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    expected = _by_fft(block, images)
    torch.testing.assert_close(block(images), expected)
    ours = torch.autograd.grad(block(images).square().sum(), [images, block.kernels])
    theirs = torch.autograd.grad(expected.square().sum(), [images, block.kernels])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("size", [(4, 6, 5), (7, 1, 3)])
@pytest.mark.parametrize("output", ["real", "magnitude"])
def test_zero_padding_needs_no_convolution(output: str, size: tuple[int, ...]) -> None:
    block = _block(output=output, padding="zero")
    images = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    expected = _by_fft(block, images)
    torch.testing.assert_close(block(images), expected)
    ours = torch.autograd.grad(block(images).square().sum(), [images, *block.parameters()])
    theirs = torch.autograd.grad(expected.square().sum(), [images, *block.parameters()])
    torch.testing.assert_close(ours, theirs)


def test_padding_matters() -> None:
    circular, zero = _block().float(), _block(padding="zero").float()
    images = torch.randn(1, 2, 4, 4, 4)
    assert not torch.allclose(circular(images), zero(images))


def test_magnitude_only_adds_and_real_does_both() -> None:
    images = torch.randn(1, 2, 6, 6, 6, dtype=torch.float64)
    assert (_block(output="magnitude")(images) >= images).all()
    change = _block()(images) - images
    assert (change > 0).any() and (change < 0).any()


def test_a_new_decoder_changes_nothing_yet() -> None:
    images = torch.randn(1, 2, 6, 6, 6)
    assert torch.equal(FrequencyDecoder(2, 3, blocks=4)(images), images)


def test_blocks() -> None:
    assert len(FrequencyDecoder(1, 3, blocks=5).blocks) == 5


def test_norm_gives_every_patch_the_same_mean_and_spread() -> None:
    images = 5 * torch.randn(2, 1, 8, 8, 8) + 3
    out = FrequencyDecoder(1, 3, blocks=1, norm_patch=(4, 4, 4))(images)
    patch = out[1, 0, 4:, :4, 4:]
    assert patch.mean().item() == pytest.approx(0, abs=1e-5) and patch.std(unbiased=False).item() == pytest.approx(
        1, abs=1e-3
    )


def test_half_precision_is_lifted() -> None:
    decoder = FrequencyDecoder(1, 3, blocks=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decoder(torch.randn(1, 1, 4, 4, 4).bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("padding", ["circular", "zero"])
def test_four_axes(padding: str) -> None:
    torch.manual_seed(0)
    block = FrequencyBlock(1, 4, padding=padding).double()  # type: ignore[arg-type]
    torch.nn.init.normal_(block.kernels)
    images = torch.randn(1, 1, 2, 3, 4, 3, dtype=torch.float64)
    dims = (2, 3, 4, 5)
    spectrum = torch.fft.fftn(functional.gelu(images), dim=dims)
    parts = []
    for part, kernel in zip((spectrum.real, spectrum.imag), block.kernels):
        sum_ = torch.zeros_like(part)
        for place in itertools.product(range(2), range(3), range(4), range(3)):
            for offset in itertools.product((-1, 0, 1), repeat=4):
                source = [p + o for p, o in zip(place, offset)]
                if padding == "circular":
                    source = [p % size for p, size in zip(source, part.shape[2:])]
                if all(0 <= p < size for p, size in zip(source, part.shape[2:])):
                    weight = kernel[(0, *(o + 1 for o in offset))]
                    sum_[(0, 0, *place)] += weight * part[(0, 0, *source)]
        parts.append(sum_)
    expected = images + torch.fft.ifftn(torch.complex(*parts), dim=dims).real
    torch.testing.assert_close(block(images), expected)
