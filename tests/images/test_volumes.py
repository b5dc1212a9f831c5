"""Reading one file."""

import gzip
import hashlib
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.dataset_conversion.reading.geometry import hash_of_values
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.image_faults import Damaged, WrongAxes
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


# ------------------------------------------------------------------------------------------------- hostile files


def _header(shape: tuple[int, ...], type_: type = np.float32) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(type_)
    header["dim"][: len(shape) + 1] = len(shape), *shape
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return bytes(header.binaryblock) + bytes(4)


def _bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(_header((4, 4, 4)) + bytes(256)) + gzip.compress(bytes(32 << 20), 9) * 400)


def _in_colours(path: Path) -> None:
    values = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "named pipe": (os.mkfifo, "a is a named pipe"),
    "endless zeros": (lambda path: path.symlink_to("/dev/zero"), "a is a device"),
    "endless noise": (lambda path: path.symlink_to("/dev/urandom"), "a is a device"),
    "a folder": (Path.mkdir, "a is a folder"),
    "a link that leads nowhere": (lambda path: path.symlink_to("/nowhere"), "a is a link whose target /nowhere is not"),
    "a link to itself": (lambda path: path.symlink_to(path), "a cannot be read"),
    "12 GiB in 12 MB": (_bomb, "a holds more than its header tells"),
    "a header of 32767 voxels an axis": (
        lambda path: path.write_bytes(gzip.compress(_header((32767,) * 3))), "a asks in its header for 131060.0 GiB"
    ),
    "colours": (_in_colours, "a is 4 x 4 x 4 of type colours"),
    "complex numbers": (
        lambda path: path.write_bytes(gzip.compress(_header((4, 4, 4), np.complex64) + bytes(512))), "complex numbers"
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", HOSTILE)
def test_hostile_files_are_refused_at_once_and_in_little_memory(file: str, tmp_path: Path) -> None:
    plant, sentence = HOSTILE[file]
    plant(tmp_path / "a.nii.gz")
    tracemalloc.start()
    with pytest.raises(Refusal, match=sentence):
        read_volume(tmp_path / "a.nii.gz", "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("name", [b"\xff\xfe.nii.gz", b"x" * 245 + b".nii.gz", b'a "b" $(c).nii.gz'])
def test_odd_names_are_read(name: bytes, tmp_path: Path) -> None:
    """SimpleITK would abort the process on names that are no UTF-8."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(gzip.compress(nib.Nifti1Image(np.ones((3, 4, 5), np.float32), np.eye(4)).to_bytes()))
    assert read_volume(path, "a").grid.size == (3, 4, 5)


@pytest.mark.parametrize("name", ["a.NII", "a.Nii.Gz", "a.IMG"])
def test_endings_in_any_case(name: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    if name.endswith("IMG"):
        nib.save(nib.Nifti1Pair(image.dataobj, np.eye(4)), tmp_path / "a.img")
        for part in ("img", "hdr"):
            (tmp_path / f"a.{part}").rename(tmp_path / f"a.{part.upper()}")
    else:
        content = image.to_bytes()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("Gz") else content)
    assert read_volume(tmp_path / name, name).array.sum() == 1770


def test_faults_come_back_whole_from_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(Damaged) as damaged:
        read_volume(tmp_path / "a.nii.gz", "a")
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5, 2)), np.eye(4)), tmp_path / "b.nii")
    with pytest.raises(WrongAxes) as axes:
        read_volume(tmp_path / "b.nii", "b")
    for error in (damaged.value, axes.value):
        copy = pickle.loads(pickle.dumps(error))
        assert (str(copy), vars(copy)) == (str(error), vars(error))


@pytest.mark.parametrize(("image", "header"), [(".img", ".hdr"), (".IMG", ".HDR"), (".Img", ".Hdr"), (".IMG", ".hdr")])
def test_pairs_are_read_whatever_the_size_of_the_letters_in_their_endings(
    image: str, header: str, tmp_path: Path
) -> None:
    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    nib.save(nib.Nifti1Pair(values, np.diag([-1.0, -1, 2, 1])), tmp_path / "x.img")
    (tmp_path / "x.img").rename(tmp_path / f"a{image}")
    (tmp_path / "x.hdr").rename(tmp_path / f"a{header}")
    for ending in (image, header):
        volume = read_volume(tmp_path / f"a{ending}", "a")
        np.testing.assert_array_equal(volume.array, values)
        assert volume.spacing == [1, 1, 2]
