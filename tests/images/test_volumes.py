"""Reading one file."""

import gzip
import hashlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.dataset_conversion.checks import hash_of_values, histogram
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.volumes import read_volume

OBLIQUE = np.array([[0.9, -0.2, 0, 4], [0.2, 0.9, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])


def test_values_and_grid_are_those_of_simpleitk(tmp_path: Path, tree: Any) -> None:
    """Scaling applied, and corners where nnU-Net's reader has them."""
    values = np.random.default_rng(0).integers(-50, 50, (5, 6, 7)).astype(np.int16)
    scale = np.linalg.norm(OBLIQUE[:3, 0])
    affine = OBLIQUE.copy()
    affine[:3, :2] /= scale
    path = tmp_path / "a.nii.gz"
    tree.write(path, values, affine=affine, slope=0.25)
    volume, image = read_volume(path, "a"), sitk.ReadImage(str(path))
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image).transpose())
    np.testing.assert_allclose(volume.array, values * 0.25)
    expected = [image.TransformIndexToPhysicalPoint([x, y, z]) for x in (0, 4) for y in (0, 5) for z in (0, 6)]
    np.testing.assert_allclose(volume.grid.corners, expected, atol=1e-5)
    assert volume.spacing == [1, 1, 2.5]


def test_a_fourth_axis_of_one_says_nothing(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    nib.save(nib.Nifti1Image(values[..., None], np.eye(4)), tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz", "a").array, values)


def test_nifti_2_is_refused_by_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(np.ones((3, 4, 5), np.float32), np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(Refusal, match="a is NIfTI-2"):
        read_volume(tmp_path / "a.nii.gz", "a")


def test_gzip_in_several_members(tmp_path: Path) -> None:
    content = nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]) + b"\0\0")
    assert read_volume(path, "a").array.sum() == 60


def test_hash_changes_with_one_voxel_and_with_the_shape(tmp_path: Path, tree: Any) -> None:
    path, hashes = tmp_path / "a.nii.gz", set()
    base = np.zeros((4, 6, 5), np.float32)
    changed = base.copy()
    changed[1, 2, 3] = 1
    for values in (base, changed, base.reshape(6, 4, 5)):
        tree.write(path, values)
        hashes.add(hash_of_values(read_volume(path, "a")))
    assert len(hashes) == 3
    tree.write(path, -base)  # minus zero is zero
    assert hash_of_values(read_volume(path, "a")) in hashes


@pytest.mark.parametrize("seed", range(4))
def test_any_header_is_read_or_refused_in_a_sentence(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    content = nib.Nifti1Image(random.integers(0, 9, (6, 5, 4)).astype(np.int16), np.eye(4)).to_bytes()
    refused = 0
    for number in range(150):
        broken = bytearray(content)
        for position in random.integers(0, 352, random.integers(1, 6)):
            broken[position] = random.integers(0, 256)
        path = tmp_path / f"{number}.nii"
        path.write_bytes(bytes(broken))
        try:
            volume = read_volume(path, path.name)
        except Refusal as refusal:
            refused += 1
            assert path.name in str(refusal)
        else:
            assert volume.array.shape == volume.grid.size
    assert 0 < refused < 150


@pytest.mark.parametrize(
    ("values", "entered_as"),
    [
        (np.arange(24, dtype=np.int16), "<i2"),
        (np.arange(24, dtype=np.uint8), "<i2"),
        (np.arange(24, dtype=np.float64), "<i2"),
        (np.arange(24, dtype=np.int16) + np.iinfo(np.int16).min, "<i2"),
        (np.arange(24, dtype=np.float32) - 2**15, "<i2"),
        (np.arange(24, dtype=np.int32) - 2**15 - 1, "<f4"),
        (np.arange(24, dtype=np.float32) + 2**15 - 23, "<f4"),
        (np.arange(24, dtype=np.float32) / 2, "<f4"),
        (np.linspace(0, 1, 24), "<f4"),
    ],
)
def test_hash_as_the_docstring_defines_it(values: np.ndarray, entered_as: str, tmp_path: Path, tree: Any) -> None:
    """Written out by hand, so that hashes in manifests stay comparable for ever."""
    values = values.reshape(2, 3, 4)  # in RAS: x and y point against LPS
    tree.write(tmp_path / "a.nii.gz", values, affine=np.eye(4))
    content = np.array([2, 3, 4], "<i8").tobytes()
    for z in range(4):
        for y in (2, 1, 0):
            for x in (1, 0):
                content += values[x, y, z].astype(np.float32).astype(entered_as).tobytes()
    assert hash_of_values(read_volume(tmp_path / "a.nii.gz", "a")) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("low", [-2, 0, 250])
@pytest.mark.parametrize("type_", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("spread", [1, 5, 300])
def test_histogram_counts_every_value(low: int, type_: type, spread: int) -> None:
    random = np.random.default_rng(0)
    whole = (low + random.integers(0, spread, (9, 8, 7)) * 3).clip(*_limits(type_)).astype(type_)
    values, counts = np.unique(whole, return_counts=True)
    assert histogram(whole) == dict(zip(values.tolist(), counts.tolist()))


def _limits(type_: type) -> tuple[int, int]:
    return int(np.iinfo(type_).min), int(np.iinfo(type_).max)
