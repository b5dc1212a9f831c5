"""One random image through the checkpoint's network and the one that got its weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.feature_check import Deviation, NotComparableError, check_features, explained
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.errors import InputError
from tests.checkpoints.described import checkpoint_of_network, network_of
from tests.networks.zoo import NETWORKS


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("channels", [1, 4])
def test_loaded_networks_compute_the_same_in_every_stage(tmp_path: Path, kind: str, channels: int) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", kind, 1)
    report = load_pretrained(network_of(kind, channels), path)
    stages = len(network_of(kind, 1).encoder.output_channels) + (kind == "swin")
    assert len(report.checked) == stages and all("off by" in each for each in report.checked)
    target = network_of(kind, channels)
    load_pretrained(target, path, check=False)
    found = check_features(target, read_checkpoint(path))
    assert all(each.relative is not None and each.relative < 1e-5 for each in found)


def test_a_weight_that_is_off_is_found_in_its_stage_and_behind(tmp_path: Path) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1)
    target = network_of("plain", 1)
    load_pretrained(target, path)
    with torch.no_grad():
        target.encoder.stages[2][0].convs[0].conv.weight[0] += 0.5
    found = check_features(target, read_checkpoint(path))
    assert [each.is_small for each in found] == [True, True, False, False]
    assert "stage 2: off by" in str(found[2])


def test_the_network_is_left_as_it_is(tmp_path: Path) -> None:
    norm = {"norm_op": nn.BatchNorm3d, "norm_op_kwargs": {"eps": 1e-5}}
    path = checkpoint_of_network(tmp_path / "a.pth", "resenc", 1, **norm)
    target = network_of("resenc", 1, **norm).train()
    target.encoder.stages[1].eval()
    load_pretrained(target, path, check=False)
    before, state = {name: value.clone() for name, value in target.state_dict().items()}, torch.get_rng_state()
    check_features(target, read_checkpoint(path))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert target.training and target.encoder.stages[0].training and not target.encoder.stages[1].training
    assert torch.equal(torch.get_rng_state(), state)


def test_channels_by_name_are_shown_their_pictures(tmp_path: Path) -> None:
    names = {"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}}
    path = checkpoint_of_network(tmp_path / "a.pth", "swin", 3, dataset=names)
    target, ours = network_of("swin", 4), ["t1c", "t2f", "t1n", "dwi"]
    load_pretrained(target, path, channels=ours, check=False)
    assert all(each.is_small for each in check_features(target, read_checkpoint(path), ours))
    assert not all(
        each.is_small for each in check_features(target, read_checkpoint(path), ["t2f", "t1c", "t1n", "dwi"])
    )


@pytest.mark.parametrize(
    ("changes", "how"),
    [({"window_size": [2, 2, 2]}, "window"), ({"strides": [[1, 1, 1], [2, 4, 4], [2, 2, 2]]}, "kernel")],
)
def test_what_was_adapted_explains_a_deviation(tmp_path: Path, changes: dict[str, Any], how: str) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "swin", 1)
    report = load_pretrained(network_of("swin", 1, **changes), path)
    assert any(how in each for each in report.adapted.values()) and report.checked


def test_a_deviation_that_nothing_explains_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that turns weights wrongly, say: here the file's network is not the one that it describes."""
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1)
    target = network_of("plain", 1)
    before = {name: value.clone() for name, value in target.state_dict().items()}

    def other(*_: object, **__: object) -> nn.Module:
        source = network_of("plain", 1)
        source.encoder.stages[1][0].convs[1].nonlin.register_forward_hook(lambda *given: given[2] * 0.5)
        return source

    monkeypatch.setattr("bdfm_nnunet.checkpoints.feature_check.build_source", other)
    with pytest.raises(InputError, match=r"a\.pth gives other features .*stage 1: off by 1.0e\+00"):
        load_pretrained(target, path)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    assert load_pretrained(target, path, check=False).checked == ()


def test_files_that_do_not_describe_their_network_are_not_compared(tmp_path: Path) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1, plans=False)
    report = load_pretrained(network_of("plain", 1), path)
    assert report.checked == ("features were not compared, the file does not describe its network",)
    path = checkpoint_of_network(tmp_path / "b.pth", "plain", 1)
    content = torch.load(path, weights_only=True)
    del content["network_weights"]["encoder.stages.3.0.convs.1.norm.weight"]
    torch.save(content, path)
    with pytest.raises(NotComparableError, match=r"lacks encoder\.stages\.3\.0\.convs\.1\.norm\.weight"):
        check_features(network_of("plain", 1), read_checkpoint(path))


def test_explanations() -> None:
    near, far, other = (Deviation("0", size, size, ((1,), (1,))) for size in (1e-6, 0.5, None))
    plain = LoadReport(Path("a.pth"), "", encoder_share=1.0)
    assert explained([near], plain) and not explained([near, far], plain) and not explained([other], plain)
    exact = LoadReport(Path("a.pth"), "", encoder_share=1.0, adapted={"a": "input channels 1 to 4"})
    assert not explained([far], exact)
    exact.adapted["b"] = "input channels 1 to 4, kernel (3, 3, 3) to (1, 3, 3)"
    assert explained([far], exact)


def test_the_report_ends_in_a_sentence_and_becomes_json(tmp_path: Path) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1)
    content = torch.load(path, weights_only=True)
    content |= {"trainer_name": "nnUNetTrainer", "licence": "CC BY 4.0", "citations": ["Somebody (2025). Weights."]}
    content["bdfm_exposure"] = {"format": 1, "runs": [{"dataset": "BraTS"}, {"dataset": "OpenMind"}, {}]}
    torch.save(content, path)
    report = load_pretrained(network_of("plain", 4), path)
    expected = (
        "Of this network's encoder 100% starts from a.pth (trained by nnUNetTrainer on BraTS, OpenMind), adapted: "
        "input channels 1 to 4; the decoder comes from there too. Licence: CC BY 4.0."
    )
    assert str(report).endswith(expected) and "please cite: Somebody (2025). Weights." in str(report)
    kept = json.loads(json.dumps(report.as_dict()))
    assert kept["sentence"] == expected and kept["licence"] == "CC BY 4.0" and kept["encoder_share"] == 1.0
    assert kept["adapted"] == report.adapted and "exposure" not in kept


@pytest.mark.parametrize("exposure", [None, 5, {"runs": 5}, {"runs": [3, {"dataset": 4}]}])
def test_the_sentence_does_without_an_exposure(exposure: object) -> None:
    report = LoadReport(Path("a.pth"), "", exposure=exposure)
    assert "on data that the file does not name); the decoder starts anew. Licence: not stated" in report.sentence
