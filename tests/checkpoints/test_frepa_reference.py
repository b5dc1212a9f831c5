import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_frepa_encoder
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.image_transformers import ImageTransformer, ShiftedWindowTransformer
from bdfm_nnunet.networks.slice_encoder import SliceEncoder

VOLUMES = torch.rand(2, 1, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def _networks(kind: str, channels: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """A small network and its tensors by the names of the public code."""
    torch.manual_seed(0)
    if kind == "vit":
        vit = ImageTransformer(channels, 128, depth=2, grid=4, patch=8, out_channels=16)
        torch.nn.init.normal_(vit.pos_embed)
        return vit, vit.state_dict()
    swin = ShiftedWindowTransformer(channels, 8, depths=(1, 2), heads=(2, 4), window=4)
    return swin, swin.features.state_dict()


@pytest.mark.parametrize("kind", ["vit", "swin"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_encoder_gives_the_features_of_its_network(
    kind: str, channels: int, wrapped: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, tensors = _networks(kind, channels)
    content: dict[str, Any] = {f"encoder.{name}": value for name, value in tensors.items()}
    if wrapped:
        content = {f"module.{name}": value for name, value in content.items()}
        content = {"state_dict": content | {"module.decoder.Conv.weight": torch.ones(3, 8, 3, 3)}}
    torch.save(content, tmp_path / "frepa.pth")
    with caplog.at_level(logging.WARNING):
        encoder = load_frepa_encoder(tmp_path / "frepa.pth", axis=1)
    assert "UCSF-PDGM and BraTS 2021" in caplog.text
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    expected = SliceEncoder(network, edges=channels == 4, axis=1)
    few = VOLUMES[:1, :, :, :2]
    assert torch.equal(encoder(few), expected(few))


def test_published_layouts_have_their_sizes() -> None:
    """Parameters as its authors count them, 86.9 million each, without decoders and heads."""
    with torch.device("meta"):
        vit = ImageTransformer(4, 768, depth=12)
        swin = ShiftedWindowTransformer(4, 128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32))
    assert sum(p.numel() for p in vit.parameters()) / 1e6 == pytest.approx(86.9, abs=0.5)
    assert sum(p.numel() for p in swin.parameters()) / 1e6 == pytest.approx(86.9, abs=0.1)
    assert vit.size == swin.size == 512
    assert set(vit.state_dict()) >= {"pos_embed", "blocks.11.mlp.lin2.bias", "neck.3.bias", "patch_embed.proj.weight"}


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_an_incomplete_file_is_refused(kind: str, tmp_path: Path) -> None:
    _, tensors = _networks(kind, 4)
    last = list(tensors)[-1]
    content = {f"encoder.{name}": value for name, value in tensors.items() if name != last}
    torch.save(content, tmp_path / "frepa.pth")
    with pytest.raises(
        InputError, match=rf"frepa.pth does not hold a whole encoder of Frepa \(1 tensors missing.*{last}"
    ):
        load_frepa_encoder(tmp_path / "frepa.pth")


@pytest.mark.parametrize(
    "content",
    [
        {"encoder.stem.weight": torch.ones(2, 2)},
        {"encoder.patch_embed.proj.weight": torch.ones(64, 4, 8, 8)},
        {"encoder.0.0.weight": torch.ones(8, 4, 4, 4)},
    ],
)
def test_another_file_is_refused(content: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth (is no|does not hold a whole) encoder of Frepa"):
        load_frepa_encoder(tmp_path / "other.pth")
