import pytest
import torch

from bdfm_nnunet.masking import MaskToken, block_mask, complementary_masks, per_axis, upsample


def _draw(seed: int = 0, **settings: object) -> torch.Tensor:
    arguments: dict[str, object] = {"ratio": 0.75, "generator": torch.Generator().manual_seed(seed)} | settings
    return block_mask(3, (8, 6, 4), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
def test_ratio_is_exact_for_every_sample(ratio: float) -> None:
    assert _draw(ratio=ratio).flatten(1).sum(1).tolist() == [round(ratio * 192)] * 3


def test_samples_have_masks_of_their_own() -> None:
    mask = _draw()
    assert not torch.equal(mask[0], mask[1])


def test_generator_alone_decides() -> None:
    torch.manual_seed(1)
    first = _draw(seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, _draw(seed=5))
    assert not torch.equal(first, _draw(seed=6))


def test_blocks_are_masked_whole() -> None:
    mask = _draw(block_size=(4, 3, 2))
    blocks = mask.reshape(3, 2, 4, 2, 3, 2, 2).permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
    assert torch.equal(blocks.all(-1), blocks.any(-1))
    assert blocks.any(-1).flatten(1).sum(1).tolist() == [6, 6, 6]


def test_grid_may_end_in_cut_blocks() -> None:
    mask = block_mask(1, (5, 5), ratio=0.5, block_size=2, generator=torch.Generator().manual_seed(0))
    assert mask.shape == (1, 5, 5)
    assert 0 < mask.sum() < 25


def test_something_is_masked_and_something_visible_at_extreme_ratios() -> None:
    for ratio in (1e-6, 1 - 1e-6):
        mask = block_mask(4, (2, 2), ratio=ratio, generator=torch.Generator().manual_seed(0)).flatten(1)
        assert mask.any(1).all() and not mask.all(1).any()


@pytest.mark.parametrize("ratio", [0.0, 1.0, 75.0])
def test_impossible_ratio_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        _draw(ratio=ratio)


def test_single_block_is_refused() -> None:
    with pytest.raises(ValueError, match=r"smaller pretraining\.block_size"):
        _draw(block_size=8)


@pytest.mark.parametrize(("grid", "block_size"), [((8, 6, 4), 1), ((8, 6, 4), (4, 3, 2)), ((5, 5), 2)])
@pytest.mark.parametrize("ratio", [0.1, 0.4, 0.5, 0.75, 0.99])
def test_complementary_masks_hide_everything_at_the_ratio_of_the_training(
    grid: tuple[int, ...], block_size: tuple[int, ...] | int, ratio: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    masks, chosen = complementary_masks(grid, ratio=ratio, block_size=block_size, generator=generator)
    assert (chosen.sum(0) == 1).all()  # each patch is taken from one mask
    assert not (chosen & ~masks).any()  # which hides it
    drawn = block_mask(1, grid, ratio=ratio, block_size=block_size)
    corners = tuple(slice(None, None, step) for step in per_axis(block_size, len(grid)))
    hidden = int(drawn[0][corners].sum())
    assert [int(mask[corners].sum()) for mask in masks] == [hidden] * len(masks)
    assert len(masks) == -(-drawn[0][corners].numel() // hidden)  # no more masks than it takes
    again = complementary_masks(grid, ratio=ratio, block_size=block_size, generator=torch.Generator().manual_seed(0))
    other = complementary_masks(grid, ratio=ratio, block_size=block_size, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again[0], masks) and not torch.equal(other[1], chosen)


def test_complementary_masks_refuse_what_masks_refuse() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        complementary_masks((4, 4), ratio=1.0)
    with pytest.raises(ValueError, match=r"smaller pretraining\.block_size"):
        complementary_masks((4, 4), ratio=0.5, block_size=4)


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_any_number_of_axes(axes: int) -> None:
    assert block_mask(1, (4,) * axes, ratio=0.5).sum() == 4**axes / 2


def test_upsample_repeats_each_entry() -> None:
    mask = torch.tensor([[[True, False], [False, True]]])
    expected = torch.tensor([[[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]]).bool()
    assert torch.equal(upsample(mask, (1, 3)), expected)


def test_per_axis() -> None:
    assert per_axis(4, 3) == (4, 4, 4)
    assert per_axis([1, 2], 2) == (1, 2)
    for wrong in ([1, 2], 0, [1, 2, -1]):
        with pytest.raises(ValueError, match="one per axis"):
            per_axis(wrong, 3)


# --- mask tokens --------------------------------------------------------------------------------------------------

FEATURES = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 2.0, -4.0])
MASK = torch.zeros(2, 5, 4, dtype=torch.bool)
MASK[0, :2], MASK[1, 3:] = True, True


def _replaced(token: MaskToken) -> torch.Tensor:
    out = token(FEATURES, MASK)
    assert torch.equal(out[~MASK], FEATURES[~MASK])
    return out[MASK]


def test_zero_token() -> None:
    assert (_replaced(MaskToken(3, "zero")) == 0).all()


def test_learned_token_gets_a_gradient() -> None:
    token = MaskToken(3, "learned")
    _replaced(token).sum().backward()
    assert token.value.grad is not None and torch.equal(token.value.grad, torch.full((3,), float(MASK.sum())))


def test_channel_mean_is_the_spatial_mean_of_each_channel() -> None:
    token = MaskToken(3, "channel_mean")
    torch.testing.assert_close(_replaced(token)[0], FEATURES.flatten(0, 2).mean(0))


def test_scalar_mean_is_one_number() -> None:
    token = MaskToken(3, "scalar_mean")
    torch.testing.assert_close(_replaced(token)[0], FEATURES.mean().expand(3))


def test_image_mean_sees_the_visible_part_of_its_own_image() -> None:
    out = MaskToken(3, "image_mean")(FEATURES, MASK)
    for image, mask, original in zip(out, MASK, FEATURES, strict=True):
        torch.testing.assert_close(image[mask][0], original[~mask].mean(0))


def test_noise_spreads_the_start() -> None:
    torch.manual_seed(0)
    token = MaskToken(3, "scalar_mean", noise=0.02)
    token(FEATURES, MASK)
    spread = token.value.detach() - FEATURES.mean()
    assert 0 < spread.abs().max() < 0.2


@pytest.mark.parametrize("mode", ["scalar_mean", "channel_mean"])
def test_the_data_set_the_token_once_and_a_checkpoint_keeps_it(mode: str) -> None:
    token = MaskToken(3, mode)  # type: ignore[arg-type]
    token(FEATURES, MASK)
    first = token.value.detach().clone()
    token(FEATURES * 5, MASK)
    assert torch.equal(token.value, first)

    restored = MaskToken(3, mode)  # type: ignore[arg-type]
    restored.load_state_dict(token.state_dict())
    restored(FEATURES * 5, MASK)
    assert torch.equal(restored.value, first)


@pytest.mark.parametrize("restart", [False, True])
def test_processes_talk_about_the_token_once(restart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a mean, nor a word with other processes, nor a random number once the token is set."""
    said: list[int] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: said.append(len(sums)))
    token = MaskToken(3, "scalar_mean", noise=0.02)
    token(FEATURES, MASK)
    if restart:
        state, token = token.state_dict(), MaskToken(3, "scalar_mean", noise=0.02)
        token.load_state_dict(state)
    random = torch.get_rng_state()
    for _ in range(3):
        token(FEATURES, MASK)
    assert said == [4] and torch.equal(random, torch.get_rng_state())
    token.load_state_dict(MaskToken(3, "scalar_mean").state_dict())  # one that was never set
    token(FEATURES * 5, MASK)
    assert said == [4, 4] and token.value.abs().min() > 0


def test_evaluation_leaves_the_token_alone() -> None:
    token = MaskToken(3, "channel_mean").eval()
    token(FEATURES, MASK)
    assert not token.initialised and (token.value == 0).all()


def test_token_follows_half_precision() -> None:
    assert MaskToken(3, "channel_mean")(FEATURES.bfloat16(), MASK).dtype == torch.bfloat16
