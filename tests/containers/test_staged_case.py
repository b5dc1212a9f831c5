"""Images are mended in copies, and results lie where the images of the case lie."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.containers.staged_case import Staging
from bdfm_nnunet.errors import InputError
from tests.containers.made_models import LPS, noise, save

ONE = Staging(("t1n",))


def stage(tmp_path: Path, staging: Staging, **files: Path) -> Any:
    place = tmp_path / "staged"
    place.mkdir()
    return staging.stage(files, place)


def test_a_good_image_is_linked_to(tmp_path: Path) -> None:
    save(noise(1), tmp_path / "a b.nii.gz")
    staged = stage(tmp_path, ONE, t1n=tmp_path / "a b.nii.gz")
    assert staged.files[0].is_symlink() and staged.files[0].name == "case_0000.nii.gz" and not staged.notes


@pytest.mark.parametrize("kind", ["u1", "<i2", ">i2", "f8", "<u4"])
def test_every_type_keeps_its_values(kind: str, tmp_path: Path) -> None:
    save(noise(1).astype(kind), tmp_path / "x.nii")
    (file,) = stage(tmp_path, ONE, t1n=tmp_path / "x.nii").files
    assert np.array_equal(nib.load(file).get_fdata(), noise(1).astype(kind))


def test_voxels_that_are_no_numbers_become_0(tmp_path: Path) -> None:
    values = noise(1)
    values[0, 0, :3] = np.nan, np.inf, -np.inf
    save(values, tmp_path / "x.nii.gz")
    staged = stage(tmp_path, ONE, t1n=tmp_path / "x.nii.gz")
    values[0, 0, :3] = 0
    assert np.array_equal(nib.load(staged.files[0]).get_fdata(), values)
    assert staged.notes == ("x.nii.gz has 3 voxels that are NaN or infinite: they become 0",)


def test_a_file_that_is_not_compressed_in_spite_of_its_name(tmp_path: Path) -> None:
    save(noise(1), tmp_path / "x.nii")
    (tmp_path / "x.nii").rename(tmp_path / "x.nii.gz")
    staged = stage(tmp_path, ONE, t1n=tmp_path / "x.nii.gz")
    assert gzip.decompress(staged.files[0].read_bytes()) and "not compressed" in staged.notes[0]


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_images_are_turned_as_those_of_the_training_and_results_back(
    axes: tuple[int, ...], flips: tuple[int, ...], tmp_path: Path
) -> None:
    values = noise(1, (5, 6, 7))
    affine = np.zeros((4, 4))
    for own, (world, flip) in enumerate(zip(axes, flips, strict=True)):
        affine[world, own] = flip * (own + 1)
    affine[:, 3] = 4, -9, 20, 1
    save(values, tmp_path / "x.nii.gz", affine)
    staged = stage(tmp_path, Staging(("t1n",), orientation="LPS"), t1n=tmp_path / "x.nii.gz")
    turned = nib.load(staged.files[0])
    assert nib.aff2axcodes(turned.affine) == ("L", "P", "S")
    points = np.argwhere(values > np.sort(values, axis=None)[-4])  # the same values at the same places in the world
    for point in points:
        place = np.linalg.inv(turned.affine) @ affine @ [*point, 1]
        assert turned.get_fdata()[tuple(np.rint(place[:3]).astype(int))] == values[tuple(point)]
    labels = (turned.get_fdata() > 100).astype(np.uint8)
    (tmp_path / "back.nii.gz").write_bytes(staged.packed(labels))
    back = nib.load(tmp_path / "back.nii.gz")
    assert np.array_equal(back.get_fdata(), values > 100) and np.allclose(back.affine, affine, atol=1e-5)


def test_zeros_take_the_place_of_what_may_be_missing(tmp_path: Path) -> None:
    staging = Staging(("t1n", "t2w", "t2f"), ("t2w", "t2f"))
    save(noise(1), tmp_path / "a.nii.gz")
    save(np.zeros_like(noise(1)), tmp_path / "b.nii.gz")
    staged = stage(tmp_path, staging, t1n=tmp_path / "a.nii.gz", t2f=tmp_path / "b.nii.gz")
    assert [nib.load(file).get_fdata().any() for file in staged.files] == [True, False, False]
    assert len(staged.notes) == 2


def broken(path: Path, what: str) -> None:
    values = noise(1)
    if what == "mostly NaN":
        values[:15] = np.nan
    save({"flat": np.ones_like(values), "4-D": np.stack([values] * 2, -1)}.get(what, values), path)
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    if what == "empty":
        path.write_bytes(b"")
    if what == "text":
        path.write_text("no image")


@pytest.mark.parametrize(
    ("what", "sentence"),
    [("mostly NaN", "more than half of all"), ("flat", r"is empty \(every voxel is 1\)"), ("4-D", "one 3-D volume"),
     ("cut", "truncated|damaged|cut|ends"), ("empty", "x.nii.gz"), ("text", "x.nii.gz"), ("gone", "x.nii.gz")],
)  # fmt: skip
def test_what_cannot_be_used(what: str, sentence: str, tmp_path: Path) -> None:
    if what != "gone":
        broken(tmp_path / "x.nii.gz", what)
    with pytest.raises(InputError, match=sentence):
        stage(tmp_path, ONE, t1n=tmp_path / "x.nii.gz")


@pytest.mark.parametrize("affine", [np.diag([-2.0, -1.0, 1.0, 1.0]), LPS + np.eye(4, k=3)])
def test_images_on_two_grids(affine: Any, tmp_path: Path) -> None:
    save(noise(1), tmp_path / "a.nii.gz")
    save(noise(2), tmp_path / "b.nii.gz", affine)
    with pytest.raises(InputError, match=r"b\.nii\.gz has (spacing|another affine)"):
        stage(tmp_path, Staging(("t1n", "t1c")), t1n=tmp_path / "a.nii.gz", t1c=tmp_path / "b.nii.gz")
