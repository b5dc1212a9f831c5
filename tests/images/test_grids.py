"""The grid of a file is the one that nnU-Net's readers see, or the file is refused."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.grids import Grid, difference, distance_mm
from bdfm_nnunet.images.volumes import read_volume
from tests.images.headers import LPS, VALUES, save_with

NAN, ZEROS = float("nan"), [0.0] * 4
HEADERS: dict[str, dict[str, Any]] = {
    "as nibabel writes it": {},
    "lengths in micrometres": {"xyzt_units": 3},
    "lengths in metres": {"xyzt_units": 1},
    "no unit": {"xyzt_units": 0},
    "no position": {"sform_code": 0, "qform_code": 0},
    "qform alone": {"sform_code": 0, "qform_code": 1, "qoffset_x": 5},
    "negative voxel sizes": {"sform_code": 0, "qform_code": 0, "pixdim": [1, -1, -1, 2, 0, 0, 0, 0]},
    "voxel sizes of 0": {"sform_code": 0, "qform_code": 0, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]},
    "two positions": {"qform_code": 1, "sform_code": 2, "srow_x": [-1, 0, 0, 9]},
}


@pytest.mark.parametrize("header", HEADERS)
def test_as_simpleitk_sees_it(header: str, tmp_path: Path) -> None:
    path = save_with(tmp_path / "a.nii.gz", **HEADERS[header])
    grid, image = read_volume(path, "a").grid, sitk.ReadImage(str(path))
    assert grid == Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


NO_POSITION: dict[str, dict[str, Any]] = {
    "sform of NaN": {"sform_code": 1, "srow_x": [NAN] * 4},
    "sform of zeros": {"sform_code": 1, "qform_code": 1, "srow_x": ZEROS, "srow_y": ZEROS, "srow_z": ZEROS},
    "sform of a plane": {"sform_code": 2, "srow_z": [-1, 0, 0, 0]},
    "infinite offset": {"qform_code": 1, "qoffset_y": np.inf},
    "voxel size of NaN": {"sform_code": 0, "qform_code": 0, "pixdim": [1, 1, NAN, 1, 0, 0, 0, 0]},
}


@pytest.mark.parametrize("by_nibabel", [False, True])
@pytest.mark.parametrize("header", NO_POSITION)
def test_a_position_that_is_none_is_refused(header: str, by_nibabel: bool, tmp_path: Path) -> None:
    path = save_with(tmp_path / "a.nii.gz", **NO_POSITION[header])
    with pytest.raises(Refusal, match="a has an affine or voxel size that is zero or not a number"):
        read_volume(path, "a", by_nibabel=by_nibabel)


def test_what_simpleitk_does_not_take_is_read_by_nibabel_where_that_is_allowed(tmp_path: Path) -> None:
    sheared = LPS + 0.3 * np.eye(4, k=1)
    nib.save(nib.Nifti1Image(VALUES, sheared), tmp_path / "sheared.nii.gz")
    nib.save(nib.Nifti2Image(VALUES, LPS), tmp_path / "two.nii.gz")
    for name, affine, sentence in (("sheared", sheared, "nnU-Net cannot read"), ("two", LPS, "is NIfTI-2")):
        path = tmp_path / f"{name}.nii.gz"
        with pytest.raises(Refusal, match=sentence):
            read_volume(path, name)
        volume = read_volume(path, name, by_nibabel=True)
        assert volume.by_nibabel
        np.testing.assert_array_equal(volume.array, VALUES)
        np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ volume.grid.affine, affine, atol=1e-6)


def test_two_positions_are_noted(tmp_path: Path) -> None:
    path = save_with(
        tmp_path / "a.nii", qform_code=1, sform_code=2, srow_x=[-1, 0, 0, 5], srow_y=[0, -1, 0, 0], srow_z=[0, 0, 2, -3]
    )
    assert read_volume(path, "a.nii").note == (
        "qform (code 1) and sform (code 2) of a.nii disagree by 5.8 mm: other programs may show it in another place"
    )
    same = save_with(tmp_path / "b.nii", qform_code=1, sform_code=2)
    assert not read_volume(same, "b").note
    micrometres = save_with(path, qform_code=1, sform_code=2, srow_x=[-1, 0, 0, 5], xyzt_units=3)
    assert "disagree by 0.0 mm" in read_volume(micrometres, "a").note


def test_a_voxel_size_of_nothing_is_noted(tmp_path: Path) -> None:
    path = save_with(tmp_path / "a.nii", sform_code=0, qform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0])
    assert read_volume(path, "a").note == "a has a voxel size of 0 in its header: nnU-Net's reader takes 1 x 1 x 1 mm"


@pytest.mark.parametrize(("moved", "found"), [(0.0, ""), (0.005, ""), (0.02, "affine"), (3.0, "affine")])
def test_the_tolerance(moved: float, found: str) -> None:
    axes = (1, 0, 0, 0, 1, 0, 0, 0, 1)
    here, there = (Grid((9, 8, 7), (1, 1, 1), (0, 0, at), axes) for at in (0, moved))
    assert difference(here, there) == found
    assert distance_mm(here, there) == pytest.approx(moved)
    small = [Grid((9, 8, 7), (0.01,) * 3, (0, 0, at), axes) for at in (0, moved)]
    assert difference(*small) == ("affine" if moved else "")
    assert difference(here, Grid((9, 8, 6), (1, 1, 1), (0, 0, 0), axes)) == "shape"
    assert difference(here, Grid((9, 8, 7), (1, 1, 1.001), (0, 0, 0), axes)) == "spacing"
