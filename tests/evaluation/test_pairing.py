"""References and predictions lie where nnU-Net sees them, whatever else their headers say."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation import evaluate_folders
from tests.images.headers import save_with

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
REGIONS = {"whole_tumor": (1, 2, 3), "enhancing_tumor": (3,)}


def _tumour() -> tuple[np.ndarray, np.ndarray]:
    """A cube of 512 voxels and a prediction without its first slice."""
    reference = np.zeros((20, 20, 20), np.uint8)
    reference[6:14, 6:14, 6:14] = 2
    reference[9:11, 9:11, 9:11] = 3
    prediction = reference.copy()
    prediction[:, :, 6] = 0
    return reference, prediction


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name, values in zip(("reference", "prediction"), _tumour()):
        save_with(tmp_path / name / "a.nii.gz", values, LPS)
    return tmp_path / "reference/a.nii.gz", tmp_path / "prediction/a.nii.gz"


def _as_nnunet_writes(path: Path, values: np.ndarray, like: Path) -> None:
    image = sitk.GetImageFromArray(values.transpose())
    image.CopyInformation(sitk.ReadImage(str(like)))
    sitk.WriteImage(image, str(path))


def _scores(files: tuple[Path, Path], **settings: Any) -> dict[str, Any]:
    folders = [file.parent for file in files]
    return evaluate_folders(*folders, regions=REGIONS, release="brats2023-gli", metrics="lesionwise-2023", **settings)


def _check(result: dict[str, Any]) -> None:
    found = result["cases"][0]["regions"]["whole_tumor"]
    assert found["lw_dice"] == pytest.approx(14 / 15) and found["lw_hd95_mm"] == pytest.approx(1)
    assert (found["reference_mm3"], found["prediction_mm3"]) == (512, 448)


def test_lengths_in_micrometres(files: tuple[Path, Path]) -> None:
    for file, values in zip(files, _tumour()):
        image = nib.Nifti1Image(values, LPS * [[1000], [1000], [1000], [1]])
        image.header.set_xyzt_units("micron")
        nib.save(image, file)
    _check(_scores(files))


def test_two_positions_in_one_header(files: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    reference, prediction = _tumour()
    save_with(files[0], reference, LPS, qform_code=1, sform_code=2, srow_x=[-1, 0, 0, 5], srow_z=[0, 0, 1, -3])
    _as_nnunet_writes(files[1], prediction, files[0])
    result = _scores(files)
    _check(result)
    (note,) = result["cases"][0]["notes"]
    assert "qform (code 1) and sform (code 2)" in note and "disagree by 5.8 mm" in note and note in caplog.text


def test_labels_with_the_noise_of_a_slope(files: tuple[Path, Path]) -> None:
    save_with(files[0], _tumour()[0] * np.uint8(85), LPS, scl_slope=1 / 85, scl_inter=0)
    _check(_scores(files))


def test_what_nibabel_wrote_lies_where_nibabel_reads(files: tuple[Path, Path]) -> None:
    """Nnu-Net's other reader puts files without a position elsewhere; sheared ones it alone reads."""
    reference, prediction = _tumour()
    save_with(files[0], reference, LPS, qform_code=0, sform_code=0)
    nib.save(nib.Nifti1Image(prediction, nib.load(files[0]).affine), files[1])
    _check(_scores(files))
    sheared = LPS + 0.2 * np.eye(4, k=1)
    for file, values in zip(files, (reference, prediction)):
        nib.save(nib.Nifti1Image(values, sheared), file)
    assert _scores(files)["cases"][0]["regions"]["whole_tumor"]["lw_dice"] == pytest.approx(14 / 15)
    sheared[0, 3] += 3
    nib.save(nib.Nifti1Image(prediction, sheared), files[1])
    with pytest.raises(InputError, match="lies up to 3 mm from its reference"):
        _scores(files)


@pytest.mark.parametrize("name", [b'=HYPERLINK("x")', b"@SUM(1)", b"\xff\xfe", b"a b $(c)"])
def test_odd_names_are_scored_and_no_cell_is_a_formula(name: bytes, files: tuple[Path, Path], tmp_path: Path) -> None:
    for file in files:
        os.rename(os.fsencode(file), os.fsencode(file.parent) + b"/" + name + b".nii.gz")
    _check(_scores(files, out=tmp_path / "s.json"))
    assert len(json.loads((tmp_path / "s.json").read_text())["cases"]) == 1
    with (tmp_path / "s.csv").open(newline="", encoding="utf-8") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert len(cells) > 20 and not [cell for cell in cells if cell[:1] in ("=", "+", "@")]


def test_nothing_in_a_folder_is_left_out_in_silence(files: tuple[Path, Path], capsys: Any) -> None:
    for file in files:
        (file.parent / "b.nrrd").touch()
    command = ["evaluate", *(str(file.parent) for file in files), "--release", "brats2023-gli", "-o"]
    assert main([*command, str(files[0].parents[1] / "s.json")]) == 2
    assert "b.nrrd looks like an image" in capsys.readouterr().err
    rules = files[0].parents[1] / "rules.json"
    rules.write_text(
        '{"format": 1, "release": "a", "metrics": "whole", "labels": [0, 1, 2, 3], "rules": [], "evidence": {}}'
    )
    out = files[0].parents[1] / "out"
    assert main(["postprocess", "apply", str(files[1].parent), str(rules), "-o", str(out)]) == 2
    assert "b.nrrd looks like an image" in capsys.readouterr().err and not out.exists()
