import torch

from bdfm_nnunet.networks.image_transformers import HEAD_CHANNELS, ImageTransformer, ShiftedWindowTransformer


def _slow(network: ImageTransformer, images: torch.Tensor) -> torch.Tensor:
    """The transformer from its definition: one head and one token after another."""
    weights = dict(network.named_parameters())
    tokens = torch.nn.functional.conv2d(
        images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=8
    )
    tokens = (tokens.movedim(1, -1) + weights["pos_embed"]).flatten(1, 2)
    for number in range(len(network.blocks)):
        block = {name.split(".", 2)[2]: w for name, w in weights.items() if name.startswith(f"blocks.{number}.")}
        normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], block["norm1.weight"], block["norm1.bias"])
        query, key, value = (normed @ block["attn.qkv.weight"].T + block["attn.qkv.bias"]).chunk(3, dim=-1)
        heads = []
        for start in range(0, tokens.shape[-1], HEAD_CHANNELS):
            part = slice(start, start + HEAD_CHANNELS)
            scores = query[..., part] @ key[..., part].transpose(1, 2) / HEAD_CHANNELS**0.5
            heads.append(scores.softmax(-1) @ value[..., part])
        tokens = tokens + torch.cat(heads, -1) @ block["attn.proj.weight"].T + block["attn.proj.bias"]
        normed = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], block["norm2.weight"], block["norm2.bias"])
        wide = torch.nn.functional.gelu(normed @ block["mlp.lin1.weight"].T + block["mlp.lin1.bias"])
        tokens = tokens + wide @ block["mlp.lin2.weight"].T + block["mlp.lin2.bias"]
    grid = network.pos_embed.shape[1]
    features = tokens.unflatten(1, (grid, grid)).movedim(-1, 1)
    for number in (0, 2):
        features = torch.nn.functional.conv2d(features, weights[f"neck.{number}.weight"], padding=number // 2)
        mean = features.mean(1, keepdim=True)
        spread = ((features - mean).square().mean(1, keepdim=True) + 1e-6).sqrt()
        scale, shift = (weights[f"neck.{number + 1}.{name}"][:, None, None] for name in ("weight", "bias"))
        features = (features - mean) / spread * scale + shift
    return features


def test_the_transformer_is_its_definition() -> None:
    torch.manual_seed(0)
    network = ImageTransformer(4, 128, depth=2, grid=3, patch=8, out_channels=6)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.randn(2, 4, 24, 24)
    torch.testing.assert_close(network(images), _slow(network, images), atol=1e-4, rtol=1e-4)


def test_shifted_windows_are_those_of_torchvision() -> None:
    from torchvision.models import swin_v2_b

    with torch.device("meta"):
        theirs, ours = (
            swin_v2_b(weights=None).features,
            ShiftedWindowTransformer(3, 128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32)),
        )
    found = {name: value.shape for name, value in ours.features.state_dict().items()}
    assert found == {name: value.shape for name, value in theirs.state_dict().items()}
    small = ShiftedWindowTransformer(4, 8, depths=(1, 1), heads=(2, 4), window=4, size=32).eval()
    features = small(torch.randn(1, 4, 32, 32))
    assert features.shape == (1, 16, 4, 4)
