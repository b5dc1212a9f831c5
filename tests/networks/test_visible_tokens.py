"""An encoder of visible tokens only is the full encoder whose attention never sees a hidden token."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks import attention
from bdfm_nnunet.networks.swin import SwinBlock, SwinEncoder
from bdfm_nnunet.networks.visible_tokens import VisibleTokens

CPU = torch.device("cpu")
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    # settings of the encoder, and positions of the last stage per axis
    "3-D": ({"patch_size": (2, 2, 2), "window_size": (3, 3, 3), "merging": [(2, 2, 2)]}, (3, 2, 3)),
    "2-D, three stages": (
        {
            "patch_size": (2, 1), "window_size": (7, 7), "merging": [(2, 2), (2, 2)], "features": (8, 8, 16),
            "depths": (2, 2, 2), "num_heads": (2, 2, 4),
        },
        (5, 3),
    ),
    "axes that are not merged": (
        {"patch_size": (1, 2, 2), "window_size": (2, 3, 3), "merging": [(1, 2, 2)]}, (5, 2, 3)
    ),
    "unequal strides": ({"patch_size": (2, 2), "window_size": (4, 5), "merging": [(3, 2)]}, (3, 5)),
    "one window": ({"patch_size": (2, 2, 2), "window_size": (9, 9, 9), "merging": [(2, 2, 2)]}, (2, 2, 2)),
}  # fmt: skip


def _encoder(**changes: Any) -> SwinEncoder:
    torch.manual_seed(0)
    settings = {"features": (8, 16), "depths": (2, 3), "num_heads": (2, 4), "drop_path_rate": 0.0} | changes
    encoder = SwinEncoder(2, **settings).double()
    for name, parameter in encoder.named_parameters():
        if parameter.ndim < 2 or "table" in name:  # else biases of zero would be compared with each other
            torch.nn.init.normal_(parameter, std=0.5)
    return encoder


def _draw(encoder: SwinEncoder, grid: tuple[int, ...], batch: int = 3) -> tuple[Tensor, Tensor]:
    """Images, and visible positions (B, *grid), a third of them."""
    generator = torch.Generator().manual_seed(1)
    strides = torch.tensor(encoder.strides).prod(0).tolist()
    images = torch.randn(batch, 2, *(n * s for n, s in zip(grid, strides)), generator=generator, dtype=torch.double)
    noise = torch.rand(batch, torch.Size(grid).numel(), generator=generator)
    ranks = noise.argsort(1).argsort(1)
    return images, (ranks < max(1, noise.shape[1] // 3)).reshape(batch, *grid)


def _attend(block: SwinBlock, tokens: Tensor, visible: Tensor) -> Tensor:
    """Attention of all pairs of tokens of a grid, of which those in one window count, if the key is visible."""
    batch, *grid, channels = tokens.shape
    points = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), -1).flatten(0, -2)
    together = torch.ones(len(points), len(points), dtype=torch.bool)
    column = torch.zeros(len(points), len(points), dtype=torch.long)
    for axis, (size, extent) in enumerate(zip(grid, block.window_size)):
        window = min(size, extent)
        shift = window // 2 if block.shifted and size > window else 0
        number = torch.div(points[:, axis] - shift, window, rounding_mode="floor")
        together &= number[:, None] == number
        column = column * (2 * extent - 1) + points[:, None, axis] - points[None, :, axis] + extent - 1
    bias = block.attn.relative_position_bias_table[column.clamp(0, len(block.attn.relative_position_bias_table) - 1)]
    query, key, value = block.attn.qkv(tokens.flatten(1, -2)).unflatten(-1, (3, block.attn.num_heads, -1)).unbind(2)
    scores = torch.einsum("bqhd,bkhd->bqkh", query, key) * query.shape[-1] ** -0.5 + bias
    hidden = ~(together & visible.flatten(1)[:, None])
    scores = scores.masked_fill(hidden[..., None], -1e30)
    attended = torch.einsum("bqkh,bkhd->bqhd", scores.softmax(2), value).flatten(2)
    return block.attn.proj(attended).reshape(tokens.shape)


def _reference(encoder: SwinEncoder, images: Tensor, visible: Tensor) -> list[Tensor]:
    """All tokens of every stage, (B, *grid, C); those of hidden ones mean nothing."""
    tokens, features = encoder.patch_embed(images), []
    for stage in encoder.stages:
        tokens = tokens if stage.merging is None else stage.merging(tokens)
        seen = upsample(visible, [n // v for n, v in zip(tokens.shape[1:-1], visible.shape[1:])])
        for block in stage.blocks:
            tokens = tokens + _attend(block, block.norm1(tokens), seen)
            tokens = tokens + block.mlp(block.norm2(tokens))
        features.append(tokens)
    features[-1] = encoder.norm(features[-1])
    return features


def _compact(encoder: SwinEncoder, images: Tensor, visible: Tensor) -> tuple[list[Tensor], VisibleTokens]:
    where = VisibleTokens(visible, encoder.strides[1:], device=CPU)
    return encoder(images, visible=where), where


def _taken(features: list[Tensor], where: VisibleTokens) -> list[Tensor]:
    """The visible tokens of features (B, *grid, C)."""
    return [
        feature.flatten(1, -2).gather(1, stage.numbers[..., None].expand(-1, -1, feature.shape[-1]))
        for feature, stage in zip(features, where.stages)
    ]


@pytest.fixture(params=["cache", "one piece", "kernel"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """As many pieces as fit in the cache at once; one at a time, and layers' outputs kept; or kernels as on a card."""
    if request.param == "one piece":
        monkeypatch.setattr(attention, "CACHE_BYTES", 1)
        for module in ("recomputed_layers", "visible_attention"):  # all tests here have narrow layers
            monkeypatch.setattr(f"bdfm_nnunet.networks.{module}.KEPT_FROM", 0)
    if request.param == "kernel":
        monkeypatch.setattr("bdfm_nnunet.networks.recomputed_layers._BY_HAND", ())
    return str(request.param)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("way")
def test_values_and_gradients_are_those_of_restricted_attention(case: str) -> None:
    settings, grid = CASES[case]
    encoder = _encoder(**settings)
    images, visible = _draw(encoder, grid)
    features, where = _compact(encoder, images, visible)
    expected = _taken(_reference(encoder, images, visible), where)
    outer = [torch.randn_like(feature) for feature in features]
    for ours, plain in zip(features, expected, strict=True):
        torch.testing.assert_close(ours, plain)
    weights = dict(encoder.named_parameters())
    found = torch.autograd.grad(features, list(weights.values()), outer)
    plain = torch.autograd.grad(expected, list(weights.values()), outer)
    for name, ours, theirs in zip(weights, found, plain, strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")
    assert [feature.shape[1] for feature in features] == [
        visible[0].sum() * stage.tokens // visible[0].numel() for stage in where.stages
    ]


def test_all_visible_is_the_full_encoder() -> None:
    settings, grid = CASES["3-D"]
    encoder = _encoder(**settings)
    images, visible = _draw(encoder, grid)
    features, where = _compact(encoder, images, torch.ones_like(visible))
    full = [feature.movedim(1, -1) for feature in encoder(images)]
    for ours, theirs in zip(features, _taken(full, where), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_dropped_branches_are_those_of_the_full_encoder() -> None:
    settings, grid = CASES["one window"]
    encoder = _encoder(**settings, drop_path_rate=0.8)
    images, visible = _draw(encoder, grid)
    everything = torch.ones_like(visible)
    features = []
    for encode in (lambda: _compact(encoder, images, everything)[0][-1], lambda: encoder(images)[-1]):
        torch.manual_seed(3)
        features.append(encode())
    where = VisibleTokens(everything, encoder.strides[1:], device=CPU)
    (expected,) = _taken([features[1].movedim(1, -1)], VisibleTokens(everything, [], device=CPU))
    torch.testing.assert_close(features[0], expected)
    assert not torch.allclose(features[0], _compact(encoder, images, everything)[0][-1])  # others were drawn
    assert len(where.stages) == 2


def test_recomputed_blocks_give_the_same_gradients() -> None:
    settings, grid = CASES["3-D"]
    gradients = []
    for recompute in (False, True):
        encoder = _encoder(**settings, gradient_checkpointing=recompute).train()
        images, visible = _draw(encoder, grid)
        loss = sum(feature.square().sum() for feature in _compact(encoder, images, visible)[0])
        gradients.append(torch.autograd.grad(loss, list(encoder.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_hidden_voxels_have_no_influence_and_no_gradient() -> None:
    settings, grid = CASES["3-D"]
    encoder = _encoder(**settings)
    images, visible = _draw(encoder, grid)
    voxels = upsample(visible, [n // v for n, v in zip(images.shape[2:], grid)]).unsqueeze(1)
    other = torch.where(voxels, images, torch.full_like(images, torch.nan)).requires_grad_()
    features, _ = _compact(encoder, other, visible)
    for ours, theirs in zip(features, _compact(encoder, images, visible)[0], strict=True):
        assert torch.equal(ours, theirs)
    features[-1].square().sum().backward()
    assert other.grad is not None and (other.grad != 0).eq(voxels).all()


def test_half_precision_is_as_exact_as_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, grid = CASES["2-D, three stages"]
    encoder = _encoder(**settings)
    images, visible = _draw(encoder, grid)
    exact = _compact(encoder, images, visible)[0][-1]
    errors = []
    for by_hand in (("cpu",), ()):
        monkeypatch.setattr("bdfm_nnunet.networks.recomputed_layers._BY_HAND", by_hand)
        with torch.autocast("cpu", dtype=torch.float16):
            found = _compact(encoder.float(), images.float(), visible)[0][-1]
        found.square().sum().backward()
        errors.append((found - exact).norm() / exact.norm())
        encoder.double()
    assert errors[0] < 0.02 and errors[0] <= 2 * errors[1]


def test_what_cannot_be_encoded_is_refused() -> None:
    settings, grid = CASES["3-D"]
    encoder = _encoder(**settings, legacy=True)
    images, visible = _draw(encoder, grid)
    with pytest.raises(ValueError, match="legacy attention lets padding take part"):
        _compact(encoder, images, visible)
    visible[0, 0, 0, 0] = ~visible[0, 0, 0, 0]
    with pytest.raises(ValueError, match="expected the same number above 0"):
        VisibleTokens(visible, encoder.strides[1:], device=CPU)
    with pytest.raises(ValueError, match="expected the same number above 0"):
        VisibleTokens(torch.zeros_like(visible), encoder.strides[1:], device=CPU)


def test_pieces_are_padded_little() -> None:
    """What buckets hold beyond the pairs of tokens that see each other, at the published sizes."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(2, 27, generator=generator).argsort(1).argsort(1)
    where = VisibleTokens((ranks < 7).reshape(2, 3, 3, 3), [(2, 2, 2)] * 3, device=CPU)
    stage = where.stages[0]
    pieces = stage.pieces((7, 7, 7), (3, 3, 3), (7, 7, 7))
    buckets = pieces.buckets
    tokens = torch.cat([bucket.rows.flatten() for bucket in buckets])
    real = tokens[tokens < 2 * stage.numbers.shape[1]]
    assert torch.equal(real.sort()[0], torch.arange(2 * stage.numbers.shape[1]))  # each once
    sizes = torch.cat([(bucket.rows < len(real)).sum(1) for bucket in buckets])
    pairs = sum(pieces.pairs)
    assert pairs == len(pieces.all_columns) and torch.equal(pieces.rows[pieces.slots], torch.arange(len(real)))
    assert len(buckets) <= 10 and pairs < 1.5 * sizes.square().sum()
    assert stage.pieces((7, 7, 7), (3, 3, 3), (7, 7, 7)) is pieces  # made once
    halves = zip(pieces.all_columns.split(pieces.pairs), buckets, strict=True)
    assert all(torch.equal(part.view(*b.rows.shape, -1), pieces.columns(b.places)) for part, b in halves)


class _Launches(TorchDispatchMode):
    """Counts the operations that compute something."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view and "empty" not in str(func)
        return func(*args, **(kwargs or {}))


def test_another_bucket_costs_an_accelerator_few_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bdfm_nnunet.networks.recomputed_layers._BY_HAND", ())
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda q, k, v, attn_mask: q + k + v)
    encoder = _encoder(**CASES["2-D, three stages"][0])
    generator = torch.Generator().manual_seed(0)
    ranks = torch.rand(3, 400, generator=generator).argsort(1).argsort(1)
    found = []
    for spare in (1 << 40, 0):
        monkeypatch.setattr("bdfm_nnunet.networks.visible_tokens._SPARE", spare)
        stage = VisibleTokens((ranks < 100).reshape(3, 20, 20), [], device=CPU).stages[0]
        tokens = torch.randn(3, 100, 8, dtype=torch.double, requires_grad=True)
        attention_, norm = encoder.stages[0].blocks[0].attn, encoder.stages[0].blocks[0].norm1
        attention_.attend_visible(tokens, norm, (3, 3), stage)  # makes the lists
        with _Launches() as launches:
            attention_.attend_visible(tokens, norm, (3, 3), stage).sum().backward()
        found.append((len(stage.pieces((7, 7), (3, 3), (7, 7)).shapes), launches.count))
    (one, few), (several, many) = found
    assert one == 1 and several > 2
    assert few < 60 and many - few <= 10 * (several - 1)  # the stand-in for the kernel has two
