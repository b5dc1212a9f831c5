"""The focal frequency loss against loops over patches, on one 96^3 sample: forward and backward.

One loop is written from the definition, everything patch by patch; another cuts the patches in a loop and transforms
them together, as published codes do; the cheapest gets its patches cut and loops over the transforms. The arms run in
turn in one process; the figures are medians and the spread of the ratios, beside what reading prediction and target
and writing the gradient once would take at the machine's measured memory bandwidth.

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

from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.losses import focal_frequency_loss

PATCH = 4


def patch_by_patch(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The definition: cut, transform and weight one patch after the other."""
    values = [_score(first - second) for first, second in _cut(prediction, target, mask)]
    return torch.stack(values).mean()


def cut_in_a_loop(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Cut one patch after the other, then transform all of them at once, as published codes do."""
    first, second = (torch.stack(patches) for patches in zip(*_cut(prediction, target, mask), strict=True))
    return _score(first, second)


def over_ready_patches(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Transforms and weights one patch after the other, but gets them all cut at once: the cheapest loop.

    In the other two every cut has a gradient of the size of the whole image.
    """
    chosen = mask.flatten(1)
    first, second = (patchify(image, PATCH)[chosen].unbind() for image in (prediction, target))
    return torch.stack([_score(a, b) for a, b in zip(first, second, strict=True)]).mean()


def _cut(prediction: Tensor, target: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
    patches = []
    grid = mask.shape[1:]
    for b, masked in enumerate(mask.flatten(1).tolist()):
        for place, chosen in zip(itertools.product(*(range(n) for n in grid)), masked, strict=True):
            if chosen:
                z, y, x = (PATCH * i for i in place)
                box = (b, slice(None), slice(z, z + PATCH), slice(y, y + PATCH), slice(x, x + PATCH))
                patches.append((prediction[box], target[box]))
    return patches


def _score(first: Tensor, second: Tensor | None = None) -> Tensor:
    """The loss of patches (..., d, h, w): of a difference, or of two images that are transformed one by one."""
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(first, dim=axes, norm="ortho")
    if second is not None:
        spectrum = spectrum - torch.fft.fftn(second, dim=axes, norm="ortho")
    power = spectrum.abs().square()
    weight = (power.sqrt() / power.sqrt().amax(axes, keepdim=True)).detach()
    return (weight * power).mean()


def seconds(arm: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Tensor]:
    """Time of one forward and backward pass, and the gradient."""
    prediction = inputs[0].detach().requires_grad_()
    start = time.perf_counter()
    arm(prediction, *inputs[1:]).backward()
    elapsed = time.perf_counter() - start
    assert prediction.grad is not None
    return elapsed, prediction.grad


ARMS = (focal_frequency_loss, patch_by_patch, cut_in_a_loop, over_ready_patches)


def spread(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median and extremes of the ratios, round by round."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


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
    times: dict[str, list[float]] = {arm.__name__: [] for arm in ARMS}
    for _ in range(settings.rounds):
        gradients = []
        for arm in ARMS:
            elapsed, gradient = seconds(arm, inputs)
            times[arm.__name__].append(elapsed)
            gradients.append(gradient)
        for gradient in gradients[1:]:
            torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-9)
    ours = times[focal_frequency_loss.__name__]
    result = {
        "size": settings.size,
        "threads": settings.threads,
        "rounds": settings.rounds,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "floor_seconds": floor(settings.size),
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "ratio_to_focal_frequency_loss": {
            name: spread(values, ours) for name, values in times.items() if values is not ours
        },
    }
    print(json.dumps(result, indent=2))
    if settings.json:
        settings.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
