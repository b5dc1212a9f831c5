"""`bdfm predict` as a whole on images of other formats and of two axes, beside nnU-Net's own predictor."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.inference import predict_from_raw_data as nnunet

from bdfm_nnunet import cli
from bdfm_nnunet.evaluation.postprocessing import RuleSet
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.prediction.case_quality import QUALITY_TABLE
from tests.prediction.test_other_formats import Save, noise, picture, tiff
from tests.test_nnunet_files import PLANS, SETTINGS

CHECKPOINT = "checkpoint_final.pth"
OURS_ALONE = {"prediction_summary.json", "prediction_summary.md", QUALITY_TABLE}


def plane(values: Any, **settings: Any) -> Save:
    return lambda path: nib.save(nib.Nifti1Image(values, settings.get("affine", np.diag([1.0, 1.5, 5.0, 1.0]))), path)


def model(folder: Path, *, axes: int, channels: int, ending: str, reader: Any) -> Path:
    """An untrained model of one fold, with patches of 16 voxels an axis."""
    convolution, norm = f"torch.nn.modules.conv.Conv{axes}d", f"torch.nn.modules.instancenorm.InstanceNorm{axes}d"
    settings = copy.deepcopy(SETTINGS) | {
        "patch_size": [16] * axes, "spacing": [1.0] * axes, "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        **{f"resampling_fn_{what}_kwargs": {"is_seg": what == "seg", "order": 1, "order_z": 0}
           for what in ("data", "seg", "probabilities")},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {"n_stages": 2, "features_per_stage": [4, 8], "conv_op": convolution, "norm_op": norm,
                            "kernel_sizes": [[3] * axes] * 2, "strides": [[1] * axes, [2] * axes], "conv_bias": True,
                            "n_conv_per_stage": [1, 1], "n_conv_per_stage_decoder": [1],
                            "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": "torch.nn.LeakyReLU",
                            "nonlin_kwargs": {"inplace": True}, "dropout_op": None},
            "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
        },
    }  # fmt: skip
    name = "2d" if axes == 2 else "3d_fullres"
    dataset = {"channel_names": {str(n): f"c{n}" for n in range(channels)}, "labels": {"background": 0, "a": 1, "b": 2},
               "file_ending": ending, "numTraining": 2}  # fmt: skip
    plans = PLANS | {"image_reader_writer": reader.__name__, "configurations": {name: settings},
                     "foreground_intensity_properties_per_channel": {str(n): {} for n in range(channels)}}  # fmt: skip
    torch.manual_seed(3)
    network = build_network(settings, inputs=channels, outputs=3, deep_supervision=True)
    content = {"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
               "init_args": {"configuration": name}, "inference_allowed_mirroring_axes": None}  # fmt: skip
    (folder / "fold_0").mkdir(parents=True)
    torch.save(content, folder / "fold_0" / CHECKPOINT)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


FLAT = noise(24, 20)
MODELS: dict[str, tuple[dict[str, Any], list[Save]]] = {
    "png": (
        {"axes": 2, "channels": 3, "ending": ".png", "reader": NaturalImage2DIO},
        [picture(noise(24, 20, 3, kind=np.uint8))],
    ),
    "tif": (
        {"axes": 3, "channels": 2, "ending": ".tif", "reader": Tiff3DIO},
        [tiff(noise(20, 18, 17), {"spacing": [1, 0.7, 2]}), tiff(noise(20, 18, 17) + 1)],
    ),
    "NIfTI of two axes": (
        {"axes": 2, "channels": 2, "ending": ".nii.gz", "reader": SimpleITKIO},
        [plane(FLAT), plane(FLAT + 1, affine=np.diag([1.0, 1.5, 1.0, 1.0]))],
    ),
    "NIfTI of one slice": (
        {"axes": 2, "channels": 1, "ending": ".nii.gz", "reader": SimpleITKIO}, [plane(noise(24, 20, 1))]
    ),
}  # fmt: skip


def arguments(folder: Path, images: Path, out: Path) -> list[str]:
    more = ["-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta", "--precision", "fp32"]
    return ["predict", "-m", str(folder), "-i", str(images), "-o", str(out), *more]


@pytest.mark.parametrize("name", MODELS)
def test_results_are_those_of_nnunet(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    settings, saves = MODELS[name]
    folder, images, ending = model(tmp_path / "model", **settings), tmp_path / "images", settings["ending"]
    images.mkdir()
    for channel, save in enumerate(saves):
        save(images / f"a_{channel:04d}{ending}")
    stock = nnunet.nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    stock.initialize_from_trained_model_folder(str(folder), (0,))
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(images), str(tmp_path / "stock"))
    assert cli.main(arguments(folder, images, tmp_path / "ours")) == 0
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {
        *(path.name for path in (tmp_path / "stock").iterdir()), *OURS_ALONE
    }  # fmt: skip
    (theirs, their_place), (ours, our_place) = (
        settings["reader"]().read_seg(str(tmp_path / which / f"a{ending}")) for which in ("stock", "ours")
    )
    assert theirs.shape == ours.shape and (theirs == ours).mean() > 0.999 and len(np.unique(theirs)) > 1
    assert repr(our_place) == repr(their_place)


@pytest.mark.parametrize(
    ("settings", "saves", "sentence"),
    [
        ({"axes": 3, "channels": 1}, [plane(FLAT)], "expected one 3-D volume"),
        ({"axes": 2, "channels": 2}, [plane(FLAT), plane(noise(24, 20, 1))], "has 3 axes but a_0000.nii.gz 2"),
        ({"axes": 2, "channels": 1}, [plane(noise(24, 20, 2, 3))], "expected one 3-D volume"),
        ({"axes": 2, "channels": 2}, [plane(FLAT), plane(FLAT, affine=np.diag([2.0, 1.5, 5, 1]))], "voxel size"),
    ],
)
def test_planes_that_nnunet_could_not_read(
    settings: Any, saves: list[Save], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    folder = model(tmp_path / "model", ending=".nii.gz", reader=SimpleITKIO, **settings)
    (tmp_path / "images").mkdir()
    for channel, save in enumerate(saves):
        save(tmp_path / "images" / f"a_{channel:04d}.nii.gz")
    assert cli.main(arguments(folder, tmp_path / "images", tmp_path / "out")) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "error:" in line)
    assert sentence in line and line.endswith("nothing was predicted")


def test_rules_are_for_nifti(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    settings, (save,) = MODELS["png"]
    folder, rules = model(tmp_path / "model", **settings), tmp_path / "rules.json"
    RuleSet("brats2021", "whole", (), (0, 1, 2)).write(rules)
    (tmp_path / "images").mkdir()
    save(tmp_path / "images" / "a_0000.png")
    given = [*arguments(folder, tmp_path / "images", tmp_path / "out"), "--postprocess", str(rules)]
    assert cli.main(given) == 2
    assert "--postprocess is for NIfTI files" in capsys.readouterr().err
