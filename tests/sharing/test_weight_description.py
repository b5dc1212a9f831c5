import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.sharing import describe_weights
from tests.checkpoints.readers.test_neurostorm_reader import lightning
from tests.networks import zoo
from tests.networks.neurostorm_slow import public_weights
from tests.sharing.made_checkpoints import pretrained


@pytest.mark.parametrize("kind", [*zoo.NETWORKS, "primus"])
def test_our_pretraining(tmp_path: Path, kind: str) -> None:
    content = pretrained(tmp_path / "a.pth", kind)
    found = describe_weights(tmp_path / "a.pth")
    encoder = zoo.network(kind, 1).encoder
    assert found.project == "nnunet" and found.trainer == "nnUNetTrainerSimMIM" and found.methods == ["simmim"]
    assert found.epochs == 7 and found.fits == [kind]
    assert found.network["class"] == type(zoo.network(kind, 1)).__name__ and found.network["input_channels"] == 1
    assert found.network["encoder_parameters"] == sum(each.numel() for each in encoder.parameters())
    stages = {"swin": 2, "primus": None}.get(kind, 4)
    assert found.network["stages"] == stages
    assert found.plans is not None and found.plans["patch_size"] == [32, 32, 32]
    assert found.plans["spacing"] == [1.0, 1.0, 1.0] and found.plans["normalisation"] == ["ZScoreNormalization"] * 2
    assert found.seen["runs"][0]["train"] == 2 and found.rules[0]["answer"] == "forbidden"
    assert found.citations == list(dict.fromkeys(t for each in content["citations"] for t in each["apa_citations"]))
    assert json.loads(json.dumps(found.as_dict()))["rules"][0]["name"] == "brats2026-met"
    shown = str(found)
    for text in (
        "SimMIM",
        "7 finished",
        "upenn-gbm (CC BY 4.0)",
        "2 training and 1 validation cases",
        f" {kind}\n",
    ):
        assert text in shown


def test_settings_that_the_plans_changed_choose_the_method(tmp_path: Path) -> None:
    content = pretrained(tmp_path / "a.pth")
    mixture = {"objectives": [{"name": "masked"}, {"name": "contrastive", "temperature": 0.2}]}
    for block, trainer, methods in (
        (mixture, "nnUNetTrainerPretrain", ["masked", "contrastive"]),
        ({"mask_ratio": 0.5}, "nnUNetTrainerBDFMPretrain", ["masked"]),
        ({"unheard_of": 1}, "nnUNetTrainerBDFMPretrain", []),  # of another version
        ({}, "nnUNetTrainer", []),
    ):
        plans = content["init_args"]["plans"]
        plans["configurations"]["3d_fullres"]["pretraining"] = block
        torch.save(content | {"trainer_name": trainer}, tmp_path / "a.pth")
        found = describe_weights(tmp_path / "a.pth")
        assert found.methods == methods and found.settings == (block if trainer != "nnUNetTrainer" else {})


def test_a_short_name_is_told(tmp_path: Path, nnunet_dirs: Path) -> None:
    fold = nnunet_dirs / "nnUNet_results" / "Dataset501_A" / "nnUNetTrainerSimMIM__P__c" / "fold_0"
    fold.mkdir(parents=True)
    pretrained(fold / "checkpoint_final.pth")
    (fold / "pretraining_summary.json").write_text("{}")
    found = describe_weights("last:501")
    assert found.path == str(fold / "checkpoint_final.pth") and "last:501 is Dataset501_A" in found.notes[0]


def test_weights_alone(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": zoo.network("plain", 4).state_dict()}, tmp_path / "a.pt")
    found = describe_weights(tmp_path / "a.pt")
    assert found.epochs == 3 and found.fits == ["plain"] and found.network["input_channels"] == 4
    assert found.plans is None and found.network["class"] is None and found.methods == [] and found.citations == []
    shown = str(found)
    assert "none in the file" in shown and "says nothing about the cases" in shown and "brats2026-met: unknown" in shown


def test_a_published_neurostorm_tells_its_network_and_clips(tmp_path: Path) -> None:
    torch.save(lightning(public_weights()), tmp_path / "storm.ckpt")
    found = describe_weights(tmp_path / "storm.ckpt")
    assert found.fits == ["neurostorm"] and found.project == "neurostorm_reference"
    assert found.network["class"] == "NeuroSTORM" and found.network["input_channels"] == 1
    assert found.plans is not None and found.plans["patch_size"] == [16, 16, 16, 6]
    assert "spacing 2 x 2 x 2 mm, 0.8 s" in str(found) and "taken to be those of the published models" in str(found)


def test_sets_of_weights_are_listed(tmp_path: Path) -> None:
    model = zoo.network("resenc", 1).state_dict()
    torch.save({"model": model, "model_ema": zoo.network("resenc", 1).state_dict()}, tmp_path / "a.pt")
    found = describe_weights(tmp_path / "a.pt")
    parameters = sum(each.numel() for each in zoo.network("resenc", 1).parameters())
    assert [(each["name"], each["parameters"]) for each in found.weight_sets] == [
        ("model", parameters), ("model_ema", parameters)
    ]  # fmt: skip
    assert "model_ema: 0." in str(found) and any("weight_set" in note for note in found.notes)


@pytest.mark.parametrize("entry", [5, {"architecture_plans": 3}, {"recommended_downstream_patchsize": [160] * 3}])
def test_entries_of_an_odd_shape_count_as_missing(tmp_path: Path, entry: Any) -> None:
    odd = {"init_args": {"plans": {"configurations": 3}, "configuration": "c"}, "current_epoch": "x", "citations": 4}
    pretrained(tmp_path / "a.pth", nnssl_adaptation_plan=entry, **odd)
    found = describe_weights(tmp_path / "a.pth")
    assert found.epochs is None and found.fits == ["swin"]
    assert found.plans is None or found.plans["patch_size"] is None
    assert found.citations  # those of the trainer


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match=r"a\.pth"):
        describe_weights(tmp_path / "a.pth")
