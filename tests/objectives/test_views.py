from typing import Any

import pytest
import torch

from bdfm_nnunet.objectives.views import draw_views, intensities_changed, two_clip_views, two_views
from bdfm_nnunet.settings import ContrastiveSettings

OFF = dict.fromkeys(
    ("p_flip", "p_rotation", "p_scaling", "p_bias", "p_gamma", "p_contrast", "p_blur", "p_low_resolution", "p_noise"),
    0.0,
) | {"least_share": 1.0}
SPATIAL = (12, 14, 16)
IMAGES = torch.randn(4, 2, *SPATIAL, generator=torch.Generator().manual_seed(0))


def _views(settings: ContrastiveSettings, images: torch.Tensor = IMAGES, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    drawn = draw_views(len(images), images.shape[2:], settings, generator=generator, **options)
    return torch.stack(two_views(images, drawn, settings))


def _plain() -> torch.Tensor:
    centred = IMAGES - IMAGES.mean((2, 3, 4), keepdim=True)
    return centred / IMAGES.std((2, 3, 4), keepdim=True, unbiased=False)


def test_with_every_part_off_both_views_are_the_standardised_image() -> None:
    views = _views(ContrastiveSettings(**OFF))
    torch.testing.assert_close(views, _plain().expand(2, *IMAGES.shape), rtol=0, atol=1e-4)
    kept = _views(ContrastiveSettings(**OFF | {"standardise": False}))
    torch.testing.assert_close(kept, IMAGES.expand(2, *IMAGES.shape), rtol=0, atol=1e-4)


@pytest.mark.parametrize("part", [name for name in OFF if name != "least_share"])
def test_each_switch_changes_the_views_and_survives_standardisation(part: str) -> None:
    views = _views(ContrastiveSettings(**OFF | {part: 1.0}))
    for view in views:
        assert ((view - _plain()).abs().amax((1, 2, 3, 4)) > 0.01).float().mean() >= 0.75
    assert part == "p_flip" or (views[0] - views[1]).abs().max() > 0.01
    sometimes = _views(ContrastiveSettings(**OFF | {part: 0.5}))
    unchanged = (sometimes - _plain()).abs().amax((2, 3, 4, 5)) < 1e-4
    assert 0 < unchanged.sum() < 8


@pytest.mark.parametrize("part", [name for name in OFF if name != "least_share"])
def test_a_switch_leaves_the_draws_of_all_other_parts(part: str) -> None:
    def drawn(**changes: float) -> dict[str, torch.Tensor]:
        settings = ContrastiveSettings(**dict.fromkeys(OFF, 0.5) | changes)
        return draw_views(5, SPATIAL, settings, generator=torch.Generator().manual_seed(1))

    both, without = drawn(), drawn(**{part: 0.0})
    changed = {name for name in both if not torch.equal(both[name], without[name])}
    geometric = part in ("p_flip", "p_rotation", "p_scaling")
    assert changed == ({"matrix"} if geometric else {part.removeprefix("p_")})


@pytest.mark.parametrize(
    ("part", "setting", "small", "large"),
    [
        ("p_rotation", "degrees", 2.0, 40.0),
        ("p_scaling", "scaling", (0.99, 1.01), (0.5, 0.6)),
        ("p_bias", "bias", 0.01, 0.8),
        ("p_gamma", "gamma", (0.99, 1.0), (2.0, 3.0)),
        ("p_contrast", "contrast", 0.05, 2.0),
        ("p_blur", "blur", (0.2, 0.25), (1.0, 1.2)),
        ("p_low_resolution", "low_resolution", 1.01, 4.0),
        ("p_noise", "noise", 0.001, 1.0),
    ],
)
def test_strengths_act(part: str, setting: str, small: Any, large: Any) -> None:
    smooth = torch.nn.functional.interpolate(IMAGES[..., ::4, ::4, ::4], SPATIAL, mode="trilinear")
    plain = _views(ContrastiveSettings(**OFF), smooth)
    distance = [
        (_views(ContrastiveSettings(**OFF | {part: 1.0, setting: value}), smooth) - plain).square().mean()
        for value in (small, large)
    ]
    assert 0 < distance[0] < 0.5 * distance[1]


def test_crops_settings_act() -> None:
    def matrices(**changes: Any) -> torch.Tensor:
        settings = ContrastiveSettings(**OFF | {"least_share": 0.1} | changes)
        return draw_views(500, SPATIAL, settings, generator=torch.Generator().manual_seed(0))["matrix"]

    two, one = matrices(), matrices(crops="one")
    assert not torch.equal(two[:, 0], two[:, 1]) and torch.equal(one[:, 0], one[:, 1])
    sides = two[..., :-1].diagonal(dim1=-2, dim2=-1)
    assert (sides.prod(-1) >= 0.1 - 1e-6).all() and sides.prod(-1).min() < 0.15
    assert (matrices(least_share=0.6)[..., :-1].diagonal(dim1=-2, dim2=-1).prod(-1) >= 0.6 - 1e-6).all()
    apart = [(m[:, 0, :, -1] - m[:, 1, :, -1]).norm(dim=-1).mean() for m in (two, matrices(least_overlap=0.95))]
    assert apart[1] < apart[0]


def test_outside_and_spacing_act() -> None:
    settings = OFF | {"p_rotation": 1.0, "degrees": 45.0}
    zero, edge = (_views(ContrastiveSettings(**settings | {"outside": each})) for each in ("zero", "edge"))
    assert (zero == 0).sum() > 100 and (edge == 0).sum() < 10
    thick = _views(ContrastiveSettings(**settings), spacing=(6.5, 0.8, 0.8))
    assert not torch.equal(thick, zero)
    blur = ContrastiveSettings(**OFF | {"p_blur": 1.0})
    drawn = draw_views(3, SPATIAL, blur, spacing=(4.0, 1.0, 2.0), generator=torch.Generator())
    torch.testing.assert_close(drawn["blur"][..., 1], 4 * drawn["blur"][..., 0])
    assert (drawn["blur"][..., 1] >= blur.blur[0]).all() and (drawn["blur"][..., 1] <= blur.blur[1]).all()


@pytest.mark.parametrize("spatial", [(12, 14, 16), (20, 24), (4, 30, 30)])
@pytest.mark.parametrize("legacy", [False, True])
def test_background_only_crops_and_thin_or_plane_ones_are_finite(spatial: tuple[int, ...], legacy: bool) -> None:
    images = torch.randn(4, 1, *spatial)
    images[0] = 0
    images[1] = 0
    images[1, 0, 0] = 7  # constant, but for the background
    settings = ContrastiveSettings(**dict.fromkeys(OFF, 1.0), legacy_views=legacy)
    views = _views(settings, images)
    assert views.shape == (2, *images.shape) and views.isfinite().all()
    assert (views[:, 0] == 0).all()


def test_background_stays_zero_and_counts_for_nothing() -> None:
    head = torch.zeros(IMAGES.shape, dtype=torch.bool)
    head[:, :, 3:9, 3:11, 4:12] = True
    settings = ContrastiveSettings(**dict.fromkeys(OFF, 1.0))
    drawn = draw_views(4, SPATIAL, settings, generator=torch.Generator().manual_seed(0))
    one = {name: value[:, 0] for name, value in drawn.items()}
    view = intensities_changed(torch.where(head, IMAGES + 2, 0), one, settings)
    assert (view[~head] == 0).all() and view.isfinite().all()
    inside = view[head].reshape(4, 2, -1)
    assert inside.mean(-1).abs().max() < 1e-4 and (inside.std(-1, unbiased=False) - 1).abs().max() < 1e-3


def test_views_of_a_sample_do_not_depend_on_the_rest_of_the_batch() -> None:
    settings = ContrastiveSettings(**dict.fromkeys(OFF, 0.5))
    drawn = draw_views(4, SPATIAL, settings, generator=torch.Generator().manual_seed(2))
    whole = two_views(IMAGES, drawn, settings)
    part = two_views(IMAGES[1:3], {name: value[1:3] for name, value in drawn.items()}, settings)
    for view in range(2):
        torch.testing.assert_close(part[view], whole[view][1:3], rtol=0, atol=1e-5)


def test_larger_crops_give_views_of_the_patch() -> None:
    settings = ContrastiveSettings(region=1.5)
    drawn = draw_views(2, (12, 12, 12), settings, generator=torch.Generator())
    first, second = two_views(torch.rand(2, 1, 12, 12, 12), drawn, settings, spatial=(8, 8, 8))
    assert first.shape == second.shape == (2, 1, 8, 8, 8)


def test_one_seed_repeats_all_and_another_one_nothing() -> None:
    settings = ContrastiveSettings()
    draws = [draw_views(3, SPATIAL, settings, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert all(torch.equal(draws[0][name], draws[1][name]) for name in draws[0])
    assert not any(torch.equal(draws[0][name], draws[2][name]) for name in ("matrix", "gamma", "noise_keys"))


CLIPS = torch.randn(3, 2, *SPATIAL, 5, generator=torch.Generator().manual_seed(4))
BRAIN = torch.rand(3, 2, *SPATIAL, generator=torch.Generator().manual_seed(5)) < 0.7


def _clip_views(clips: torch.Tensor = CLIPS, **changes: Any) -> torch.Tensor:
    settings = ContrastiveSettings(**OFF | changes)
    drawn = draw_views(len(clips), SPATIAL, settings, generator=torch.Generator().manual_seed(3))
    return torch.stack(two_clip_views(clips, BRAIN, drawn, settings, spatial=SPATIAL))


def test_with_every_part_off_views_of_clips_are_their_standardised_brains() -> None:
    views = _clip_views()
    assert views.shape == (2, 3, 1, *SPATIAL, 5)
    for number, view in enumerate(views):
        for sample in range(3):
            inside = BRAIN[sample, number]
            values = CLIPS[sample, number][inside]
            expected = (values - values.mean()) / values.std(unbiased=False)  # of all frames together
            torch.testing.assert_close(view[sample, 0][inside], expected, rtol=1e-3, atol=1e-3)
            assert not view[sample, 0][~inside].any()


@pytest.mark.parametrize("part", [name for name in OFF if name != "least_share"])
def test_each_switch_changes_all_frames_of_a_clip_alike_but_for_the_noise(part: str) -> None:
    """All frames of these clips are the same, so they must stay the same."""
    still = CLIPS[..., :1].expand(*CLIPS.shape)
    views = _clip_views(still, **{part: 1.0})
    assert (views - _clip_views(still)).abs().flatten(2).amax(2).gt(0.01).float().mean() > 0.7
    between = (views - views[..., :1]).abs().amax()
    assert between > 0.01 if part == "p_noise" else between < 1e-4
