"""Files in the packing of MONAI's Swin transformers: our network gives MONAI's features of the turned image."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.readers.monai_orders import NEIGHBOURS, turned_merging
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import SwinUNet
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import check_plans
from tests.checkpoints.monai_swin import SLICES, MonaiSwin

ORDERS = ("monai-1.4", "monai-1.5", "mergingv2")


def _monai(order: str = "monai-1.4", *, inputs: int = 1, seed: int = 6, **changes: Any) -> MonaiSwin:
    torch.manual_seed(seed)
    settings = {"features": 12, "depths": (2, 1, 2), "heads": (3, 2, 4), "window": 3} | changes
    source = MonaiSwin(inputs, order=order, **settings).eval()
    with torch.no_grad():
        for parameter in source.parameters():  # norms too, so that a wrong order of columns shows
            parameter.add_(0.1 * torch.randn_like(parameter))
    return source


def _saved(tmp_path: Path, source: nn.Module, prefix: str = "module.", **more: Any) -> Path:
    weights = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
    torch.save({"state_dict": weights | more, "epoch": 3}, tmp_path / "model_swinvit.pt")
    return tmp_path / "model_swinvit.pt"


def _features(path: Path, image: Tensor, **settings: Any) -> list[Tensor]:
    """Features (C, x, y, z) of the network that the file's plans describe, before its last norm."""
    checkpoint = read_checkpoint(path, **settings)
    assert checkpoint.kind == "monai" and checkpoint.plans is not None
    configuration = check_plans(checkpoint.plans, "plans")["configurations"][checkpoint.configuration]
    network: Any = build_network(configuration, inputs=image.shape[1], outputs=2, deep_supervision=False).eval()
    missing, odd = network.load_state_dict(checkpoint.renamed.weights, strict=False)
    assert all(name.startswith(("stem.", "decoder.", "encoder.norm.")) for name in missing)
    merging = len(configuration["architecture"]["arch_kwargs"]["depths"])
    assert all(name.startswith(f"encoder.stages.{merging}.merging.") for name in odd)
    network.encoder.norm = nn.Identity()
    with torch.no_grad():
        found = network.encoder(image.permute(0, 1, 4, 3, 2))
    return [feature[0].permute(0, 3, 2, 1) for feature in found]


def _close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("order", ORDERS)
def test_features_are_monais(tmp_path: Path, order: Any) -> None:
    """Grids of 7 x 8 x 10, 4 x 4 x 5 and 2 x 2 x 3 tokens: windows of 3 are padded, and clipped in the last stage."""
    source = _monai(order)
    image = torch.randn(1, 1, 14, 16, 20)
    with torch.no_grad():
        theirs = source.features(image)[:-1]
    ours = _features(_saved(tmp_path, source), image, merging=order)
    _close(ours, theirs)
    for other in set(ORDERS) - {order}:  # without an error, and far off
        wrong = _features(tmp_path / "model_swinvit.pt", image, merging=other)
        torch.testing.assert_close(wrong[0], ours[0])
        assert (wrong[1] - theirs[1]).norm() > 0.1 * theirs[1].norm()


def test_clipped_windows_with_unequal_sides(tmp_path: Path) -> None:
    """A window of 4 on grids of 3 x 2 x 4 and smaller: MONAI reads its table by raster numbers in (x, y, z)."""
    source = _monai(window=4, depths=(2, 2), heads=(3, 2))
    image = torch.randn(1, 1, 6, 4, 8)
    with torch.no_grad():
        _close(_features(_saved(tmp_path, source), image), source.features(image)[:-1])


def test_the_order_is_told_and_the_old_one_is_taken(tmp_path: Path) -> None:
    path = _saved(tmp_path, _monai())
    checkpoint = read_checkpoint(path)
    assert "MONAI's default up to version 1.4" in checkpoint.notes[0] and "merging chooses" in checkpoint.notes[0]
    assert checkpoint.source_network.merging_order == "monai-1.4" and checkpoint.source_network.heads == (3, 2, 4)
    chosen = read_checkpoint(path, merging="mergingv2")
    assert chosen.source_network.merging_order == "swin" and "chooses" not in chosen.notes[0]
    with pytest.raises(ValueError, match=r"merging is 'v2', expected 'monai-1\.4' or"):
        read_checkpoint(path, merging="v2")  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["", "module.", "swinViT.", "module.swinViT.", "swin_vit.", "model.swinViT."])
def test_prefixes_heads_and_both_names_of_perceptrons(tmp_path: Path, prefix: str) -> None:
    source = _monai(depths=(1, 1), heads=(3, 2))
    weights = source.state_dict()
    if prefix == "module.":  # as NVIDIA's model_swinvit.pt has them
        weights = {name.replace("linear", "fc"): value for name, value in weights.items()}
    outer = prefix.partition("swin")[0]
    heads = ["rotation_head.weight", "contrastive_head.bias", "conv.0.weight", "encoder1.layer.conv1.conv.weight",
             "decoder5.transp_conv.conv.weight", "out.conv.conv.weight"]  # fmt: skip
    more = {f"{outer}{name}": torch.ones(2, 1, 3, 3, 3) for name in heads} | {f"{prefix}norm.weight": torch.ones(96)}
    torch.save({"state_dict": {f"{prefix}{name}": value for name, value in weights.items()} | more}, tmp_path / "a.pt")
    image = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        _close(_features(tmp_path / "a.pt", image), source.features(image)[:-1])
    dropped = read_checkpoint(tmp_path / "a.pt").renamed.dropped
    assert dropped["rotation_head.weight"] == "a head of its pre-training"
    assert dropped["norm.weight"] == "MONAI never uses this norm"
    assert dropped["out.conv.conv.weight"] == dropped["encoder1.layer.conv1.conv.weight"] == "a part of MONAI's decoder"


def test_sizes_are_read_off_the_weights(tmp_path: Path) -> None:
    path = _saved(tmp_path, _monai(features=24, inputs=4, depths=(2, 1), heads=(4, 3), window=2))
    checkpoint = read_checkpoint(path)
    kwargs = checkpoint.source_network.arch_kwargs
    assert kwargs is not None and kwargs["features_per_stage"] == [12, 24, 48] and kwargs["depths"] == [2, 1]
    assert kwargs["num_heads"] == [4, 3] and kwargs["window_size"] == [2, 2, 2]
    assert checkpoint.source_network.input_channels == 4
    assert checkpoint.images is not None and len(checkpoint.images.normalisation) == 4
    image = torch.randn(1, 4, 8, 8, 8)
    assert len(_features(path, image)) == 2


def test_images_of_pretraining_are_scaled(tmp_path: Path) -> None:
    path = _saved(tmp_path, _monai(inputs=2), **{"module.rotation_head.weight": torch.ones(4, 48)})
    checkpoint = read_checkpoint(path)
    assert checkpoint.images is not None and checkpoint.images.normalisation == ("RescaleTo01Normalization",) * 2
    assert checkpoint.source_network.labels is False


def _target(merging_order: str, **changes: Any) -> SwinUNet:
    sizes: dict[str, Any] = {
        "strides": [[1] * 3, *[[2] * 3] * 3], "features_per_stage": [8, 12, 24, 48], "depths": [2, 1, 2],
        "num_heads": [3, 2, 4], "window_size": [3] * 3, "legacy": "reversed",
    }  # fmt: skip
    return SwinUNet(1, 2, merging_order=merging_order, **(sizes | changes))


def test_loading_says_that_all_of_it_is_used(tmp_path: Path) -> None:
    """Up to the merging that only MONAI's decoder reads."""
    path = _saved(tmp_path, _monai())
    report = load_pretrained(_target("monai-1.4"), path)
    assert report.source_share == 1
    assert report.ignored["encoder.stages.3.merging.norm.bias"] == "MONAI merges once more after its last stage"
    deeper = _target("monai-1.4", strides=[[1] * 3, *[[2] * 3] * 4], features_per_stage=[8, 12, 24, 48, 96],
                     depths=[2, 1, 2, 1], num_heads=[3, 2, 4, 4])  # fmt: skip
    assert "encoder.stages.3.merging.norm.bias" in load_pretrained(deeper, path).loaded


def test_another_merging_is_never_loaded_in_silence(tmp_path: Path) -> None:
    path, target = _saved(tmp_path, _monai()), _target("swin")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(InputError, match=r"merging is monai-1\.4 in the checkpoint, swin here"):
        load_pretrained(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert load_pretrained(target, path, merging="monai-1.5").source_share == 1


def test_brainsegfounder(tmp_path: Path) -> None:
    """Two channels, T1 and FLAIR; the heads and the optimiser of its pre-training beside the encoder."""
    source = _monai(inputs=2)
    heads = {"rotation_head.weight": (4, 48), "contrastive_head.weight": (512, 48), "conv.0.weight": (48, 24, 3, 3, 3)}
    weights = {f"module.swinViT.{name}": value for name, value in source.state_dict().items()}
    weights |= {f"module.{name}": torch.ones(shape) for name, shape in heads.items()}
    content = {"global_step": 3, "epoch": 1, "state_dict": weights, "optimizer": {"state": {0: {"step": 3}}}}
    torch.save(content | {"args": argparse.Namespace(feature_size=12)}, tmp_path / "a.pt")
    image = torch.randn(1, 2, 8, 8, 8)
    with torch.no_grad():
        _close(_features(tmp_path / "a.pt", image), source.features(image)[:-1])
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.source_network.input_channels == 2 and checkpoint.source_network.labels is False
    assert set(checkpoint.renamed.dropped) >= set(heads)


def test_a_network_of_one_stage_more_keeps_the_last_merging(tmp_path: Path) -> None:
    weights = read_checkpoint(_saved(tmp_path, _monai())).renamed.weights
    assert weights["encoder.stages.3.merging.reduction.weight"].shape == (96, 8 * 48)


def test_version_2_flat_images_and_odd_windows_are_refused(tmp_path: Path) -> None:
    residual = {"module.layers1c.0.conv1.conv.weight": torch.ones(12, 12, 3, 3, 3)}
    with pytest.raises(InputError, match=r"model_swinvit\.pt cannot be used as weights: .*use_v2=True"):
        assert read_checkpoint(_saved(tmp_path, _monai(), **residual)).renamed
    with pytest.raises(InputError, match="2-D Swin"):
        assert read_checkpoint(
            _saved(tmp_path, _monai(), **{"module.patch_embed.proj.weight": torch.ones(12, 1, 2, 2)})
        ).renamed
    table = {"module.layers1.0.blocks.0.attn.relative_position_bias_table": torch.ones(5 * 5 * 3, 3)}
    with pytest.raises(InputError, match="expected a window with equal sides"):
        assert read_checkpoint(_saved(tmp_path, _monai(), **table)).renamed
    with pytest.raises(InputError, match="norm after its patch embedding"):
        assert read_checkpoint(_saved(tmp_path, _monai(), **{"module.patch_embed.norm.weight": torch.ones(12)})).renamed


@pytest.mark.parametrize("order", ["monai-1.5", "mergingv2"])
def test_columns_by_a_loop(order: Any) -> None:
    """Our column for the offset (z, y, x), first axis fastest, holds what MONAI has for (x, y, z)."""
    assert NEIGHBOURS[order] == SLICES[order]
    theirs = torch.randn(4, 8 * 3)
    ours = turned_merging(theirs, order)
    for column, (x, y, z) in ((c, (c >> 2 & 1, c >> 1 & 1, c & 1)) for c in range(8)):
        place = SLICES[order].index((x, y, z))
        assert torch.equal(ours[:, 3 * column : 3 * column + 3], theirs[:, 3 * place : 3 * place + 3])


def test_real_monai_agrees(tmp_path: Path) -> None:
    """The transcription in these tests is MONAI's network, where MONAI is installed."""
    nets: Any = pytest.importorskip("monai.networks.nets.swin_unetr")
    source = nets.SwinUNETR(1, 2, feature_size=12, downsample="mergingv2").eval()
    image = torch.randn(1, 1, 64, 32, 96)
    torch.save({"state_dict": source.state_dict()}, tmp_path / "a.pt")
    ours = _features(tmp_path / "a.pt", image, merging="mergingv2")
    with torch.no_grad():
        theirs = source.swinViT(image, normalize=False)[1:]
        merged = [getattr(source.swinViT, f"layers{at + 1}")[0].downsample for at in range(4)]
        for merge, mine, other in zip(merged, ours, theirs):
            found = merge(mine.movedim(0, -1)[None])[0].movedim(-1, 0)
            torch.testing.assert_close(found, other[0], rtol=1e-4, atol=1e-4)
