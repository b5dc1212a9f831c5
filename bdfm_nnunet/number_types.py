"""The types in which networks compute, and which of them a device has units for."""

import logging

import torch

logger = logging.getLogger(__name__)

_BY_NAME = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def multiplies_bf16(device: str = "cpu") -> bool:
    """Return whether a device has units for products of bf16; without them bf16 is emulated and far slower than fp32.

    Args:
        device: "cpu" (AVX-512 BF16 or AMX), "cuda" (compute capability 8.0 and above); of others nothing is known.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(bool(getattr(torch.cpu, name, lambda: False)()) for name in _CPU_FEATURES)


def type_named(precision: str, device: str) -> torch.dtype | None:
    """Return the autocast type that was asked for by its name, or None for fp32 throughout.

    Args:
        precision: "fp32", "bf16" or "fp16".
        device: "cpu", "cuda" or "mps"; a warning is logged where it is slow in that type.
    """
    if precision == "bf16" and device in ("cpu", "cuda") and not multiplies_bf16(device):
        logger.warning("this %s has no units for bf16, which will be slow: fp32 is the faster choice", device)
    return _BY_NAME[precision]
