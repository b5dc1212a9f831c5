"""The focal frequency loss against loops over patches, on one 96^3 sample: forward and backward.

Three quarters of the sample's 13,824 patches are masked. Of the loops, `patch_by_patch` is written from the definition;
`cut_in_a_loop` cuts one patch after the other and transforms them together, as published codes do;
`over_ready_patches`, the cheapest, gets its patches cut and loops over the transforms. What the loops that cut patches
pay is mostly the backward pass: the gradient of every cut is an image of zeros. All arms must give the same gradient.
The floor is reading two images and writing one gradient at the memory rate measured in the same run.

    python benchmarks/frequency_loss.py [--quick] [--size 96] [--rounds 3] [--threads 1]
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from bdfm_nnunet.frequency import patchify
from bdfm_nnunet.losses import focal_frequency_loss
from floors import memory_rate
from harness import Result, Table, alternate, options, parse, prose

PATCH = 4
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def patch_by_patch(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Follow the definition: cut, transform and weight one patch after the other."""
    values = [_score(first - second) for first, second in _cut(prediction, target, mask)]
    return torch.stack(values).mean()


def cut_in_a_loop(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Cut one patch after the other, then transform all of them at once, as published codes do."""
    first, second = (torch.stack(patches) for patches in zip(*_cut(prediction, target, mask), strict=True))
    return _score(first, second)


def over_ready_patches(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Transform and weight one patch after the other, all cut at once: the cheapest loop.

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
    """Return the loss of patches (..., d, h, w): of a difference, or of two images that are transformed one by one."""
    axes = (-3, -2, -1)
    spectrum = torch.fft.fftn(first, dim=axes, norm="ortho")
    if second is not None:
        spectrum = spectrum - torch.fft.fftn(second, dim=axes, norm="ortho")
    power = spectrum.abs().square()
    weight = (power.sqrt() / power.sqrt().amax(axes, keepdim=True)).detach()
    return (weight * power).mean()


def gradient(arm: Loss, images: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Run one forward and backward pass."""
    prediction = images[0].detach().requires_grad_()
    arm(prediction, *images[1:]).backward()
    assert prediction.grad is not None
    return prediction.grad


OURS = focal_frequency_loss.__name__
ARMS: dict[str, Loss] = {
    OURS: focal_frequency_loss,
    "over_ready_patches": over_ready_patches,
    "cut_in_a_loop": cut_in_a_loop,
    "patch_by_patch": patch_by_patch,
}


def main() -> None:
    """Check that the arms agree, run them alternately and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    settings = parse(parser, quick={"size": 48, "rounds": 2})
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    prediction, target = torch.randn(2, 1, 1, *(settings.size,) * 3)
    mask = torch.rand(1, *(settings.size // PATCH,) * 3) < 0.75
    images = prediction, target, mask
    expected = gradient(over_ready_patches, images)
    for arm in (focal_frequency_loss, cut_in_a_loop, patch_by_patch):
        torch.testing.assert_close(gradient(arm, images), expected, rtol=1e-3, atol=1e-9)
    times = alternate(
        {name: partial(gradient, arm, images) for name, arm in ARMS.items()}, rounds=settings.rounds, warmup=0
    )

    floor = 3 * prediction.nbytes / memory_rate()
    result = Result("Focal frequency loss", prose(__doc__), vars(settings), ("torch",))
    table = Table("Forward and backward", ["arm", "s", f"time relative to {OURS}"], [["floor", f"{floor:.3g}", ""]])
    for name in ARMS:
        table.rows.append([name, str(times.of(name)), str(times.speedup(OURS, name))])
    result.tables.append(table)
    result.raw = {"floor_seconds": floor, "seconds": times}
    result.write(settings.json)


if __name__ == "__main__":
    main()
