import pytest
import torch
from torch.nn import functional

from bdfm_nnunet.networks.attention_windows import relative_position_index
from bdfm_nnunet.networks.patch_merging import PatchMerging
from bdfm_nnunet.networks.swin import PatchEmbedding, SwinEncoder, WindowAttention


def _encoder(**changes: object) -> SwinEncoder:
    torch.manual_seed(0)
    settings: dict[str, object] = {
        "patch_size": (2, 2, 2),
        "features": (8, 16),
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": (3, 3, 3),
        "merging": [(2, 2, 2)],
        "drop_path_rate": 0.0,
    }
    return SwinEncoder(1, **(settings | changes))  # type: ignore[arg-type]


def test_patch_embedding_is_a_strided_convolution() -> None:
    embed = PatchEmbedding(2, 6, (2, 3, 4))
    images = torch.randn(2, 2, 4, 6, 8)
    expected = functional.conv3d(images, embed.weight, embed.bias, stride=(2, 3, 4))
    torch.testing.assert_close(embed(images).movedim(-1, 1), expected)


def test_patch_embedding_pads() -> None:
    embed = PatchEmbedding(1, 3, (4, 4))
    images = torch.randn(1, 1, 5, 7)
    padded = functional.pad(images, (0, 1, 0, 3))
    torch.testing.assert_close(embed(images), embed(padded))


def test_merging_joins_neighbours_first_axis_fastest() -> None:
    merge = PatchMerging(1, 4, (1, 2, 2))
    with torch.no_grad():
        merge.norm = torch.nn.Identity()  # type: ignore[assignment]
        merge.reduction.weight.copy_(torch.eye(4))
    tokens = torch.arange(8.0).reshape(1, 2, 2, 2, 1)
    assert merge(tokens)[0, 1, 0, 0].tolist() == [4, 6, 5, 7]  # (row, column): 00, 10, 01, 11


def test_clipped_window_reads_the_bias_of_the_same_offset() -> None:
    attention = WindowAttention(4, (3, 3), 2)

    def bias(window: tuple[int, int], *, legacy: bool = False) -> torch.Tensor:
        return attention.relative_bias(relative_position_index(window, (3, 3), legacy))

    large, small, narrow = bias((3, 3)), bias((2, 3)), bias((3, 2))
    assert torch.equal(small, large[:, :6, :6])  # rows of a clipped first axis keep their raster numbers
    assert torch.equal(narrow[:, 0, 2], large[:, 0, 3])  # one row down, whatever the width
    assert torch.equal(bias((3, 2), legacy=True)[:, 0, 2], large[:, 0, 2])


def test_opposite_faces_do_not_see_each_other() -> None:
    encoder = _encoder(features=(8,), depths=(2,), num_heads=(2,), merging=[]).eval()
    images = torch.randn(1, 1, 24, 6, 6, requires_grad=True)
    encoder(images)[0][0, :, 0].sum().backward()
    assert images.grad is not None
    assert images.grad[0, 0, :8].abs().sum() > 0
    assert images.grad[0, 0, 20:].abs().sum() == 0


def test_padding_changes_nothing_but_in_legacy() -> None:
    """A grid of 5 tokens in windows of 3: what lies in the sixth token must not matter."""
    kept, read = _encoder().eval(), _encoder(legacy=True).eval()
    read.load_state_dict(kept.state_dict())
    torch.nn.init.normal_(kept.stages[0].blocks[0].norm1.bias)
    read.load_state_dict(kept.state_dict())
    images = torch.randn(1, 1, 10, 10, 10)
    tokens = kept.patch_embed(images)
    out = kept.stages[0].blocks[0](tokens)
    window = tokens[:, :3, :3, 3:5].contiguous()  # the last window of an axis: two real tokens, one of padding
    alone = kept.stages[0].blocks[0](window)
    torch.testing.assert_close(out[:, :3, :3, 3:5], alone)
    assert not torch.allclose(read.stages[0].blocks[0](tokens), out)


@pytest.mark.parametrize("axes", [1, 2, 3, 4])
def test_any_number_of_axes_and_any_size(axes: int) -> None:
    encoder = _encoder(patch_size=(2,) * axes, window_size=(3,) * axes, merging=[(2,) * axes])
    features = encoder(torch.randn(1, 1, *(7, 9, 8, 6)[:axes]))
    assert [feature.shape[1] for feature in features] == [8, 16]
    assert features[0].shape[2:] == (4, 5, 4, 3)[:axes] and features[1].shape[2:] == (2, 3, 2, 2)[:axes]


def test_last_feature_is_normalised() -> None:
    last = _encoder()(torch.randn(2, 1, 12, 12, 12))[-1]
    torch.testing.assert_close(last.mean(1), torch.zeros_like(last[:, 0]), atol=1e-5, rtol=0)


def test_merging_per_stage_and_axis() -> None:
    encoder = _encoder(features=(8, 16, 16), depths=(1, 1, 1), num_heads=(2, 2, 2), merging=[(1, 2, 2), (2, 1, 2)])
    assert [tuple(f.shape[2:]) for f in encoder(torch.randn(1, 1, 16, 16, 16))] == [(8, 8, 8), (8, 4, 4), (4, 4, 2)]


def test_token_filter_sees_the_embedded_tokens() -> None:
    encoder = _encoder().eval()
    seen = []

    def spy(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens)
        return tokens * 0

    images = torch.randn(1, 1, 12, 12, 12)
    out = encoder(images, spy)[-1]
    torch.testing.assert_close(seen[0], encoder.patch_embed(images))
    torch.testing.assert_close(out, encoder(torch.randn_like(images), spy)[-1])


def test_checkpointing_changes_memory_not_gradients() -> None:
    plain, saving = _encoder().train(), _encoder(gradient_checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(1, 1, 12, 12, 12)
    for encoder in (plain, saving):
        encoder(images)[-1].square().sum().backward()
    for first, second in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(first.grad, second.grad)


def test_drop_path_drops_whole_samples_in_training_only() -> None:
    encoder = _encoder(drop_path_rate=0.9)
    assert [block.drop_path for stage in encoder.stages for block in stage.blocks] == pytest.approx([0, 0.3, 0.6, 0.9])
    images = torch.randn(1, 1, 12, 12, 12)
    assert not torch.equal(encoder(images)[-1], encoder(images)[-1])
    encoder.eval()
    assert torch.equal(encoder(images)[-1], encoder(images)[-1])
    block = encoder.stages[1].blocks[1].train()
    branch = torch.ones(1000, 2, 3)
    dropped = block._drop(branch)
    torch.testing.assert_close(dropped, torch.where(dropped > 0, 10.0, 0.0))
    assert ((dropped == 0).flatten(1).all(1) | (dropped > 0).flatten(1).all(1)).all()
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(
    "changes",
    [{"depths": (2,)}, {"merging": []}, {"window_size": (3, 3)}, {"num_heads": (3, 4)}, {"merging": [(2, 2)]}],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"stages needs|must have 3 axes|divided among"):
        _encoder(**changes)
