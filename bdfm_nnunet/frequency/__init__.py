"""Fourier transforms of images: patches of them, and filters by radial frequency that know the spacing."""

from bdfm_nnunet.frequency.patch_spectra import (
    at_least_single,
    full_precision,
    next_fast_length,
    patch_power,
    patchify,
    reflect,
    spectral_multiplier,
    unpatchify,
)
from bdfm_nnunet.frequency.radial_filters import (
    filtered,
    hermitian,
    high_pass,
    low_pass,
    millimetres,
    radial_frequencies,
    shell_numbers,
    shell_power,
)

__all__ = [
    "at_least_single",
    "filtered",
    "full_precision",
    "hermitian",
    "high_pass",
    "low_pass",
    "millimetres",
    "next_fast_length",
    "patch_power",
    "patchify",
    "radial_frequencies",
    "reflect",
    "shell_numbers",
    "shell_power",
    "spectral_multiplier",
    "unpatchify",
]
