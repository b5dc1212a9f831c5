"""Model folders of strangers: nothing in them runs, and what cannot be used is a sentence."""

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.prediction.model_folder import read_model
from tests.networks.test_network_building import OLD
from tests.test_nnunet_files import PLANS, SETTINGS

DATASET = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz",
           "numTraining": 2}  # fmt: skip
WHOLE = SETTINGS | OLD | {
    "normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [False] * 2, "spacing": [1.0] * 3,
    **{f"resampling_fn_{what}_kwargs": {} for what in ("data", "seg", "probabilities")},
}  # fmt: skip
CONFIGURATION = {key: value for key, value in WHOLE.items() if key != "architecture"}
"""Of nnU-Net's first plans."""
CHECKPOINT = "checkpoint_final.pth"


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Model:
    """A folder with two folds that can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.marker = folder, folder.parent / "was_run"
        self.plans = PLANS | {"image_reader_writer": "SimpleITKIO",
                              "configurations": {"3d_fullres": copy.deepcopy(CONFIGURATION)}}  # fmt: skip
        self.dataset: Any = copy.deepcopy(DATASET)
        network = build_network(CONFIGURATION, inputs=2, outputs=2, deep_supervision=False)
        self.content: dict[str, Any] = {
            "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": (0, 2),
        }  # fmt: skip

    def write(self) -> "Model":
        for fold in range(2):
            (self.folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
            torch.save(self.content, self.folder / f"fold_{fold}" / CHECKPOINT)
        (self.folder / "plans.json").write_text(json.dumps(self.plans))
        (self.folder / "dataset.json").write_text(json.dumps(self.dataset))
        return self

    def read(self) -> Any:
        return read_model(self.folder, [0, 1], CHECKPOINT)

    @property
    def settings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.plans["configurations"]["3d_fullres"]  # type: ignore[index]
        return found


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return Model(tmp_path / "model")


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@pytest.mark.parametrize("mirroring", [None, (0, 2), [1]])
def test_a_sound_folder_is_read(model: Model, mirroring: Any) -> None:
    model.content["inference_allowed_mirroring_axes"] = mirroring
    found = model.write().read()
    assert found.mirroring == (None if mirroring is None else tuple(mirroring))
    assert (found.trainer, len(found.weights)) == ("nnUNetTrainer", 2)
    state = found.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in model.content["network_weights"].items())
    assert found.configuration.patch_size == [16, 16, 16]


def _weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Model], Any]:
    return lambda model: change(model.content["network_weights"])


def _first(weights: dict[str, Any]) -> str:
    return next(iter(weights))


def _content(**changes: Any) -> Callable[[Model], Any]:
    return lambda model: model.content.update(changes)


def _settings(**changes: Any) -> Callable[[Model], Any]:
    return lambda model: model.settings.update(changes)


def _network(name: str, kwargs: Any, imports: Any = ()) -> Callable[[Model], Any]:
    made = {"network_class_name": name, "arch_kwargs": kwargs, "_kw_requires_import": list(imports)}
    return _settings(architecture=made)


FAULTS: dict[str, tuple[Callable[[Model], Any], str]] = {
    "NaN": (_weights(lambda w: w.update({_first(w): w[_first(w)] * float("nan")})), CHECKPOINT),
    "half of the weights": (_weights(lambda w: [w.pop(name) for name in list(w)[::2]]), "does not fit .*it lacks"),
    "another shape": (_weights(lambda w: w.update({_first(w): torch.ones(3)})), "does not fit .*the plans make"),
    "more weights": (_weights(lambda w: w.update({"other.weight": torch.ones(3)})), "belongs to no part"),
    "no weights": (_content(network_weights={}), "holds no named tensors"),
    "a trainer that is no name": (_content(trainer_name="os.system"), "does not name its trainer"),
    "no trainer": (_content(trainer_name=None), "does not name its trainer"),
    "an unknown trainer": (_content(trainer_name="nnUNetTrainerNope"), "nnUNetTrainerNope, which is not known here"),
    "subjects": (_content(trainer_name="nnUNetTrainerBDFMSurvival"), "use `bdfm predict-subjects` with it"),
    "a pre-training": (_content(trainer_name="nnUNetTrainerBDFMPretrain"), "segments nothing: fine-tune from it"),
    "no configuration": (_content(init_args={}), "does not name its configuration"),
    "an unknown configuration": (_content(init_args={"configuration": "nowhere"}), "'nowhere', which .* does not have"),
    "axes 99": (_content(inference_allowed_mirroring_axes=(99,)), r"mirrors along the axes \(99,\)"),
    "axes twice": (_content(inference_allowed_mirroring_axes=(0, 0)), "mirrors along the axes"),
    "axes that are none": (_content(inference_allowed_mirroring_axes="all"), "mirrors along the axes"),
    "subprocess.Popen": (_network("subprocess.Popen", {"args": ["touch", "was_run"]}), "that is not built"),
    "torch.hub.load": (_network("torch.hub.load", {"repo_or_dir": "x"}), "that is not built"),
    "imports of anything": (_network("torch.nn.Conv3d", {"x": "antigravity.y"}, ["x"]), "that is not built"),
    "a network of other settings": (_network("torch.nn.Conv3d", {}), "cannot be built"),
    "features 1e9": (_settings(UNet_base_num_features=10**9, unet_max_num_features=10**9), "not built|more than this"),
    "patch 1e5": (_settings(patch_size=[10**5] * 3), "more than memory holds"),
    "spacing 0": (_settings(spacing=[0, 1, 1]), "spacing"),
    "a reader that is a path": (lambda m: m.plans.update(image_reader_writer="../../x"), "image_reader_writer"),
    "an unknown reader": (lambda m: m.plans.update(image_reader_writer="NoIO"), "for image_reader_writer"),
    "an unknown normalisation": (_settings(normalization_schemes=["NoNorm"] * 2), "for normalization_schemes NoNorm"),
    "an unknown preprocessor": (_settings(preprocessor_name="NoPreprocessor"), "for preprocessor_name"),
    "an unknown resampling": (_settings(resampling_fn_data="no_such"), "for resampling_fn_data"),
    "another number of channels": (_settings(normalization_schemes=["ZScoreNormalization"]), "normalises 1 channels"),
    "regions without their order": (
        lambda m: m.dataset.update(labels={"background": 0, "a": [1, 2], "b": 1}),
        "labels",
    ),
    "a background that is none": (lambda m: m.dataset.update(labels={"background": 3, "a": 1}), "labels that nnU-Net"),
    "labels of texts": (lambda m: m.dataset.update(labels={"background": "y", "a": "x"}), "dataset.json"),
    "no channels": (lambda m: m.dataset.pop("channel_names"), "channel_names is missing"),
    "an ending of another kind": (lambda m: m.dataset.update(file_ending=5), "file_ending"),
    "axes in disorder": (lambda m: m.plans.update(transpose_forward=[0, 0, 0]), "transpose_forward"),
}


@pytest.mark.filterwarnings("ignore:Detected old nnU-Net plans")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_used_is_a_sentence(model: Model, fault: str, tmp_path: Path) -> None:
    plant, sentence = FAULTS[fault]
    plant(model)
    with pytest.raises(InputError, match=sentence):
        model.write().read()
    assert not (tmp_path / "was_run").exists() and not Path("was_run").exists()


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"", b"[]", b"{}", b"\xff\xfe{}", b"null"])
def test_files_that_are_no_such_json(model: Model, name: str, content: bytes) -> None:
    model.write()
    (model.folder / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        model.read()


def test_checkpoints_are_data(model: Model) -> None:
    path = model.write().folder / "fold_1" / CHECKPOINT
    torch.save(model.content | {"more": Bomb(model.marker)}, path)
    with pytest.raises(InputError, match="fold_1"):
        model.read()
    for content in (pickle.dumps(Bomb(model.marker)), b"<html>", b"", path.read_bytes()[:500]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="fold_1"):
            model.read()
    assert not model.marker.exists()


@pytest.mark.parametrize("change", [{"trainer_name": "nnUNetTrainerBDFM"}, {"init_args": {"configuration": "2d"}}])
def test_folds_of_two_trainings(model: Model, change: dict[str, Any]) -> None:
    model.write()
    torch.save(model.content | change, model.folder / "fold_1" / CHECKPOINT)
    with pytest.raises(InputError, match="name folds of one training"):
        model.read()
