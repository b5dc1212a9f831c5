"""The frequency half of BDFM's spatial-frequency dual-domain decoder."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.frequency import (
    at_least_single,
    full_precision,
    next_fast_length,
    patchify,
    reflect,
    spectral_multiplier,
    unpatchify,
)
from bdfm_nnunet.networks.recomputing import recomputed


class FrequencyBlock(nn.Module):
    """Convolution of the real and the imaginary part of an image's spectrum with kernels of size 3, with a shortcut.

    Circular padding needs no transform. The real part of a spectrum belongs to the image's even part, i times the
    imaginary part to its odd part, and convolving a periodic spectrum is a product with a field m in space: the block
    adds m_r (x(n) + x(-n)) / 2 + m_i (x(n) - x(-n)) / 2.

    Args:
        channels: channels of the images, each with separate kernels.
        axes: number of spatial axes.
        padding: padding of the spectrum: "circular", or "zero" as published, as if the spectrum ended at its borders.
        output: "real" adds the real part and applies a GELU before the filter, the only non-linearity; "magnitude"
            adds the absolute value, as published, which can only add intensity. Published kernels also have a bias;
            "real" has none, because it would be an impulse at the first voxel.

    Example:
        It starts as the identity; a published one cannot, since it adds a magnitude:

        >>> images = torch.rand(1, 1, 8, 8, 8)
        >>> bool((FrequencyBlock(1, 3)(images) == images).all())
        True
        >>> bool((FrequencyBlock(1, 3, padding="zero", output="magnitude")(images) >= images).all())
        True
    """

    bias: Tensor | None

    def __init__(
        self,
        channels: int,
        axes: int,
        *,
        padding: Literal["circular", "zero"] = "circular",
        output: Literal["real", "magnitude"] = "real",
    ) -> None:
        super().__init__()
        self.padding = padding
        self.output = output
        self.kernels = nn.Parameter(torch.zeros(2, channels, *(3,) * axes))  # of the real and the imaginary part
        if output == "magnitude":
            bound = 3 ** (-axes / 2)
            nn.init.uniform_(self.kernels, -bound, bound)
            self.bias = nn.Parameter(torch.zeros(2, channels))
        else:
            self.register_parameter("bias", None)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, *spatial) to the same shape."""
        if self.output == "real":
            # computed again in the backward pass: six images would be kept for a few milliseconds
            return recomputed(self._add_real_part, images, preserve_rng_state=False)
        parts = self._in_space(images) if self.padding == "circular" else self._in_spectrum(images)
        return images + torch.complex(*parts).abs()

    def _add_real_part(self, images: Tensor) -> Tensor:
        """Return the images plus the real part of the image of their filtered spectrum."""
        signal = functional.gelu(images)
        if self.padding == "zero":
            return images + self._in_spectrum(signal)[0]
        own, across = spectral_multiplier(self._of_signal_and_mirror(), signal.shape[2:], imaginary=False)[0]
        return torch.addcmul(torch.addcmul(images, own, signal), across, reflect(signal, signal.ndim - 2))

    def _of_signal_and_mirror(self) -> Tensor:
        """Return the kernels of the factors of x(n) and x(-n), (2, C, *3): half the sum and half the difference."""
        return torch.stack([self.kernels[0] + self.kernels[1], self.kernels[0] - self.kernels[1]]) / 2

    def _in_space(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Return real and imaginary part of the image of the filtered spectrum."""
        spatial = signal.shape[2:]
        mirrored = reflect(signal, len(spatial))
        fields = spectral_multiplier(self._of_signal_and_mirror(), spatial)
        real, imaginary = (own * signal + across * mirrored for own, across in fields)
        if self.bias is None:
            return real, imaginary
        impulse = torch.zeros(spatial, dtype=signal.dtype, device=signal.device)
        impulse[(0,) * len(spatial)] = math.sqrt(spatial.numel())
        offsets = self.bias[(..., *(None,) * len(spatial))]
        return real + offsets[0] * impulse, imaginary + offsets[1] * impulse

    def _in_spectrum(self, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for a spectrum that ends at its borders: padded with zeros, and periodic beyond.

        The padded spectrum is filtered as in `_in_space`, which needs two more transforms but no convolution.
        """
        spatial = signal.shape[2:]
        dims = tuple(range(2, signal.ndim))
        padded = [next_fast_length(size + 1) for size in spatial]
        spectrum = torch.fft.fftn(signal, dim=dims, norm="ortho")
        image = torch.fft.ifftn(spectrum, s=padded, dim=dims)
        own, across = torch.complex(*spectral_multiplier(self._of_signal_and_mirror(), padded))
        image = own * image + across * reflect(image, len(spatial)).conj()
        filtered = torch.fft.fftn(image, dim=dims)[(..., *(slice(size) for size in spatial))]
        if self.bias is not None:
            filtered = filtered + torch.complex(*self.bias)[(..., *(None,) * len(spatial))]
        result = torch.fft.ifftn(filtered, dim=dims, norm="ortho")
        return result.real, result.imag


class FrequencyDecoder(nn.Module):
    """Sequence of frequency blocks, with an optional LayerNorm over each patch of the result.

    Args:
        channels: channels of the images.
        axes: number of spatial axes.
        blocks: number of blocks.
        padding: see `FrequencyBlock`.
        output: see `FrequencyBlock`.
        norm_patch: voxels per axis of the patches to normalise at the end; None for no normalisation. Normalisation
            gives every patch the same mean and contrast, so it suits patch-normalised targets; BDFM's code uses it
            with raw ones.

    Example:
        >>> decoder = FrequencyDecoder(1, 3, blocks=2, norm_patch=(4, 4, 4))
        >>> decoder(torch.rand(2, 1, 8, 8, 8)).shape
        torch.Size([2, 1, 8, 8, 8])
    """

    def __init__(
        self,
        channels: int,
        axes: int,
        *,
        blocks: int = 8,
        padding: Literal["circular", "zero"] = "circular",
        output: Literal["real", "magnitude"] = "real",
        norm_patch: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            FrequencyBlock(channels, axes, padding=padding, output=output) for _ in range(blocks)
        )
        self.norm_patch = None if norm_patch is None else tuple(norm_patch)
        self.norm = None if norm_patch is None else nn.LayerNorm(math.prod(norm_patch))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, *spatial) to the same shape, in single precision at least: half precision ruins spectra."""
        with full_precision(images.device):
            images = at_least_single(images)
            for block in self.blocks:
                images = block(images)
            if self.norm is None or self.norm_patch is None:
                return images
            patches = patchify(images, self.norm_patch)
            normalised = self.norm(patches.flatten(3)).reshape(patches.shape)
            grid = [size // step for size, step in zip(images.shape[2:], self.norm_patch, strict=True)]
            return unpatchify(normalised, grid)
