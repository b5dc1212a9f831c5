"""`bdfm weights`: pre-trained weights as a checkpoint that stock nnU-Net takes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans import add_variant, write_initial_checkpoint
from bdfm_nnunet.plans.plans_lookup import plans_path
from tests.conftest import Prepared
from tests.limits import largest_file
from tests.networks.zoo import network
from tests.training.trainings import pretrained_encoder, stock_network

NAME = "encoder.stages.0.blocks.0.attn.qkv.weight"


@pytest.fixture
def weights(prepared: Prepared, tmp_path: Path) -> Path:
    """A pre-trained encoder of one channel for the prepared plans."""
    return pretrained_encoder(prepared, tmp_path / "pretrained.pth")


def _convert(prepared: Prepared, weights: Path, out: Path, **settings: Any) -> Any:
    return write_initial_checkpoint(
        weights, dataset_id=prepared.labelled, plans_name=prepared.plans, out=out, **settings
    )


def test_stock_flag_takes_the_file(prepared: Prepared, weights: Path, tmp_path: Path) -> None:
    report = _convert(prepared, weights, tmp_path / "full.pth")
    assert report.encoder_share == 1.0
    content = torch.load(tmp_path / "full.pth", weights_only=True)
    stock = stock_network(prepared, channels=4)
    before = {name: value.clone() for name, value in stock.state_dict().items()}
    load_pretrained_weights(stock, str(tmp_path / "full.pth"))
    after = stock.state_dict()
    assert torch.equal(after[NAME], torch.load(weights, weights_only=True)["network_weights"][NAME])
    heads = [name for name in after if ".seg_layers." in name]
    assert heads and all(torch.equal(after[name], before[name]) for name in heads)
    assert all(torch.equal(after[name], content["network_weights"][name]) for name in after if name not in heads)


def test_cascades_are_refused(prepared: Prepared, weights: Path, tmp_path: Path) -> None:
    path = plans_path(prepared.labelled, prepared.plans)
    plans = json.loads(path.read_text())
    plans["configurations"]["second"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["plans_name"] = "Cascade"
    path.with_name("Cascade.json").write_text(json.dumps(plans))
    settings = {"plans_name": "Cascade", "configuration": "second", "out": tmp_path / "full.pth"}
    with pytest.raises(InputError, match="second stage of a cascade, whose network reads the segmentations of 3d_lowr"):
        write_initial_checkpoint(weights, dataset_id=prepared.labelled, **settings)
    assert not (tmp_path / "full.pth").exists()


def test_file_says_where_it_comes_from(prepared: Prepared, weights: Path, tmp_path: Path) -> None:
    report = _convert(prepared, weights, tmp_path / "full.pth")
    content = torch.load(tmp_path / "full.pth", weights_only=True)
    assert content["bdfm_source"]["sha256"] == report.sha256
    assert content["trainer_name"] == "nnUNetTrainer" and content["init_args"]["configuration"] == "3d_fullres"
    assert content["init_args"]["dataset_json"]["channel_names"]["1"] == "t1c"
    assert content["inference_allowed_mirroring_axes"] == (0, 1, 2)


def test_new_weights_are_the_same_in_every_run(prepared: Prepared, weights: Path, tmp_path: Path) -> None:
    for number in range(2):
        torch.manual_seed(number)
        _convert(prepared, weights, tmp_path / f"{number}.pth")
    first, second = (torch.load(tmp_path / f"{n}.pth", weights_only=True)["network_weights"] for n in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_configuration_decides_how_much_must_match(prepared: Prepared, weights: Path, tmp_path: Path) -> None:
    add_variant(prepared.labelled, plans_name=prepared.plans, variant="strict", settings={"finetuning.min_match": 1.0})
    content = torch.load(weights, weights_only=True)
    del content["network_weights"][NAME]
    torch.save(content, weights)
    add_variant(prepared.labelled, plans_name=prepared.plans, variant="gaps", settings={"finetuning.allow_gaps": True})
    assert _convert(prepared, weights, tmp_path / "full.pth", configuration="gaps").encoder_share < 1
    with pytest.raises(InputError, match=f"leaves {NAME} new"):
        _convert(prepared, weights, tmp_path / "strict.pth")
    with pytest.raises(InputError, match="belongs to another architecture"):
        _convert(prepared, weights, tmp_path / "strict.pth", configuration="strict")
    assert not (tmp_path / "strict.pth").exists()


# ------------------------------------------------------------------------------------------------------- bad input


def _command(prepared: Prepared, weights: Path, out: Path) -> list[str]:
    return ["weights", str(weights), "-d", str(prepared.labelled), "-p", prepared.plans, "-o", str(out)]


def _refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(command) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_is_no_checkpoint(prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.pth").write_text("text\n")
    sentence = _refused(_command(prepared, tmp_path / "text.pth", tmp_path / "out.pth"), capsys)
    assert sentence.startswith("bdfm: error:") and "text.pth is not a checkpoint: give a file" in sentence
    assert not (tmp_path / "out.pth").exists()


def test_another_architecture(prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"network_weights": network("resenc", 4).state_dict()}, tmp_path / "other.pth")
    sentence = _refused(_command(prepared, tmp_path / "other.pth", tmp_path / "out.pth"), capsys)
    assert "other.pth fits 0.0% of the encoder of this SwinUNet" in sentence and "make plans that match" in sentence
    assert not (tmp_path / "out.pth").exists()


def test_full_disk(prepared: Prepared, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "full.pth"
    with largest_file(50_000):
        sentence = _refused(_command(prepared, weights, out), capsys)
    assert f"cannot write {out}" in sentence and "free some space" in sentence
    assert not list(out.parent.iterdir())


def test_place_that_cannot_be_written(
    prepared: Prepared, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert "name a folder in the place of that file" in _refused(
        _command(prepared, weights, tmp_path / "file" / "out.pth"), capsys
    )
    (tmp_path / "folder").mkdir()
    assert "name a file in that folder" in _refused(_command(prepared, weights, tmp_path / "folder"), capsys)


def test_unset_folder(
    prepared: Prepared, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("nnUNet_raw")  # plans and preprocessed data are enough
    assert cli.main(_command(prepared, weights, tmp_path / "first.pth")) == 0
    assert (tmp_path / "first.pth").is_file()
    monkeypatch.delenv("nnUNet_preprocessed")
    sentence = _refused(_command(prepared, weights, tmp_path / "second.pth"), capsys)
    assert "nnUNet_preprocessed is not set" in sentence and "export nnUNet_preprocessed=" in sentence
    assert not (tmp_path / "second.pth").exists()
