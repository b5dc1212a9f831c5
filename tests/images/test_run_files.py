"""Runs are read frame by frame, whatever form their file has, and what is none is one sentence."""

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.run_files import open_run
from tests.images.headers import save_with

SHAPE = (6, 5, 4, 7)
AFFINE = np.diag([-2.0, 2, 2, 1])


def _values(dtype: Any = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)


def _read(path: Path, count: int = 3) -> np.ndarray:
    blocks = list(open_run(path, path.name).blocks(count))
    assert [block.shape[3] for block in blocks[:-1]] == [count] * (len(blocks) - 1)
    assert all(block.dtype == np.float32 for block in blocks)
    return np.concatenate(blocks, axis=3)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ", "a.img"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_frames_come_in_blocks(name: str, dtype: Any, tmp_path: Path) -> None:
    image = nib.Nifti1Image(_values(dtype), AFFINE) if name != "a.img" else nib.Nifti1Pair(_values(dtype), AFFINE)
    path = tmp_path / name
    if name.endswith("GZ"):
        path.write_bytes(gzip.compress(image.to_bytes()))
    else:
        nib.save(image, path)
    for count in (1, 3, 7, 20):
        np.testing.assert_array_equal(_read(path, count), _values(np.float32))
    run = open_run(path, "a")
    assert run.shape == SHAPE and run.grid.spacing == (2, 2, 2) and run.grid.orientation[0] == "L"


def test_nifti_2_big_endian_and_scaling(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(_values(), AFFINE), tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(_read(tmp_path / "two.nii.gz"), _values(np.float32))
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    nib.save(nib.Nifti1Image(_values(), AFFINE, header), tmp_path / "big.nii")
    np.testing.assert_array_equal(_read(tmp_path / "big.nii"), _values(np.float32))
    save_with(tmp_path / "scaled.nii.gz", _values(), AFFINE, scl_slope=0.5, scl_inter=3)
    np.testing.assert_array_equal(_read(tmp_path / "scaled.nii.gz"), _values(np.float32) / 2 + 3)


@pytest.mark.parametrize(
    ("unit", "value", "seconds"),
    [(8, 2.0, 2.0), (16, 2000, 2.0), (24, 720000, 0.72), (0, 1.5, 1.5), (8, 0, None), (8, np.nan, None), (32, 2, None)],
)
def test_the_header_tells_seconds_by_its_unit(unit: int, value: float, seconds: float | None, tmp_path: Path) -> None:
    pixdim = np.array([1, 2, 2, 2, value, 0, 0, 0])
    run = open_run(save_with(tmp_path / "a.nii", _values(), AFFINE, pixdim=pixdim, xyzt_units=2 | unit), "a")
    assert run.repetition_time == seconds and run.names_unit_of_time == (unit != 0)


def test_a_trailing_axis_of_one_is_none(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(_values()[..., None], AFFINE), tmp_path / "a.nii")
    assert open_run(tmp_path / "a.nii", "a").shape == SHAPE


def _cut(content: bytes) -> bytes:
    return gzip.compress(content)[:-40]


def _too_few(content: bytes) -> bytes:
    return gzip.compress(content[:-100])


def _wrong_checksum(content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content))
    packed[-6] ^= 0xFF
    return bytes(packed)


DAMAGE = {
    "truncated gz": (_cut, "is a (truncated|damaged) gzip file"),
    "fewer frames": (_too_few, "is truncated"),
    "checksum": (_wrong_checksum, "is a damaged gzip file"),
    "no gzip": (lambda content: content, "is not a gzip file"),
    "empty": (lambda content: b"", "is an empty file"),
    "pointer": (lambda content: b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    "page": (lambda content: gzip.compress(b"<html>" * 2000), "is not a NIfTI file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_sentence(damage: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**15, (12, 12, 12, 7)).astype(np.int16)
    write, sentence = DAMAGE[damage]
    (tmp_path / "a.nii.gz").write_bytes(write(nib.Nifti1Image(values, AFFINE).to_bytes()))
    with pytest.raises(Refusal, match=rf"^a\.nii\.gz {sentence}"):
        _read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.ones((4, 5, 6), np.int16), r"is 3-D \(4 x 5 x 6\) where a 4-D run"),
        (np.ones((4, 5, 6, 1), np.int16), "has one frame only"),
        (np.ones((4, 5, 6, 2, 3), np.int16), "is 4 x 5 x 6 x 2 x 3 where a run of numbers on four axes"),
        (np.ones((4, 5, 6, 2), np.complex64), "where a run of numbers on four axes"),
        (
            np.where(np.indices(SHAPE).sum(axis=0) == 17, np.nan, _values()),
            "has 1 voxels that are NaN or infinite from frame 5",
        ),
        (np.where(np.arange(7) == 5, np.inf, _values()), "has 120 voxels that are NaN or infinite from frame 5 on"),
    ],
)
def test_what_is_no_run_is_a_sentence(values: np.ndarray, sentence: str, tmp_path: Path) -> None:
    content = nib.Nifti1Image(values, AFFINE).to_bytes()
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(Refusal, match=sentence):
        _read(tmp_path / "a.nii")


def test_a_short_plain_file_is_known_before_it_is_read(tmp_path: Path) -> None:
    content = nib.Nifti1Image(_values(), AFFINE).to_bytes()
    (tmp_path / "a.nii").write_bytes(content[:-1])
    with pytest.raises(Refusal, match=r"is truncated \(\d+ of \d+ bytes\)"):
        open_run(tmp_path / "a.nii", "a.nii")
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(content))
    assert header.get_data_shape() == SHAPE
    with pytest.raises(Refusal, match="does not exist"):
        open_run(tmp_path / "b.nii", "b.nii")


def test_a_header_that_asks_for_more_than_there_is(tmp_path: Path) -> None:
    path = save_with(tmp_path / "a.nii.gz", _values(), AFFINE, vox_offset=2.0**62)
    with pytest.raises(Refusal, match="more than the memory of this machine"):
        _read(path)
