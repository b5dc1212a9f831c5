"""Heads of NeuroSTORM on the features of clips, against their definition step by step."""

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.networks import NeurostormEncoder, encoder_of
from bdfm_nnunet.networks.clip_heads import ClassToken, EmbeddingHead, HiddenMean, MeanOfClip, clip_neck
from bdfm_nnunet.networks.position_tables import spread


def _features(frames: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, 16, 2, 1, 2, frames, generator=torch.Generator().manual_seed(4))


def _token() -> ClassToken:
    torch.manual_seed(2)
    return ClassToken(16, (2, 1, 2, 3), layers=2).eval()


def _slow_layer(layer: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
    """One post-norm layer of eight heads, token by token, from its parameters alone."""
    named = {name: value.detach().double() for name, value in layer.named_parameters()}
    width = len(tokens[0])

    def norm(row: Tensor, which: str) -> Tensor:
        centred = row - row.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * named[f"{which}.weight"] + named[f"{which}.bias"]

    parts = [(named["self_attn.in_proj_weight"] @ row + named["self_attn.in_proj_bias"]).split(width) for row in tokens]
    found = []
    for row, (query, _, _) in zip(tokens, parts, strict=True):
        joined = []
        for head in range(8):
            part = slice(head * width // 8, (head + 1) * width // 8)
            scores = torch.stack([query[part] @ key[part] for _, key, _ in parts]) / (width / 8) ** 0.5
            joined.append(sum(s * value[part] for s, (_, _, value) in zip(scores.softmax(0), parts, strict=True)))
        mixed = named["self_attn.out_proj.weight"] @ torch.cat(joined) + named["self_attn.out_proj.bias"]
        row = norm(row + mixed, "norm1")
        hidden = (named["linear1.weight"] @ row + named["linear1.bias"]).clamp_min(0)
        found.append(norm(row + named["linear2.weight"] @ hidden + named["linear2.bias"], "norm2"))
    return found


def test_the_class_token_looks_at_every_place_of_its_own_clip() -> None:
    head, features = _token(), _features()
    found = head(features)
    for sample, out in zip(features.double(), found, strict=True):
        tokens = [(head.token + head.token_position).detach().double()]
        for x in range(2):
            for z in range(2):
                tokens += [sample[:, x, 0, z, t] + head.positions[x, 0, z, t].detach().double() for t in range(3)]
        for layer in head.layers:
            tokens = _slow_layer(layer, tokens)
        expected = nn.functional.layer_norm(tokens[0], (16,), head.norm.weight.double(), head.norm.bias.double())
        torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(head(features[:1]), found[:1])  # other clips of the batch have no part in it


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_the_class_token_reads_clips_of_any_length(frames: int) -> None:
    head = _token()
    table = head.positions[..., :frames, :] if frames <= 3 else spread(head.positions, (2, 1, 2, frames))
    features = _features(frames)
    other = ClassToken(16, (2, 1, 2, frames), layers=2).eval()
    other.load_state_dict({**head.state_dict(), "positions": table.detach()})
    torch.testing.assert_close(head(features), other(features))
    assert head(features).shape == (2, 16)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_mean_and_the_hidden_layer_never_lose_the_batch(batch: int) -> None:
    features = _features(5, batch)
    mean = torch.stack([torch.stack([part.mean() for part in sample]) for sample in features])
    torch.testing.assert_close(MeanOfClip()(features), mean)
    hidden = HiddenMean(16)
    torch.testing.assert_close(hidden(features), mean @ hidden.weight.T + hidden.bias)
    assert hidden(features).shape == (batch, 64)


def test_embeddings_have_length_one_and_statistics_of_their_own() -> None:
    torch.manual_seed(1)
    head = EmbeddingHead(16, 5).eval()
    head.bn1.running_mean.normal_()
    head.bn1.running_var.uniform_(0.5, 2)
    row = head.fc1.weight @ _features().flatten(2).mean(2)[1]
    scaled = (row - head.bn1.running_mean) / (head.bn1.running_var + 1e-5).sqrt()
    torch.testing.assert_close(head(_features())[1], scaled / scaled.norm())


def test_necks_by_name() -> None:
    kinds = [clip_neck(head, 16, (2, 2, 2, 4)) for head in ("v1", "v2", "v3")]
    assert [(type(neck), width) for neck, width in kinds] == [(MeanOfClip, 16), (HiddenMean, 64), (ClassToken, 16)]
    third = kinds[2][0]
    assert isinstance(third, ClassToken) and (len(third.layers), third.layers[0].linear1.out_features) == (6, 64)
    dropped = clip_neck("v3", 16, (2, 2, 2, 4), dropout=0.3)[0]
    assert isinstance(dropped, ClassToken) and dropped.layers[0].dropout.p == 0.3
    with pytest.raises(ValueError, match="12 channels are no multiple"):
        clip_neck("v3", 12, (2, 2, 2, 4))
    with pytest.raises(ValueError, match="places"):
        _token()(torch.zeros(1, 16, 2, 2, 2, 3))


def test_positions_of_the_published_size() -> None:
    with torch.device("meta"):
        encoder = NeurostormEncoder(1)
        view = encoder_of(encoder)
        neck = ClassToken(view.channels[-1], (2, 2, 2, 20))
    assert neck.positions.numel() == 160 * 288
