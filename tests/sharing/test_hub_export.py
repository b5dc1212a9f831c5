import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.results import RunResult, write_result
from bdfm_nnunet.sharing import describe_weights, export_weights, hub_export
from tests.networks import zoo
from tests.sharing.made_checkpoints import pretrained


@pytest.mark.parametrize("kind", [*zoo.NETWORKS, "primus"])
def test_a_folder_reads_back_to_the_same_features(tmp_path: Path, kind: str) -> None:
    pretrained(tmp_path / "a.pth", kind)
    out = export_weights(tmp_path / "a.pth", tmp_path / "shared")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    source, exported = read_checkpoint(tmp_path / "a.pth"), read_checkpoint(out)
    for name, value in exported.weights.items():
        assert torch.equal(value, source.weights[name]), name
    assert exported.trainer == source.trainer and exported.configuration == "3d_fullres"
    assert exported.exposure == source.exposure and exported.images == source.images
    assert exported.citations == source.citations
    targets = []
    for path in (tmp_path / "a.pth", out):
        torch.manual_seed(2)
        targets.append(zoo.network(kind, 3).eval())
        report = load_pretrained(targets[-1], path)
        assert report.encoder_share == 1
    image = torch.randn(1, 3, 32, 32, 32)
    for ours, theirs in zip(*(target.encoder(image) for target in targets), strict=True):
        assert torch.equal(ours, theirs)


def test_a_tensor_of_several_names_is_written_once(tmp_path: Path) -> None:
    network = zoo.network("resenc", 1)
    torch.save({"network_weights": network.state_dict()}, tmp_path / "a.pth")
    out = export_weights(tmp_path / "a.pth", tmp_path / "shared")
    size = sum(each.numel() * 4 for each in network.parameters())
    assert size < (out / "model.safetensors").stat().st_size < 1.2 * size + 50_000
    assert not [name for name in read_checkpoint(out).weights if name.startswith("decoder.encoder.")]


def test_nothing_of_this_machine_goes_out(tmp_path: Path) -> None:
    pretrained(tmp_path / "a.pth")
    out = export_weights(tmp_path / "a.pth", tmp_path / "shared")
    config = json.loads((out / "config.json").read_text())
    assert "/home/me" not in (out / "config.json").read_text() + (out / "README.md").read_text()
    assert str(tmp_path) not in (out / "config.json").read_text() + (out / "README.md").read_text()
    assert config["library_name"] == "bdfm_nnunet" and "device" not in config["init_args"]
    assert (out / "model.safetensors").stat().st_mode == (out / "config.json").stat().st_mode


def test_ids_of_cases_are_left_out_on_request(tmp_path: Path) -> None:
    pretrained(tmp_path / "a.pth")
    out = export_weights(tmp_path / "a.pth", tmp_path / "shared", cases=False)
    (run,) = Exposure.of_checkpoint(read_checkpoint(out)).runs
    assert run["note"] == "2 training and 1 validation cases, whose ids are not listed"
    assert run["releases"] and "p1" not in (out / "config.json").read_text()
    found = describe_weights(out)
    assert found.gaps == [run["note"]] and found.rules[0]["answer"] == "forbidden"  # its release is known
    again = export_weights(out, tmp_path / "again", cases=False)
    assert describe_weights(again).gaps == found.gaps


def test_the_page_says_what_the_weights_are(tmp_path: Path) -> None:
    pretrained(tmp_path / "a.pth")
    result = RunResult(
        kind="pretraining", trainer="nnUNetTrainerSimMIM", curves={"psnr": [20.0, 21.25], "lrs": [1.0], "ssim": [None]}
    )
    write_result(tmp_path / "pretraining_summary.json", result)
    out = export_weights(tmp_path / "a.pth", tmp_path / "shared", name="Mine | <b>", licence="CC BY 4.0")
    page = (out / "README.md").read_text()
    digest = read_checkpoint(out).sha256
    for text in (
        "license: cc-by-4.0", '"simmim"', "# Mine | &lt;b>", "SwinUNet, 2 stages, 1 channel", "SimMIM, 7 epochs",
        digest,
        "| Dataset501_A | upenn-gbm | 2 / 1 | CC BY 4.0 | brats2021 |", "| BraTS 2026, task 1: brain metastases |",
        "shares scans with BraTS 2021",
        "| psnr, last epoch | 21.25 |", "| ssim, last epoch | - |", "- Xie, Z.",
    ):  # fmt: skip
        assert text in page, text
    assert "lrs" not in page
    assert read_checkpoint(out).licence == "CC BY 4.0"


def test_results_of_another_training_or_damaged_ones_are_not_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pretrained(tmp_path / "a.pth", exposure=None)
    write_result(tmp_path / "training_summary.json", RunResult(kind="segmentation", trainer="nnUNetTrainerBDFM"))
    (tmp_path / "pretraining_summary.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        page = (export_weights(tmp_path / "a.pth", tmp_path / "shared") / "README.md").read_text()
    assert "None were found" in page and "license: other" in page and "says nothing about the cases" in page
    assert "the page has no scores" in caplog.text


def test_nothing_is_overwritten_or_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained(tmp_path / "a.pth")
    (tmp_path / "there").mkdir()
    export_weights(tmp_path / "a.pth", tmp_path / "there")  # an empty folder is filled
    before = {path: path.read_bytes() for path in (tmp_path / "there").iterdir()}
    with pytest.raises(InputError, match="exists already and is not overwritten"):
        export_weights(tmp_path / "a.pth", tmp_path / "there")
    with pytest.raises(InputError, match="exists already"):
        export_weights(tmp_path / "a.pth", tmp_path / "a.pth")
    assert {path: path.read_bytes() for path in (tmp_path / "there").iterdir()} == before

    def fails(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_export, "model_card", fails)
    with pytest.raises(InputError, match="free some space"):
        export_weights(tmp_path / "a.pth", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "there"]


def test_weights_that_would_be_read_as_others_are_refused(tmp_path: Path) -> None:
    names = ("encoder.conv1.weight", "encoder.layer1.0.conv1.weight", "encoder.layer2.0.downsample.0.bias")
    torch.save({"model_state_dict": {name: torch.ones(1) for name in names}}, tmp_path / "a.tar")
    assert read_checkpoint(tmp_path / "a.tar").kind == "simclr_reference"
    with pytest.raises(InputError, match="share that file itself"):
        export_weights(tmp_path / "a.tar", tmp_path / "shared")
    assert not (tmp_path / "shared").exists()
