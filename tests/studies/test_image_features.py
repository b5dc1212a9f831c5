"""Features of images by frozen encoders, against the encoder applied by hand."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import ResNet18
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.studies.image_features import write_features
from tests.checkpoints.simclr_weights import weights_of
from tests.checkpoints.test_bdfm_reference import reference_names, small_published

ARCHITECTURE: dict[str, Any] = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 3, "features_per_stage": [4, 6, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3, "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]], "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1], "conv_bias": True, "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "nonlin"],
}  # fmt: skip


def _weights(path: Path, *, channels: int = 1, axes: tuple[int, ...] = (0, 1, 2), **changes: Any) -> nn.Module:
    """Write a checkpoint of nnU-Net and return its network."""
    torch.manual_seed(2)
    configuration = {
        "patch_size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0], "architecture": ARCHITECTURE,
        "normalization_schemes": ["ZScoreNormalization"] * channels, "use_mask_for_norm": [False] * channels,
    } | changes  # fmt: skip
    network = build_network(configuration, inputs=channels, outputs=2, deep_supervision=False).eval()
    plans = {"transpose_forward": list(axes), "configurations": {"c": configuration}}
    content = {"network_weights": network.state_dict(), "init_args": {"plans": plans, "configuration": "c"},
               "trainer_name": "nnUNetTrainer"}  # fmt: skip
    torch.save(content, path)
    return network


def _image(path: Path, seed: int, shape: tuple[int, int, int] = (8, 8, 8), spacing: Any = (1, 1, 1)) -> np.ndarray:
    """Write an image (x, y, z) and return it as (z, y, x)."""
    values = 1 + np.random.default_rng(seed).random(shape, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), path)
    return values.T


def _standard(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((array - array.mean()) / array.std()).float()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_features_are_those_of_the_encoder(folder: Path, axes: tuple[int, ...]) -> None:
    network = _weights(folder / "w.pth", axes=axes)
    arrays = {case: _image(folder / f"images/{case}.nii.gz", at) for at, case in enumerate("ab")}
    described = write_features([folder / "images"], weights=folder / "w.pth", out=folder / "out", maps=True)
    rows = list(csv.reader((folder / "out/features.csv").read_text().splitlines()))
    for row, (case, array) in zip(rows[1:], arrays.items(), strict=True):
        image = _standard(array).permute(*axes)
        with torch.no_grad():
            theirs = network.encoder(image[None, None])  # type: ignore[operator]
        found = np.load(folder / f"out/{case}.npz")
        for at, feature in enumerate(theirs):
            np.testing.assert_allclose(found[f"stage{at}"], feature[0].mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
            back = feature[0].permute(0, *(1 + axes.index(axis) for axis in range(3)))
            np.testing.assert_allclose(found[f"map{at}"], back, rtol=1e-4, atol=1e-5)
        assert row[0] == case
        np.testing.assert_allclose([float(value) for value in row[1:]], found["stage2"], rtol=1e-5)
    assert [stage["stride"] for stage in described["stages"]] == [[1, 1, 1], [2, 2, 2], [2, 4, 4]]
    assert json.loads((folder / "out/features.json").read_text()) == described


def test_images_are_cut_resampled_and_shown_in_tiles(folder: Path) -> None:
    """2 mm become 1 mm along x; zeros around are cut off; two tiles lie side by side in z, one filled up with zeros."""
    network = _weights(folder / "w.pth")
    inner = _image(folder / "images/a.nii.gz", 3, (4, 8, 12), (2, 1, 1))
    padded = np.pad(inner, 3).T
    nibabel.save(nibabel.Nifti1Image(padded, np.diag([2.0, 1, 1, 1])), folder / "images/a.nii.gz")
    write_features([folder / "images/a.nii.gz"], weights=folder / "w.pth", out=folder / "out")
    wide = torch.nn.functional.interpolate(torch.from_numpy(inner.copy())[None, None], (12, 8, 8), mode="trilinear")
    image = (wide - wide.mean()) / wide.std(correction=0)
    second = torch.cat([image[:, :, 8:], torch.zeros(1, 1, 4, 8, 8)], 2)
    with torch.no_grad():
        first, last = network.encoder(image[:, :, :8])[2], network.encoder(second)[2]  # type: ignore[operator]
    expected = torch.cat([first[0], last[0, :, :2]], 1).mean((1, 2, 3))
    np.testing.assert_allclose(np.load(folder / "out/a.npz")["stage2"], expected, rtol=1e-4, atol=1e-5)


def test_channels_of_a_case(folder: Path) -> None:
    network = _weights(folder / "w.pth", channels=2)
    arrays = [_image(folder / f"images/a_000{channel}.nii.gz", channel) for channel in range(2)]
    write_features([folder / "images"], weights=folder / "w.pth", out=folder / "out")
    image = torch.stack([_standard(array) for array in arrays])[None]
    with torch.no_grad():
        expected = network.encoder(image)[2][0].mean((1, 2, 3))  # type: ignore[operator]
    np.testing.assert_allclose(np.load(folder / "out/a.npz")["stage2"], expected, rtol=1e-4, atol=1e-5)
    (folder / "images/a_0001.nii.gz").unlink()
    with pytest.raises(InputError, match=r"case a has the channels \[0\], but the encoder reads 2"):
        write_features([folder / "images"], weights=folder / "w.pth", out=folder / "out")


@pytest.mark.parametrize("scheme", ["NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization"])
def test_normalisation_of_the_training(folder: Path, scheme: str) -> None:
    network = _weights(folder / "w.pth", normalization_schemes=[scheme])
    array = _image(folder / "images/a.nii.gz", 4).copy()
    write_features([folder / "images"], weights=folder / "w.pth", out=folder / "out")
    changed = {"NoNormalization": array, "RGBTo01Normalization": array / 255}.get(scheme)
    changed = (array - array.min()) / (array.max() - array.min()) if changed is None else changed
    with torch.no_grad():
        expected = network.encoder(torch.from_numpy(changed)[None, None])[2]  # type: ignore[operator]
    np.testing.assert_allclose(
        np.load(folder / "out/a.npz")["stage2"], expected[0].mean((1, 2, 3)), rtol=1e-3, atol=1e-4
    )


def test_public_bdfm_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth first and the two other axes swapped, between 0 and 1, in tiles filled up with zeros; every stage."""
    monkeypatch.setattr("bdfm_nnunet.studies.image_features._TILE", 32)
    objective = small_published()
    torch.save({"state_dict": reference_names(objective), "global_step": 1}, folder / "bdfm.pt")
    array = _image(folder / "images/a.nii.gz", 7, (24, 16, 20)).copy()
    described = write_features([folder / "images"], weights=folder / "bdfm.pt", out=folder / "out")
    scaled = (array - array.min()) / (array.max() - array.min())
    turned = torch.from_numpy(scaled).permute(0, 2, 1)
    tile = torch.nn.functional.pad(turned, [0, 16, 0, 8, 0, 12])[None, None]
    with torch.no_grad():
        theirs = objective.encoder(tile)  # which agrees with a plain form of the public code in test_load_matrix
    found = np.load(folder / "out/a.npz")
    for at, (feature, grid) in enumerate(zip(theirs, [(5, 6, 4), (5, 3, 2)], strict=True)):
        inside = feature[0][(slice(None), *map(slice, grid))]
        np.testing.assert_allclose(found[f"stage{at}"], inside.mean((1, 2, 3)), rtol=1e-4, atol=1e-5)
    assert described["weights"]["project"] == "bdfm_reference"
    assert described["images"]["normalisation"] == ["RescaleTo01Normalization"]


def test_neuro_simclr_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 mm, standardised where the image is not zero, with the statistics of the file's batch norms."""
    monkeypatch.setattr("bdfm_nnunet.studies.image_features._TILE", 32)
    network = ResNet18(1, features=(4, 8, 16, 32))
    network.load_state_dict(weights_of(network))
    content = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": content}, folder / "neuro.tar")
    array = _image(folder / "images/a.nii.gz", 8, (16, 32, 32), (2, 1, 1)).copy()
    described = write_features([folder / "images"], weights=folder / "neuro.tar", out=folder / "out")
    wide = torch.nn.functional.interpolate(torch.from_numpy(array)[None, None], (32, 32, 32), mode="trilinear")
    with torch.no_grad():
        theirs = network.eval()((wide - wide.mean()) / wide.std(correction=0))
    found = np.load(folder / "out/a.npz")
    assert len(theirs) == len(described["stages"])
    for at, feature in enumerate(theirs):
        np.testing.assert_allclose(found[f"stage{at}"], feature[0].mean((1, 2, 3)), rtol=1e-3, atol=1e-5)
    assert described["weights"]["project"] == "simclr_reference"


def test_what_cannot_be_used(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _weights(folder / "w.pth", normalization_schemes=["CTNormalization"])
    _image(folder / "images/a.nii.gz", 4)
    out = ["-o", str(folder / "out")]
    assert main(["features", str(folder / "images"), "--weights", str(folder / "w.pth"), *out]) == 2
    assert "CTNormalization, which cannot be done here" in capsys.readouterr().err
    torch.save({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(2, 1, 3, 3, 3)}, folder / "b.pth")
    assert main(["features", str(folder / "images"), "--weights", str(folder / "b.pth"), *out]) == 2
    assert "does not tell its network: name plans" in capsys.readouterr().err
    assert main(["features", str(folder / "w.pth"), "--weights", str(folder / "w.pth"), *out]) == 2
    assert "is no NIfTI file" in capsys.readouterr().err


def test_the_command_tells_how_images_were_prepared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _weights(folder / "w.pth")
    _image(folder / "images/a.nii.gz", 4)
    arguments = ["features", str(folder / "images/a.nii.gz"), "--weights", str(folder / "w.pth")]
    assert main([*arguments, "-o", str(folder / "out")]) == 0
    said = capsys.readouterr().out
    assert "8 features of stride 2x4x4, images resampled to 1x1x1 mm, ZScoreNormalization" in said
    assert "100.0% of the encoder is loaded" in said
