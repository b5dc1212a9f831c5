"""Number types in which networks compute, and the devices' hardware support for them."""

import logging

import torch

logger = logging.getLogger(__name__)

_BY_NAME = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def multiplies_bf16(device: str = "cpu") -> bool:
    """Return whether a device multiplies bf16 in hardware; otherwise bf16 is emulated and far slower than fp32.

    Args:
        device: "cpu" (AVX-512 BF16 or AMX) or "cuda" (compute capability 8.0 and above); False for others.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(bool(getattr(torch.cpu, name, lambda: False)()) for name in _CPU_FEATURES)


def type_named(precision: str, device: str) -> torch.dtype | None:
    """Return the autocast type of a name, or None for fp32.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: "cpu", "cuda" or "mps"; logs a warning if the type is slow on it.

    Example:
        >>> type_named("fp16", device="cuda"), type_named("fp32", device="cpu")
        (torch.float16, None)
    """
    if precision == "bf16" and device in ("cpu", "cuda") and not multiplies_bf16(device):
        logger.warning("this %s has no units for bf16, which will be slow: fp32 is the faster choice", device)
    return _BY_NAME[precision]


def name_of(kind: torch.dtype | None) -> str:
    """Return how settings name an autocast type."""
    return next(name for name, each in _BY_NAME.items() if each is kind)
