"""Every fault of a data set in nnUNet_raw: `bdfm plan` names the file and makes no plans."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans.case_verification import verify_dataset
from tests.conftest import point_to

DESCRIPTION = {
    "channel_names": {"0": "t1", "1": "t2"},
    "labels": {"background": 0, "whole": [1, 2], "core": 2},
    "regions_class_order": [1, 2],
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def _write(path: Path, values: Any, affine: Any = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Nifti1Image(values, affine).to_filename(path)


def _values(path: Path) -> Any:
    return np.array(np.asarray(Nifti1Image.from_filename(path).dataobj))


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three whole cases of two channels."""
    point_to(tmp_path, monkeypatch)
    folder = tmp_path / "nnUNet_raw" / "Dataset501_Tiny"
    generator = np.random.default_rng(1)
    for case in "abc":
        for channel in range(2):
            image = generator.normal(size=(6, 7, 8)).astype(np.float32)
            _write(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image)
        _write(folder / "labelsTr" / f"{case}.nii.gz", generator.integers(0, 3, (6, 7, 8)).astype(np.uint8))
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return folder


def _voxel(value: float) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        values = _values(path).astype(np.float32)
        values[2, 2, 2] = value
        _write(path, values)

    return change


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the checksum: readers that stop at the last voxel never see it
    path.write_bytes(content)


def _moved(path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 3] = 0.5
    _write(path, _values(path), affine)


def _mirrored(path: Path) -> None:
    _write(path, _values(path), AFFINE @ np.diag([-1, 1, 1, 1]))


IMAGE, LABEL = "imagesTr/b_0001.nii.gz", "labelsTr/b.nii.gz"
FAULTS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "missing modality": (IMAGE, Path.unlink, r"of case b is missing: convert"),
    "truncated image": (IMAGE, _cut, "truncated or damaged .*convert it again"),
    "truncated label": (LABEL, _cut, "truncated or damaged"),
    "wrong checksum": (IMAGE, _flip, "truncated or damaged"),
    "no NIfTI": (IMAGE, lambda path: path.write_bytes(b"<html>not found</html>" * 50), "truncated or damaged"),
    "no bytes": (IMAGE, lambda path: path.write_bytes(b""), "truncated or damaged"),
    "image of another shape": (IMAGE, lambda path: _write(path, _values(path)[:-1]), r"has the shape \(5, 7, 8\) but"),
    "label of another shape": (LABEL, lambda path: _write(path, _values(path)[:-1]), r"has the shape \(5, 7, 8\) but"),
    "four axes": (IMAGE, lambda path: _write(path, np.ones((6, 7, 8, 2), np.uint8)), "expected one 3-D volume"),
    "image of another affine": (IMAGE, _moved, "0.5 mm from b_0000.nii.gz .another affine"),
    "label of another affine": (LABEL, _mirrored, "mm from b_0000.nii.gz .another affine"),
    "unknown label": (LABEL, _voxel(7), r"holds the value 7, expected only \[0, 1, 2\]"),
    "broken label": (LABEL, _voxel(0.5), r"holds the value 0\.5"),
    "NaN label": (LABEL, _voxel(np.nan), "holds the value nan"),
    "NaN image": (IMAGE, _voxel(np.nan), "1 voxels that are NaN or infinite: repair"),
    "infinite image": (IMAGE, _voxel(np.inf), "NaN or infinite"),
    "empty image": (IMAGE, lambda path: _write(path, np.zeros((6, 7, 8), np.uint8)), "is empty .every voxel is 0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_named_and_no_plans_are_made(
    fault: str, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, plant, sentence = FAULTS[fault]
    plant(raw / name)
    assert cli.main(["plan", "-d", "501", "--workers", "2"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("bdfm: error:"))
    assert re.search(sentence, line), line
    assert str(raw / name) in line
    assert not [path for path in (tmp_path / "nnUNet_preprocessed").rglob("*") if path.is_file()]


def _verify(raw: Path, **changes: Any) -> None:
    cases = {
        path.name.removesuffix(".nii.gz"): {
            "images": sorted(map(str, (raw / "imagesTr").glob(path.name.replace(".", "_*.", 1)))),
            "label": str(path),
        }
        for path in sorted((raw / "labelsTr").iterdir())
    }
    verify_dataset(raw, DESCRIPTION | changes, cases, workers=1)


def test_whole_data_sets_pass(raw: Path) -> None:
    _verify(raw)
    _verify(raw, labels={"background": 0, "a": 1, "ignore": 2})
    for path in raw.rglob("*.nii.gz"):  # an affine that is no rotation, which nnU-Net reads with nibabel
        _write(path, _values(path), AFFINE + np.eye(4, k=1) * 0.7)
    _verify(raw)


def test_every_faulty_case_is_told(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    for case in "ac":
        _cut(raw / "imagesTr" / f"{case}_0000.nii.gz")
    with pytest.raises(InputError, match=r"a_0000\.nii\.gz .* \(1 other cases have faults too\)"):
        _verify(raw)
    assert "c_0000.nii.gz cannot be read" in caplog.text


def test_labels_without_foreground(raw: Path) -> None:
    for path in (raw / "labelsTr").iterdir():
        _write(path, np.zeros((6, 7, 8), np.uint8))
    with pytest.raises(InputError, match=r"labelsTr holds labels without any foreground.*--unlabelled"):
        _verify(raw)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"numTraining": 4}, "names 4 training cases but there are 3"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, r"labels \[0, 1, 3\], nnU-Net expects"),
    ],
)
def test_a_description_that_nnunet_cannot_use(raw: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=rf"dataset\.json .*{sentence}"):
        _verify(raw, **changes)


def test_a_description_with_gaps(raw: Path) -> None:
    with pytest.raises(InputError, match=r"dataset\.json does not say channel_names, labels, numTraining"):
        verify_dataset(raw, {"file_ending": ".nii.gz"}, {}, workers=1)
