"""Floors: number types that the machine has units for, and the FLOP/s and bytes/s it reaches at best."""

from collections.abc import Callable
from typing import Any

import torch

from harness import alternate


def types_for(device: str = "cpu") -> dict[str, Any]:
    """Map names to types of the arms that a benchmark can have: fp32, and bf16 if the device has units for it.

    Without them a single step in bf16 takes minutes; `left_out` is the sentence for a table that lacks it.
    """
    from bdfm_nnunet.number_types import multiplies_bf16

    return {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if multiplies_bf16(device) else {})


def left_out(device: str = "cpu") -> str:
    """Return a sentence about the arms that `types_for` leaves out, or nothing."""
    return "" if "bf16" in types_for(device) else f"Arms in bf16 were left out: this {device} has no units for it."


def matrix_rate(
    dtype: torch.dtype,
    *,
    seconds: float = 0.5,
    largest: int | None = None,
    rounds: int = 5,
    device: str = "cpu",
    product: Any = None,
    clock: Callable[[], float] | None = None,
) -> float:
    """Measure the FLOP/s of the best of some products of square matrices of a type.

    Args:
        dtype: of the matrices.
        seconds: what one product may take. The matrices grow until the next size would take longer, so that a type
            without hardware units is measured in seconds too.
        largest: most rows and columns; by default 3072, and 8192 on CUDA, where smaller products do not fill the card.
        rounds: how often the matrices of the last size are multiplied.
        device: where.
        product: multiplies two matrices; by default `torch.matmul`.
        clock: tells the seconds, see `alternate`.
    """
    largest = largest or (3072 if device == "cpu" else 8192)
    size = min(96, largest)
    while size < largest and 8 * _product_seconds(dtype, size, 1, device, product, clock) <= seconds:
        size = min(2 * size, largest)
    return 2 * size**3 / _product_seconds(dtype, size, rounds, device, product, clock)


def _product_seconds(dtype: Any, size: int, rounds: int, device: str, product: Any, clock: Any) -> float:
    """Return the seconds of the fastest of some products."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        (product or torch.matmul)(left, right)
        if device != "cpu":
            torch.cuda.synchronize()

    return min(alternate({"product": multiply}, rounds=rounds, clock=clock).seconds["product"])


def memory_rate(
    *,
    megabytes: int | None = None,
    rounds: int = 5,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
) -> float:
    """Measure the bytes/s of the best of some copies: bytes read and bytes written count.

    Args:
        megabytes: size of what is copied; by default 512, and 4096 on CUDA, where a shorter copy measures its launch.
        rounds: copies after the first.
        device: where.
        clock: tells the seconds, see `alternate`.
    """
    megabytes = megabytes or (512 if device == "cpu" else 4096)
    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * source.nbytes / min(alternate({"copy": copy}, rounds=rounds, clock=clock).seconds["copy"])
