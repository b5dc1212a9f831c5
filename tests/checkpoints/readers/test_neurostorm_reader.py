"""Files of the public NeuroSTORM code in both layouts, as Lightning packs them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.readers import NeurostormReader, reader_of
from bdfm_nnunet.checkpoints.readers.neurostorm_reader import NEUROSTORM, cubic_patch
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.networks import NeurostormEncoder
from bdfm_nnunet.networks.mamba_stages import add_prompts
from tests.networks.neurostorm_slow import DEPTHS, EMBED, FRAMES, GRID, PATCH, public_weights
from tests.networks.zoo import network as planned


def lightning(weights: dict[str, Tensor]) -> dict[str, Any]:
    """A checkpoint in the order of Lightning's keys, with what AdamW keeps."""
    state = {i: {"exp_avg": torch.zeros(3)} for i in range(2)}
    return {
        "epoch": 29, "state_dict": {f"model.{name}": value for name, value in weights.items()}, "loops": {},
        "callbacks": {}, "optimizer_states": [{"state": state}], "lr_schedulers": [],
        "hparams_name": "kwargs", "hyper_parameters": {"embed_dim": EMBED}, "datamodule_hparams_name": "kwargs",
        "datamodule_hyper_parameters": {},
    }  # fmt: skip


def network(**options: Any) -> NeurostormEncoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "image_size": (GRID * PATCH,) * 3 + (FRAMES,), "patch_size": (PATCH,) * 3 + (1,),
        "features": (EMBED, 2 * EMBED), "depths": DEPTHS, "merging": ((2, 2, 2, 1),),
    }  # fmt: skip
    return NeurostormEncoder(1, **(sizes | options))


def _save(folder: Path, weights: dict[str, Tensor]) -> Path:
    torch.save(lightning(weights), folder / "storm.ckpt")
    return folder / "storm.ckpt"


def test_it_is_recognised_by_its_names() -> None:
    weights = public_weights()
    for content in (lightning(weights), weights, {"state_dict": {f"module.model.{k}": v for k, v in weights.items()}}):
        assert isinstance(reader_of(content), NeurostormReader)
    ours = {f"encoder.{name}": value for name, value in network().state_dict().items()}
    without = {name: value for name, value in weights.items() if "time_embed" not in name}
    for other in (ours, without, {5: torch.ones(1)}, {}):
        assert not NeurostormReader().recognises(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", ["2026", "2025", "encoder"])
def test_every_tensor_gets_a_name_of_ours(layout: str) -> None:
    weights = public_weights(layout=layout, prompts=3)
    renamed = NeurostormReader().rename({f"model.{k}": v for k, v in weights.items()} | {"output_head.bias": EMBED})  # type: ignore[dict-item]
    assert len(renamed.weights) == len(weights) and renamed.dropped == {
        "output_head.bias": "a head belongs to its task"
    }
    assert {name.partition(".")[0] for name in renamed.weights} <= {"encoder", "decoder", "mask_tokens"}
    tokens = {name for name in renamed.weights if name.startswith("mask_tokens.")}
    kinds = {"2026": ("window", "random", "atlas"), "2025": ("window",), "encoder": ()}[layout]
    assert tokens == {f"mask_tokens.{kind}" for kind in kinds}
    assert set(renamed.optional) == {name for name in renamed.weights if name.endswith(".prompt")} and renamed.optional


@pytest.mark.parametrize("layout", ["2026", "2025", "encoder"])
def test_all_of_the_encoder_is_loaded(tmp_path: Path, layout: str) -> None:
    weights = public_weights(layout=layout, prompts=3) | {"output_head.head.head.weight": torch.ones(1, 2 * EMBED)}
    encoder = network()
    report = load_pretrained(encoder, _save(tmp_path, weights))
    assert (report.kind, report.encoder_share, report.source_share) == ("neurostorm_reference", 1.0, 1.0)
    assert not report.new and not report.adapted and len(report.loaded) == len(encoder.state_dict())
    assert report.ignored["output_head.head.head.weight"] == "a head belongs to its task"
    assert report.ignored["stages.0.blocks.0.prompt"] == "prompts belong to their task"
    block = encoder.stages[0].blocks[1]
    assert torch.equal(block.mamba.A_log, weights["layers.0.blocks.1.mamba.A_log"])
    assert torch.equal(block.mlp[2].weight, weights["layers.0.blocks.1.mlp.linear2.weight"])
    assert torch.equal(encoder.stages[1].positions.time, weights["pos_embeds.1.time_embed"][0, :, 0, 0, 0].T)


def test_networks_with_more_than_the_file_has(tmp_path: Path) -> None:
    path = _save(tmp_path, public_weights())
    plain, more = network(), network(both_directions=True)
    add_prompts(more, 4, generator=torch.Generator().manual_seed(0))
    for encoder in (plain, more):
        report = load_pretrained(encoder, path)
    assert report.new["stages.0.blocks.0.prompt"] == "prompts belong to their task"
    assert report.adapted["stages.1.blocks.0.mamba.reverse_gate"].startswith("zero, so that the second direction")
    for block in more.modules():
        if hasattr(block, "prompt"):
            block.prompt = None
    images = torch.randn(1, 1, 16, 16, 16, FRAMES)
    with torch.no_grad():
        torch.testing.assert_close(more(images)[-1], plain(images)[-1])


def test_other_frames_and_grids_are_interpolated(tmp_path: Path) -> None:
    weights = public_weights()
    encoder = network(image_size=(16, 16, 8, 11))
    report = load_pretrained(encoder, _save(tmp_path, weights))
    assert report.encoder_share == 1.0
    assert report.adapted["stages.0.positions.time"] == f"frames ({FRAMES},) to (11,) by linear interpolation"
    assert report.adapted["stages.1.positions.space"] == "positions (4, 4, 4) to (4, 4, 2) by linear interpolation"
    theirs = weights["pos_embeds.0.time_embed"][0, :, 0, 0, 0].T
    torch.testing.assert_close(encoder.stages[0].positions.time[::2], theirs)


def test_weights_of_ours_are_loaded_without_a_guess_about_time(tmp_path: Path) -> None:
    source, target = network(), network(gradient_checkpointing=True)
    torch.save({f"encoder.{name}": value for name, value in source.state_dict().items()}, tmp_path / "ours.pth")
    target.apply(lambda module: module._parameters and [p.data.zero_() for p in module.parameters(recurse=False)])
    report = load_pretrained(target, tmp_path / "ours.pth")
    assert (report.encoder_share, report.adapted, report.new) == (1.0, {}, {})
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_networks_of_another_kind_are_refused(tmp_path: Path) -> None:
    encoder = network(features=(6, 12))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(InputError, match=r"expected at least|leaves"):
        load_pretrained(encoder, _save(tmp_path, public_weights()))
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize("kind", ["swin", "resenc", "resnet18"])
def test_networks_of_three_axes_are_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"storm\.ckpt"):
        load_pretrained(planned(kind, 1), _save(tmp_path, public_weights(layout="encoder")))


def test_what_was_seen_is_said(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(_save(tmp_path, public_weights()))
    assert checkpoint.kind == "neurostorm_reference" and checkpoint.window == (4, 4, 4, 4)
    assert checkpoint.source_network.strides == ((1,) * 4, (2, 2, 2, 1), (2, 2, 2, 1))
    assert Exposure.of_checkpoint(checkpoint) == Exposure((NEUROSTORM,))
    assert "hcp-ya" in NEUROSTORM["perhaps"] and "is unknown" in NEUROSTORM["note"]


def test_patches_are_cubes() -> None:
    assert [cubic_patch(n) for n in (1, 8, 216, 215, 0)] == [(1, 1, 1, 1), (2, 2, 2, 1), (6, 6, 6, 1), None, None]


def test_odd_tensors_are_left_to_be_refused() -> None:
    reader, odd = (
        NeurostormReader(),
        {"patch_embed.fc.weight", "pos_embeds.0.pos_embed", "layers.0.downsample.norm.bias"},
    )
    for shape in ((), (0,), (1, 0, 2, 2, 2, 1), (3,)):
        weights = public_weights(prompts=2) | {name: torch.zeros(shape) for name in odd}
        renamed = reader.rename(weights | {"layers.0.blocks.0.prompt": torch.zeros(shape)}).weights
        assert renamed["encoder.patch_embed.weight"].shape == shape
        assert reader.origin(weights).window == (4, 4, 4, 4)
    with pytest.raises(InputError, match="with and without prefixes"):
        reader.rename({"model.norm_up.bias": torch.zeros(1), "norm_up.bias": torch.zeros(1)})
