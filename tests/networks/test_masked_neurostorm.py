import pytest
import torch

from bdfm_nnunet.networks.masked_neurostorm import MaskedNeurostorm, MaskTokens
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder


def _tokens() -> MaskTokens:
    torch.manual_seed(0)
    tokens = MaskTokens(3, (2, 4))
    for parameter in tokens.parameters():
        parameter.data.normal_()
    return tokens


def test_a_token_for_each_place_in_a_window() -> None:
    tokens, embedded = _tokens(), torch.randn(2, 5, 6, 3)
    mask = torch.rand(2, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    out = tokens(embedded, mask)
    for b, x, y in torch.cartesian_prod(torch.arange(2), torch.arange(5), torch.arange(6)).tolist():
        expected = tokens.window[x % 2 * 4 + y % 4] if mask[b, x, y] else embedded[b, x, y]
        assert torch.equal(out[b, x, y], expected)


@pytest.mark.parametrize("kind", ["random", "atlas"])
def test_one_token_for_all_places(kind: str) -> None:
    tokens, embedded = _tokens(), torch.randn(1, 2, 4, 3)
    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    out = tokens(embedded, mask, kind)  # type: ignore[arg-type]
    assert torch.equal(out[0, 1, 2], getattr(tokens, kind)) and torch.equal(out[~mask], embedded[~mask])


def _model(**options: bool) -> MaskedNeurostorm:
    torch.manual_seed(0)
    encoder = NeurostormEncoder(
        1, image_size=(8, 8, 8, 4), patch_size=(2, 2, 2, 1), features=(4, 8), depths=(1, 1), window_size=(2, 2, 2, 2),
        merging=((2, 2, 2, 1),),
    )  # fmt: skip
    return MaskedNeurostorm(encoder, **options)


def test_hidden_voxels_are_rebuilt_from_visible_ones() -> None:
    model, images = _model(), torch.randn(2, 1, 8, 8, 8, 4)
    mask = torch.rand(2, 4, 4, 4, 4) < 0.5
    hidden = mask.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
    rebuilt = model.reconstruct(images, mask=mask)
    assert rebuilt.shape == images.shape
    other = torch.where(hidden, torch.randn_like(images), images)
    torch.testing.assert_close(model.reconstruct(other, mask=mask), rebuilt)
    features, same = model(images, mask)
    assert torch.equal(same, rebuilt) and len(features) == 2
    rebuilt.square().sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == ["mask_tokens.random", "mask_tokens.atlas"]


def test_what_does_not_fit_is_refused() -> None:
    images, mask = torch.zeros(1, 1, 8, 8, 8, 4), torch.zeros(1, 4, 4, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"expected one of tokens, \(1, 4, 4, 4, 4\)"):
        _model().reconstruct(images, mask=mask[..., :2])
    model = _model(decoder=False)
    assert not [name for name in model.state_dict() if not name.startswith("encoder.")]
    with pytest.raises(ValueError, match="an encoder alone"):
        model.reconstruct(images, mask=mask)
