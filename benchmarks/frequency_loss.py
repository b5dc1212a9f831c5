"""The focal frequency loss against a loop over patches, on one 96^3 sample: forward and backward.

The loop is written from the definition (cut a patch, transform it, weight it, add it up), one patch after the other,
as published implementations do it. Both arms run alternately in one process; the table gives medians and the spread
of the ratios, beside what reading prediction and target and writing the gradient once would take at the machine's
measured memory bandwidth.

    python benchmarks/frequency_loss.py [--size 96] [--rounds 5] [--threads 1] [--json FILE]
"""

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bdfm_nnunet.losses import focal_frequency_loss

PATCH = 4


def loop(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The definition, one patch after the other."""
    values = []
    for b in range(len(mask)):
        for place in itertools.product(*(range(n) for n in mask.shape[1:])):
            if not mask[b][place]:
                continue
            box = tuple(slice(PATCH * i, PATCH * (i + 1)) for i in place)
            for c in range(target.shape[1]):
                first, second = (torch.fft.fftn(image[b, c][box], norm="ortho") for image in (prediction, target))
                power = (first - second).abs().square()
                weight = (power.sqrt() / power.sqrt().max()).detach()
                values.append((weight * power).mean())
    return torch.stack(values).mean()


def seconds(arm: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor]:
    """Time of one forward and backward pass, and the gradient."""
    prediction = inputs[0].detach().requires_grad_()
    start = time.perf_counter()
    arm(prediction, *inputs[1:]).backward()
    elapsed = time.perf_counter() - start
    assert prediction.grad is not None
    return elapsed, prediction.grad


def floor(size: int) -> float:
    """Seconds to move the images through memory once: two read, one gradient written, at the measured rate."""
    source = torch.rand(1 << 26)
    target = torch.empty_like(source)
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        rates.append(2 * 4 * len(source) / (time.perf_counter() - start))
    return 3 * 4 * size**3 / max(rates)


def main() -> None:
    """Runs both arms alternately and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 1, 1, *(settings.size,) * 3)
    mask = torch.rand(1, *(settings.size // PATCH,) * 3) < 0.75
    inputs = prediction, target, mask
    seconds(focal_frequency_loss, inputs)  # builds the transform's matrix
    slow, fast, ratios = [], [], []
    for _ in range(settings.rounds):
        slow_time, slow_gradient = seconds(loop, inputs)
        fast_time, fast_gradient = seconds(focal_frequency_loss, inputs)
        torch.testing.assert_close(slow_gradient, fast_gradient, rtol=1e-3, atol=1e-9)
        slow.append(slow_time)
        fast.append(fast_time)
        ratios.append(slow_time / fast_time)
    result = {
        "size": settings.size,
        "threads": settings.threads,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "loop_seconds": statistics.median(slow),
        "batched_seconds": statistics.median(fast),
        "floor_seconds": floor(settings.size),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
    print(json.dumps(result, indent=2))
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
