import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.prediction.sliding_windows import Batches, group_alike, join_windows, mean_over_mirrorings, mirrorings

CPU = torch.device("cpu")


class Told(list[int]):
    """A progress bar that keeps what it is told."""

    def update(self, n: int, /) -> None:
        self.append(n)


def tiles(*lengths: int, size: int = 4) -> list[Any]:
    """Windows side by side."""
    starts = itertools.product(*(range(0, length, size) for length in lengths))
    return [(slice(None), *(slice(start, start + size) for start in place)) for place in starts]


def test_windows_that_are_constant_in_every_channel_are_alike() -> None:
    volume = torch.zeros(2, 16, 4)
    volume[1, 8:12] = 3.0
    volume[0, 5, 1] = 1.0
    windows = tiles(16, 4)
    assert group_alike(volume, windows) == [[windows[0], windows[3]], [windows[1]], [windows[2]]]


def test_windows_of_constant_content_in_one_channel_alone_are_not_alike() -> None:
    volume = torch.zeros(2, 8, 4)
    volume[1] = torch.arange(4.0)
    assert [len(group) for group in group_alike(volume, tiles(8, 4))] == [1, 1]


def test_nothing_equals_missing_values() -> None:
    assert len(group_alike(torch.full((1, 8, 4), torch.nan), tiles(8, 4))) == 2


def test_windows_of_single_slices_are_compared_too() -> None:
    windows = [(slice(None), number, slice(0, 4), slice(0, 4)) for number in range(3)]
    volume = torch.zeros(1, 3, 4, 4)
    volume[0, 1, 2, 2] = 1
    assert group_alike(volume, windows) == [[windows[0], windows[2]], [windows[1]]]


def test_mirrorings_are_all_combinations_and_the_plain_one_is_first() -> None:
    assert mirrorings(None) == mirrorings(()) == [()]
    assert mirrorings((0, 2)) == [(), (2,), (4,), (2, 4)]


def test_mean_over_mirrorings_mirrors_back() -> None:
    images = torch.randn(2, 1, 3, 5, generator=torch.Generator().manual_seed(0))
    ramp = torch.arange(5.0)
    mean = mean_over_mirrorings(lambda batch: batch * ramp, images, mirrorings((1,)))
    torch.testing.assert_close(mean, images * (ramp + ramp.flip(0)) / 2)


def test_logits_are_the_weighted_mean_of_the_windows() -> None:
    volume = torch.arange(8.0).reshape(1, 8)
    windows = [(slice(None), slice(start, start + 4)) for start in (0, 2, 4)]
    weight, told = torch.tensor([1.0, 2.0, 2.0, 1.0]), Told()
    seen: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.cat([images, -images], dim=1) + images[:, :, :1]

    logits = join_windows(
        volume, group_alike(volume, windows), predict, weight=weight, classes=2, together=2, device=CPU, progress=told
    )
    sums, weights = torch.zeros(2, 8), torch.zeros(8)
    for _, place in windows:
        content = volume[:, place]
        sums[:, place] += weight * (torch.cat([content, -content]) + content[:, :1])
        weights[place] += weight
    torch.testing.assert_close(logits.float(), sums / weights, rtol=1e-3, atol=1e-3)
    assert logits.dtype == torch.half and [len(images) for images in seen] == [2, 1] and told == [1, 1, 1]


def test_logits_that_do_not_fit_are_an_error() -> None:
    volume = torch.rand(1, 4)
    groups = group_alike(volume, tiles(4))
    with pytest.raises(RuntimeError, match="beyond half precision"):
        join_windows(
            volume, groups, lambda x: x + 1e6, weight=1, classes=1, together=1, device=CPU, progress=Told()
        )  # fmt: skip


def test_a_full_memory_halves_the_batches_for_good() -> None:
    sizes: list[int] = []

    def network(images: Tensor) -> Tensor:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return images

    batches, images = Batches(network, 8), torch.arange(9.0)[:, None]
    torch.testing.assert_close(batches(images), images)
    assert sizes == [8, 4, 2, 2, 2, 2, 1] and batches.limit == 2


def test_one_window_that_does_not_fit_is_an_error() -> None:
    def network(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        Batches(network, 2)(torch.zeros(2, 1))
