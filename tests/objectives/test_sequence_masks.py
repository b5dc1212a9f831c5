import re

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.hashed_noise import draw_keys
from bdfm_nnunet.objectives.sequence_masks import SequenceMasking, of_windows, token_regions, window_numbers
from tests.golden_outputs import golden_tensors

GRID = (8, 8, 4, 6)  # whose frames are no whole number of windows
KINDS = ("window", "random", "tube", "atlas")
_PLACES = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in GRID[:-1]), indexing="ij")
BRAIN = torch.stack([(sum(p.square() for p in _PLACES) < limit).float() * 0.3 for limit in (1.4, 0.9, 2.0)])
REGIONS = 1 + window_numbers(GRID[:-1], (2, 3, 4))[0]


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draw(kind: str, batch: int = 3, ratio: float = 0.5, seed: int = 0, **options: object) -> Tensor:
    regions = REGIONS if kind == "atlas" else None
    chosen = {name: options.pop(name) for name in ("window", "legacy") if name in options}
    masking = SequenceMasking(kind=kind, ratio=ratio, **chosen)  # type: ignore[arg-type]
    return masking.draw(batch, GRID, generator=_generator(seed), **{"regions": regions} | options)  # type: ignore[arg-type]


def _unit_numbers(kind: str) -> Tensor:
    """An independent way to tell units apart: (X, Y, Z, T) numbers from 0."""
    numbers = torch.zeros(GRID, dtype=torch.long)
    for x in range(GRID[0]):
        for y in range(GRID[1]):
            for z in range(GRID[2]):
                for t in range(GRID[3]):
                    numbers[x, y, z, t] = {
                        "window": ((x // 4) * 2 + y // 4) * 2 + t // 4,
                        "random": ((x * 8 + y) * 4 + z) * 6 + t,
                        "tube": (x // 4) * 2 + y // 4,
                        "atlas": ((x // 2) * 3 + y // 3) * 2 + t // 4,
                    }[kind]
    return numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.01, 0.3, 0.5, 0.99])
def test_masks_hide_whole_units_and_the_wanted_share_of_them(kind: str, ratio: float) -> None:
    mask, numbers = _draw(kind, ratio=ratio), _unit_numbers(kind)
    assert mask.shape == (3, *GRID) and mask.dtype == torch.bool
    counts = torch.bincount(numbers.flatten())
    for sample in mask:
        hidden = torch.bincount(numbers[sample], minlength=len(counts))
        assert ((hidden == 0) | (hidden == counts)).all()
        chosen = int((hidden > 0).sum())
        assert 1 <= chosen < len(counts) and (abs(chosen - ratio * len(counts)) <= 1)
        if kind != "atlas":
            assert abs(int(sample.sum()) - ratio * numbers.numel()) <= counts.max()
    assert kind != "tube" or torch.equal(mask, mask[..., :1].expand_as(mask))
    if 0.1 < ratio < 0.9:
        assert not torch.equal(mask[0], mask[1]) and not torch.equal(mask, _draw(kind, ratio=ratio, seed=1))
    assert torch.equal(mask, _draw(kind, ratio=ratio))


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_sampled_where_there_is_brain(kind: str) -> None:
    mask, numbers = _draw(kind, brain=BRAIN, ratio=0.4), _unit_numbers(kind)
    for sample, brain in zip(mask, BRAIN, strict=True):
        inside = {int(n) for n in numbers[brain > 0].unique()}
        hidden = {int(n) for n in numbers[sample].unique()}
        assert hidden < inside and abs(len(hidden) - 0.4 * len(inside)) <= 1
    alone = SequenceMasking(kind=kind, ratio=0.4)  # type: ignore[arg-type]
    keys = draw_keys(3, generator=_generator())
    each = [alone.masks(keys[i : i + 1], GRID, brain=BRAIN[i : i + 1], regions=REGIONS) for i in range(3)]
    assert torch.equal(torch.cat(each), mask)  # whatever else is in the batch


def test_a_sample_without_brain_or_with_one_unit_of_it_is_masked_too() -> None:
    brain = torch.zeros(2, *GRID[:-1])
    brain[1, 1, 1, 1] = 1.0
    mask = _draw("tube", batch=2, brain=brain)
    assert mask[0].float().mean() == 0.5
    assert torch.equal(mask[1], _unit_numbers("tube") == 0)


def test_every_unit_is_masked_as_often_as_the_others() -> None:
    masking = SequenceMasking(ratio=0.3, window=(2, 2, 2, 4))
    counts = masking.draw(600, (4, 4, 3, 6), generator=_generator()).float().mean(0)
    assert (counts - 0.3).abs().max() < 0.12  # five deviations of a share of 600
    pairs = masking.draw(600, (4, 4, 3, 6), generator=_generator(1)).flatten(1).float()
    corners = pairs[:, 0] * pairs[:, -1]
    assert 0.02 < corners.mean() < 0.17  # units of different sizes are masked apart from each other


def test_regions_change_from_block_of_frames_to_block() -> None:
    mask = _draw("atlas", ratio=0.5)
    assert torch.equal(mask[..., 0], mask[..., 3]) and torch.equal(mask[..., 4], mask[..., 5])
    assert not torch.equal(mask[..., 3], mask[..., 4])
    whole = _draw("atlas", window=(4, 4, 4, 6))
    assert torch.equal(whole, whole[..., :1].expand_as(whole))


def test_the_background_of_an_atlas_is_never_masked() -> None:
    regions = REGIONS.clone()
    regions[:, :4] = 0
    for legacy in (False, True):
        mask = _draw("atlas", ratio=0.9, legacy=legacy, regions=regions)
        assert not mask[:, :4].any() and mask[:, 4:].any(4).float().mean() > 0.5
    none = torch.cat([regions, torch.zeros_like(regions)])
    mask = _draw("atlas", batch=2, regions=none)
    assert mask[0].any() and not mask[1].any()


@pytest.mark.parametrize("kind", KINDS)
def test_published_masks_round_down_and_know_no_brain(kind: str) -> None:
    mask, numbers = _draw(kind, ratio=0.29, legacy=True, brain=BRAIN), _unit_numbers(kind)
    if kind == "atlas":
        numbers = _unit_numbers("atlas") // 2
    total = int(numbers.max()) + 1
    for sample in mask:
        assert len(numbers[sample].unique()) == int(total * 0.29)
    assert _draw(kind, ratio=0.0001, legacy=True).any() == (kind == "atlas")
    many = SequenceMasking(legacy=True, ratio=0.5).draw(40, (8, 8, 4, 4), generator=_generator())
    assert len(many.flatten(1).unique(dim=0)) == 6  # of 4 windows 2, in all ways


def test_masks_of_windows_and_of_tokens_are_one_mask() -> None:
    golden = golden_tensors("neurostorm_small")
    tokens = golden["mask_tokens"].bool()
    assert torch.equal(of_windows(golden["mask_windows"].bool(), tokens.shape[1:]), tokens)
    regions = golden["atlas_map"][None].long()
    atlas = golden["atlas.mask_tokens"].bool()
    drawn = SequenceMasking(kind="atlas", legacy=True).draw(2, atlas.shape[1:], regions=regions, generator=_generator())
    for mask in (atlas, drawn):  # the published one is of the same kind as ours
        assert torch.equal(mask, mask[..., :1].expand_as(mask)) and not mask[:, regions[0] == 0].any()
        hidden = [regions[0][sample[..., 0]].unique() for sample in mask]
        assert all(len(each) == int(len(regions.unique()) - 1) // 2 for each in hidden)
        assert all(torch.isin(regions[0], h).equal(m[..., 0]) for h, m in zip(hidden, mask, strict=True))


def test_a_mask_of_windows_is_cut_at_the_end_of_the_grid() -> None:
    windows = torch.rand(2, 2 * 1 * 1 * 2, generator=_generator()) < 0.5
    mask = of_windows(windows, (5, 3, 2, 6), (3, 4, 4, 4))
    for x in range(5):
        for t in range(6):
            assert torch.equal(mask[:, x, 1, 1, t], windows[:, (x // 3) * 2 + t // 4])


def test_the_region_of_a_token_is_the_most_frequent_one() -> None:
    atlas = torch.randint(0, 5, (2, 6, 4, 4), generator=_generator())
    atlas[0, :3, :2] = 0
    atlas[0, 0, 0, 0] = 4
    found = token_regions(atlas, (3, 2, 4))
    for b in range(2):
        for x in range(2):
            for y in range(2):
                block = atlas[b, 3 * x : 3 * x + 3, 2 * y : 2 * y + 2].flatten().tolist()
                counts = {label: block.count(label) for label in set(block) - {0}}
                assert found[b, x, y, 0] == min(k for k, n in counts.items() if n == max(counts.values()))
    assert token_regions(torch.zeros(1, 2, 2, 2), (2, 2, 2)).item() == 0


def test_masks_are_made_on_the_device_asked_for() -> None:
    mask = SequenceMasking().draw(1, GRID, generator=_generator(), device="cpu")
    assert mask.device.type == "cpu"
    if torch.cuda.is_available():
        for kind in KINDS:
            there = _draw(kind, brain=BRAIN, device="cuda")
            assert there.device.type == "cuda" and torch.equal(there.cpu(), _draw(kind, brain=BRAIN))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "window", "window": (8, 8, 4, 6)}, "single window.*mask_window"),
        ({"kind": "atlas", "regions": None}, "need an atlas"),
        ({"kind": "atlas", "regions": torch.zeros(1, *GRID[:-1])}, "atlas of several regions"),
        ({"kind": "atlas", "regions": torch.ones(1, 8, 8, 8)}, r"expected (B, 8, 8, 4)"),
        ({"kind": "window", "ratio": 1.0}, "mask ratio is 1.0"),
        ({"kind": "window", "window": (4, 4, 4)}, "expected tokens along X, Y, Z and T"),
    ],
)
def test_what_cannot_be_masked_is_an_error(options: dict[str, object], message: str) -> None:
    with pytest.raises((InputError, ValueError), match=message if ".*" in message else re.escape(message)):
        _draw(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="region -1"):
        token_regions(torch.tensor([[[[-1]]]]), (1, 1, 1))
