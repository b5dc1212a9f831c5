"""New contrasts, on made-up heads: a white core in a grey shell in fluid, with noise, and 0 around."""

from typing import Any

import pytest
import torch

from bdfm_nnunet.data.random_contrast import ContrastTransform, draw_contrasts, redrawn
from bdfm_nnunet.intensity_changes import blurred

SIZE, RADII, TISSUES = 28, (6, 9, 13), (1.0, 0.6, 0.2)


def _radius() -> torch.Tensor:
    line = torch.arange(SIZE) - (SIZE - 1) / 2
    return sum(each.square() for each in torch.meshgrid(line, line, line, indexing="ij")) ** 0.5


def _head(*, noise: float = 0.02, seed: int = 0, air: float = 0.0) -> torch.Tensor:
    """White matter, grey matter and fluid (1, 1, 28, 28, 28), seen through a filter, and normalised."""
    radius, head = _radius(), torch.zeros(SIZE, SIZE, SIZE)
    for outer, tissue in zip(reversed(RADII), reversed(TISSUES), strict=True):
        head[radius < outer] = tissue
    head = blurred(head[None, None], torch.tensor([[0.6, 0.6, 0.6]]))
    head = head + noise * torch.randn(head.shape, generator=torch.Generator().manual_seed(seed))
    inside = (radius < RADII[-1] + 1)[None, None] if not air else torch.ones_like(head, dtype=torch.bool)
    values = head[inside]
    return torch.where(inside, (head - values.mean()) / values.std(), 0)


def _inner(tissue: int) -> torch.Tensor:
    radius = _radius()
    return (radius < RADII[tissue] - 1) & (radius > (RADII[tissue - 1] + 1 if tissue else -1))


def _drawn(images: torch.Tensor, seed: int = 0, **options: Any) -> dict[str, torch.Tensor]:
    return draw_contrasts(images.shape, generator=torch.Generator().manual_seed(seed), **options)


def test_the_order_of_the_tissues_changes() -> None:
    head = _head()
    orders = set()
    for seed in range(30):
        new = redrawn(head, _drawn(head, seed))[0, 0]
        levels = [float(new[_inner(tissue)].mean()) for tissue in range(3)]
        orders.add(tuple(sorted(range(3), key=lambda tissue: levels[tissue])))
    assert len(orders) == 6


def test_a_new_contrast_is_more_than_another_scale() -> None:
    """Else normalisation would take it away again."""
    head = _head()
    inside = head != 0
    alike = [
        torch.corrcoef(torch.stack([head[inside], redrawn(head, _drawn(head, s))[inside]]))[0, 1] for s in range(20)
    ]
    assert max(alike) < 0.95 and min(alike) < 0 and sorted(alike)[10] < 0.7


def test_statistics_of_the_foreground_and_the_background_stay() -> None:
    images = torch.cat([_head(), 100 + 20 * _head(seed=1, air=1)])
    new = redrawn(images, _drawn(images))
    for image, other in zip(images, new, strict=True):
        assert torch.equal(other[image == 0], image[image == 0])
        inside = image != 0
        torch.testing.assert_close(other[inside].mean(), image[inside].mean(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(other[inside].std(), image[inside].std(), atol=1e-4, rtol=1e-4)
    assert not torch.equal(images, new) and (images[0] == 0).any()


def test_edges_stay_where_they_are() -> None:
    head = _head(noise=0.01)
    inside = _radius() < RADII[-1] - 1
    old = _steepness(head)
    new = sum(_steepness(redrawn(head, _drawn(head, seed, p_bias=0.0))) for seed in range(10))
    edge = old > old[inside].quantile(0.7)
    assert torch.corrcoef(torch.stack([old[inside], new[inside]]))[0, 1] > 0.8
    assert new[inside & edge].mean() > 2.5 * new[inside & ~edge].mean()


def _steepness(image: torch.Tensor) -> torch.Tensor:
    return sum(slope.square() for slope in torch.gradient(image[0, 0])) ** 0.5


def test_the_texture_of_a_tissue_stays_or_is_reversed() -> None:
    head, core = _head(noise=0.05), _inner(0)
    alike = []
    for seed in range(12):
        new = redrawn(head, _drawn(head, seed, p_bias=0.0))
        alike.append(float(torch.corrcoef(torch.stack([head[0, 0][core], new[0, 0][core]]))[0, 1]))
    assert min(alike) < -0.5 and max(alike) > 0.5


def test_a_label_gets_a_contrast_that_the_image_does_not_have() -> None:
    head = _head()
    labels = (torch.arange(SIZE) < SIZE // 2).long().expand(1, SIZE, SIZE, SIZE).clone()  # half of all tissues
    before = labels.clone()
    new = [redrawn(head, _drawn(head, seed, labels=2, p_own=1.0, p_bias=0.0), labels)[0, 0] for seed in range(6)]
    assert torch.equal(labels, before)
    core = _inner(0)
    half = core & (labels[0] == 1), core & (labels[0] == 0)
    apart = [abs(float(each[half[0]].mean() - each[half[1]].mean())) for each in new]
    assert max(apart) > 0.5
    for options in ({"labels": 2, "p_own": 0.0}, {"labels": 1}):  # the second knows of no such label
        drawn = _drawn(head, 0, p_bias=0.0, **options)
        assert torch.allclose(redrawn(head, drawn, labels), redrawn(head, drawn), atol=1e-5)


def test_labels_that_were_not_drawn_for_count_as_the_rest() -> None:
    head = _head()
    labels = torch.randint(-1, 5, (1, SIZE, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    drawn = _drawn(head, labels=3, p_own=1.0)
    known = torch.where((labels < 0) | (labels > 2), 0, labels)
    assert torch.equal(redrawn(head, drawn, labels), redrawn(head, drawn, known))
    assert not torch.equal(redrawn(head, drawn, labels), redrawn(head, drawn))


def test_air_stays_the_darkest() -> None:
    head = _head(air=1, noise=0.01)
    air = _radius() > RADII[-1] + 1
    for seed in range(10):
        new = redrawn(head, _drawn(head, seed, p_bias=0.0))[0, 0]
        darkest = min(float(new[_inner(tissue)].mean()) for tissue in range(3))
        assert new[air].mean() < darkest + 0.05
        assert torch.corrcoef(torch.stack([new[air], head[0, 0][air]]))[0, 1] > 0.95


def test_samples_and_channels_are_drawn_apart_and_do_not_touch_each_other() -> None:
    head = _head()
    images = head.expand(3, 2, *head.shape[2:]).clone()
    drawn = _drawn(images)
    new = redrawn(images, drawn).flatten(0, 1)
    assert not any(torch.allclose(new[i], new[j], atol=0.1) for i in range(6) for j in range(i))
    part = redrawn(images[1:2], {name: values[1:2] for name, values in drawn.items()})
    assert torch.equal(part[0].flatten(), new[2:4].flatten())


def test_as_many_are_changed_as_asked_for_and_the_others_stay_to_the_bit() -> None:
    assert not _drawn(torch.empty(1000, 1, 4), share=0.0)["chosen"].any()
    assert 0.25 < _drawn(torch.empty(1000, 1, 4), share=0.3)["chosen"].float().mean() < 0.35
    images = torch.randn(8, 1, 9, 10, generator=torch.Generator().manual_seed(5))
    drawn = _drawn(images, share=0.5)
    new, before = redrawn(images, drawn), images.clone()
    assert [torch.equal(*pair) for pair in zip(images, new)] == (~drawn["chosen"]).tolist()
    assert torch.equal(images, before) and 0 < drawn["chosen"].sum() < 8


@pytest.mark.parametrize(
    "options",
    [{"p_same": 1.0}, {"texture": (0.0, 0.0)}, {"p_reversed": 0.0}, {"p_bias": 0.0}, {"bias": 0.9}, {"p_own": 0.0}],
)
def test_every_option_acts(options: dict[str, Any]) -> None:
    head = _head()
    labels = (_radius() < 8).long()[None]
    plain, other = (redrawn(head, _drawn(head, 1, labels=2, **each), labels) for each in ({}, options))
    assert other.isfinite().all() and not torch.equal(plain, other)


def test_thick_slices_are_told_by_the_spacing() -> None:
    head = _head()[:, :, ::4]
    drawn = _drawn(head)
    assert not torch.equal(redrawn(head, drawn), redrawn(head, drawn, spacing=(4.0, 1.0, 1.0)))
    assert torch.equal(redrawn(head, drawn), redrawn(head, drawn, spacing=(2.0, 2.0, 2.0)))


@pytest.mark.parametrize(
    "image", [torch.zeros(1, 1, 6, 6, 6), torch.full((1, 1, 6, 6, 6), 3.0), torch.ones(1, 1, 1, 2)]
)
def test_an_image_without_contrast_stays(image: torch.Tensor) -> None:
    torch.testing.assert_close(redrawn(image, _drawn(image, p_bias=0.0)), image)


def test_a_transform_changes_the_image_alone_and_by_the_random_state() -> None:
    image, labels = _head()[0], (_radius() < 8).short()[None]
    transform = ContrastTransform(share=1.0, labels=2, spacing=(1.0, 1.0, 1.0))
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(transform(image=image, segmentation=labels, other="kept"))
    assert torch.equal(results[0]["image"], results[1]["image"]) and results[0]["other"] == "kept"
    assert not torch.equal(results[0]["image"], results[2]["image"])
    assert results[0]["segmentation"] is labels and results[0]["image"].shape == image.shape
    assert torch.equal(
        ContrastTransform(share=0.0, labels=2, spacing=(1, 1, 1))(image=image, segmentation=labels)["image"], image
    )
