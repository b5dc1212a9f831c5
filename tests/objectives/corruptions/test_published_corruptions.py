import math
import zlib

import numpy as np
import pytest
import torch

from bdfm_nnunet.objectives.corruptions import published_frequency_corruption, published_image_corruption
from tests.golden_outputs import golden_tensors

FREQUENCY = {
    "fre64_r0.6_s0.0005_d0.2": (0.6, 5e-4, 0.2),
    "fre64_r0.0_s0.0005_d0.2": (0.0, 5e-4, 0.2),
    "fre64_r0.75_s0_d0.15": (0.75, 0.0, 0.15),
}
LARGE = {name.replace("64", "512"): values for name, values in FREQUENCY.items()}
PRIME, FACTOR = 2147483647, 1103515245


def _uniform(tag: str, *shape: int) -> torch.Tensor:
    """The formula from which the inputs of the large cases are made."""
    numbers = np.arange(math.prod(shape), dtype=object)
    values = [(pow(int(i) + zlib.crc32(tag.encode()) % PRIME, 2, PRIME) * FACTOR) % PRIME for i in numbers]
    return torch.tensor(values, dtype=torch.float64).div(PRIME).reshape(shape)


def _normal(tag: str, *shape: int) -> torch.Tensor:
    first, second = _uniform(f"{tag}.1", *shape), _uniform(f"{tag}.2", *shape)
    return (-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos()


def _image(size: int) -> torch.Tensor:
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    y, x = axis[:, None], axis[None]
    inside = ((x - 0.5) / 0.4) ** 2 + ((y - 0.5) / 0.35) ** 2 < 1
    channels = []
    for c in range(3):
        t = _uniform(f"img{c}", size, size)
        wave = (2 * math.pi * (3 + c) * x).sin() * (2 * math.pi * (2 + c) * y).cos()
        content = 0.5 + 0.2 * wave + 0.1 * (38 * math.pi * (x + y)).sin() + 0.1 * (t - 0.5)
        channels.append(torch.where(inside, content, 0.02 * t))
    return torch.stack(channels)[None]


def test_patches_agree_with_the_published_code() -> None:
    tensors = golden_tensors("frepa_reference")
    tag = "img64_r0.6"
    out, voxels = published_image_corruption(
        tensors["image64"][None], tensors[f"{tag}.U"][None], tensors[f"{tag}.Z"][None], ratio=0.6
    )
    assert (out[0] - tensors[f"{tag}.out"]).abs().max() < 1e-5
    assert voxels.float().mean() == 0.59375


@pytest.mark.parametrize("tag", FREQUENCY)
def test_spectra_agree_with_the_published_code(tag: str) -> None:
    tensors = golden_tensors("frepa_reference")
    ratio, sigma, width = FREQUENCY[tag]
    uniform, noise, low = (tensors[f"{tag}.{name}"][None] for name in ("U", "Z", "Z2"))
    out = published_frequency_corruption(
        tensors["image64"][None], uniform, noise, low, ratio=ratio, sigma=sigma, width=width
    )
    assert (out[0] - tensors[f"{tag}.out"]).abs().max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["img512_r0.6", *LARGE])
def test_full_size_agrees_with_the_published_code(tag: str) -> None:
    tensors = golden_tensors("frepa_reference")
    image = _image(512)
    assert (image[0, :, ::3, ::3] - tensors["image512_sub3"]).abs().max() < 1e-6
    noise = _normal(f"{tag}.Z", 3, 512, 512)[None]
    if tag.startswith("img"):
        out, _ = published_image_corruption(image, _uniform(f"{tag}.U", 1, 16, 16), noise, ratio=0.6)
    else:
        ratio, sigma, width = LARGE[tag]
        low = _normal(f"{tag}.Z2", 3, 512, 512)[None]
        uniform = _uniform(f"{tag}.U", 1, 32, 32)
        out = published_frequency_corruption(image, uniform, noise, low, ratio=ratio, sigma=sigma, width=width)
    assert (out[0, :, ::3, ::3] - tensors[f"{tag}.out_sub3"]).abs().max() < 1e-5


def _by_loops(
    image: np.ndarray, uniform: np.ndarray, noise: np.ndarray, low: np.ndarray, ratio: float, sigma: float, width: float
) -> np.ndarray:
    """The published frequency branch on one volume of one channel, loop by loop."""
    shape, patch = image.shape, [n // g for n, g in zip(image.shape, uniform.shape, strict=True)]
    spectrum = np.fft.fftshift(np.fft.fftn(image))
    out = spectrum.copy()
    for index in np.ndindex(uniform.shape):
        middle = all(i in (g // 2 - 1, g // 2) for i, g in zip(index, uniform.shape, strict=True))
        if uniform[index] < ratio and not middle:
            window = tuple(slice(i * p, (i + 1) * p) for i, p in zip(index, patch, strict=True))
            out[window] = image[window].mean() + image[window].std() * noise[window]
    for index in np.ndindex(shape):
        square = sum(((i - n // 2) / (width * n)) ** 2 for i, n in zip(index, shape, strict=True))
        if square > 0:
            out[index] += np.exp(-square / 2) * low[index] * sigma * np.abs(spectrum).max()
    return np.fft.ifftn(np.fft.ifftshift(out)).real


@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 4), (12,)])
def test_any_number_of_axes(shape: tuple[int, ...]) -> None:
    grid = tuple(size // 2 for size in shape)
    image, noise, low = torch.randn(3, *shape, dtype=torch.float64)
    uniform = torch.rand(grid, dtype=torch.float64)
    out = published_frequency_corruption(
        image[None, None], uniform[None], noise[None, None], low[None, None], ratio=0.6, sigma=0.01, width=0.2
    )
    expected = _by_loops(image.numpy(), uniform.numpy(), noise.numpy(), low.numpy(), 0.6, 0.01, 0.2)
    np.testing.assert_allclose(out[0, 0].numpy(), expected, atol=1e-12)


def test_strengths_may_differ_by_sample() -> None:
    images, noise, low = torch.randn(3, 2, 1, 8, 8)
    uniform = torch.rand(2, 4, 4)
    settings = {"ratio": torch.tensor([0.2, 0.9]), "sigma": torch.tensor([0.0, 0.1]), "width": torch.tensor([0.1, 0.3])}
    together = published_frequency_corruption(images, uniform, noise, low, **settings)
    for number in range(2):
        one = {name: values[number].item() for name, values in settings.items()}
        part = slice(number, number + 1)
        alone = published_frequency_corruption(images[part], uniform[part], noise[part], low[part], **one)
        torch.testing.assert_close(together[part], alone)
