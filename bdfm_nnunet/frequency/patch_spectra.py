"""Fourier transforms of images and patches, in any number of axes.

Shapes: B batch, C channels, P patches, V voxels of a patch, K frequencies of which no two are conjugates.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.kept_tables import kept
from bdfm_nnunet.masking import per_axis

# above this many voxels a patch is transformed by FFT: the matrix grows with the square of the voxels
MATRIX_LIMIT = 512


def at_least_single(tensor: Tensor) -> Tensor:
    """Return the tensor in single precision; double precision stays.

    Example:
        >>> at_least_single(torch.zeros(2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def full_precision(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context without autocast: half precision ruins a spectrum.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
        ...     print((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        torch.float32
    """
    if _has_autocast(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # the meta device, on which costs are counted


@kept(maxsize=8)  # torch.compile would break the graph at torch's question
def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


def patchify(images: Tensor, patch_size: int | Sequence[int]) -> Tensor:
    """Cut images (B, C, *spatial) into patches (B, P, C, *patch), in raster order.

    Raises:
        ValueError: an axis is not a multiple of the patch.

    Example:
        >>> patchify(torch.rand(2, 1, 8, 8, 12), 4).shape
        torch.Size([2, 12, 1, 4, 4, 4])
    """
    batch, channels, *spatial = images.shape
    patch = per_axis(patch_size, len(spatial))
    if any(size % step for size, step in zip(spatial, patch, strict=True)):
        raise ValueError(f"images of {tuple(spatial)} voxels cannot be cut into whole patches of {patch}")
    axes = len(spatial)
    split = [n for size, step in zip(spatial, patch, strict=True) for n in (size // step, step)]
    grid_axes, patch_axes = range(2, 2 + 2 * axes, 2), range(3, 3 + 2 * axes, 2)
    return images.reshape(batch, channels, *split).permute(0, *grid_axes, 1, *patch_axes).flatten(1, axes)


def unpatchify(patches: Tensor, grid: Sequence[int]) -> Tensor:
    """Join patches (B, P, C, *patch) to images (B, C, *spatial); the inverse of `patchify`.

    Args:
        patches: (B, P, C, *patch) in raster order.
        grid: patches per axis.

    Example:
        >>> images = torch.rand(2, 1, 8, 8, 12)
        >>> torch.equal(unpatchify(patchify(images, 4), grid=(2, 2, 3)), images)
        True
    """
    batch, _, channels, *patch = patches.shape
    axes = len(grid)
    order = [1 + axes] + [a for i in range(axes) for a in (1 + i, 2 + axes + i)]
    spatial = [count * step for count, step in zip(grid, patch, strict=True)]
    return patches.reshape(batch, *grid, channels, *patch).permute(0, *order).reshape(batch, channels, *spatial)


def patch_power(patches: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Return the squared magnitudes of the orthonormal DFT over the last `axes` axes, without the redundant half.

    The coefficients of a real patch are conjugate-symmetric, so one of each pair is enough. Small patches are
    transformed by one real matrix product, which is much faster than many tiny FFTs.

    Args:
        patches: real (..., *patch).
        axes: number of trailing axes to transform.

    Returns:
        The power (..., K), and how many coefficients of the full spectrum each one stands for, (K,): 1 or 2.

    Example:
        >>> patches = torch.rand(5, 4, 4, 4)
        >>> power, count = patch_power(patches, axes=3)
        >>> power.shape  # 36 of 64 frequencies
        torch.Size([5, 36])
        >>> torch.allclose(power @ count, patches.square().sum((1, 2, 3)))  # Parseval's theorem
        True
    """
    shape = tuple(patches.shape[-axes:])
    if math.prod(shape) > MATRIX_LIMIT:
        spectrum = torch.fft.rfftn(patches, dim=tuple(range(-axes, 0)), norm="ortho")
        count = torch.full((shape[-1] // 2 + 1,), 2.0, dtype=patches.dtype, device=patches.device)
        count[0] = 1
        if shape[-1] % 2 == 0:
            count[-1] = 1
        power = spectrum.real.square() + spectrum.imag.square()
        return power.flatten(-axes), count.expand(*power.shape[-axes:]).flatten()
    matrix, count = _half_dft(shape, patches.dtype, patches.device)
    real, imaginary = (patches.flatten(-axes) @ matrix).chunk(2, dim=-1)
    return real.square() + imaginary.square(), count


@kept(maxsize=32)
def _half_dft(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of one frequency of each conjugate pair, (V, 2K), and the size of each pair, (K,)."""
    lengths = torch.tensor(shape, dtype=torch.float64)
    points = torch.cartesian_prod(*(torch.arange(n) for n in shape)).reshape(-1, len(shape))
    strides = torch.tensor([math.prod(shape[i + 1 :]) for i in range(len(shape))])
    own = torch.arange(len(points))
    conjugate = ((-points % torch.tensor(shape)) * strides).sum(1)
    keep = own <= conjugate
    phase = 2 * math.pi * (points.double() / lengths) @ points[keep].double().T
    matrix = torch.cat([phase.cos(), -phase.sin()], dim=1) / math.sqrt(len(points))
    count = 1.0 + (own < conjugate)[keep]
    return matrix.to(dtype).to(device), count.to(dtype).to(device)


def spectral_multiplier(kernel: Tensor, spatial: Sequence[int], *, imaginary: bool = True) -> tuple[Tensor, ...]:
    """Return the field that an image is multiplied by when its periodic spectrum is convolved with a small kernel.

    Cross-correlating the DFT of x with k multiplies x(n) by m(n) = sum_d k[d] exp(-2 pi i d.n / N), d counted from the
    kernel's centre (the modulation theorem). One axis is contracted after the other.

    Args:
        kernel: real (..., *odd sizes).
        spatial: N, the image's size per axis.
        imaginary: whether to return the imaginary part too.

    Returns:
        Real part and, if asked for, imaginary part of m, (..., *spatial) each; pairs of real tensors work on every
        device.

    Example:
        >>> identity = torch.tensor([0.0, 1.0, 0.0])
        >>> spectral_multiplier(identity, (4,), imaginary=False)
        (tensor([1., 1., 1., 1.]),)
    """
    axis = kernel.ndim - len(spatial)
    parts = [kernel, torch.zeros_like(kernel)]
    for number, size in enumerate(spatial, start=1):
        length = parts[0].shape[axis]
        # both parts in one product, which consumes the kernel's next axis and appends the image's
        joined = torch.cat(parts, axis)
        turned = _turns(length, size, kernel.dtype, kernel.device)
        wanted = turned if imaginary or number < len(spatial) else turned[:1]
        parts = [torch.tensordot(joined, matrix, ([axis], [0])) for matrix in wanted]
    return tuple(parts)


@kept(maxsize=32)
def _turns(length: int, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return exp(-2 pi i d n / size) for d around 0 and all n, as matrices (2 length, size) of complex products.

    The first gives the real part of a product with real and imaginary parts one below the other, the second the
    imaginary part.
    """
    offsets = torch.arange(length, device=device) - length // 2
    turns = offsets[:, None] * torch.arange(size, device=device) % size
    phase = turns.to(dtype) * (-2 * math.pi / size)
    cosine, sine = phase.cos(), phase.sin()
    return torch.cat([cosine, -sine]), torch.cat([sine, cosine])


def next_fast_length(size: int) -> int:
    """Return the smallest length of at least `size` with no prime factor above 7, for which FFTs are fast.

    Example:
        >>> next_fast_length(96), next_fast_length(97), next_fast_length(121)
        (96, 98, 125)
    """
    rest = size
    for prime in (2, 3, 5, 7):
        while rest % prime == 0:
            rest //= prime
    return size if rest == 1 else next_fast_length(size + 1)


def reflect(images: Tensor, axes: int) -> Tensor:
    """Return x(-n) on the periodic grid, over the last `axes` axes.

    Example:
        >>> reflect(torch.tensor([0, 1, 2, 3]), axes=1)
        tensor([0, 3, 2, 1])
    """
    dims = tuple(range(-axes, 0))
    return images.flip(dims).roll((1,) * axes, dims)
