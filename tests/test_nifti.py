"""Damage of a NIfTI file is noticed, whatever its kind."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nifti import read_nifti


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4000, (9, 8, 7)).astype(np.int16)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_values_are_those_stored(values: np.ndarray, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 2, 2, 1])), path)
    image, found = read_nifti(path)
    assert np.array_equal(found, values) and image.affine[0, 0] == 2


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("kept", [0, 200, 0.5, 0.95])
def test_a_file_that_ends_early_is_refused(values: np.ndarray, ending: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(InputError, match=f"a.{ending} cannot be read as NIfTI .*: copy or write it again"):
        read_nifti(path)


def test_other_content_is_refused(tmp_path: Path) -> None:
    for name, content in {"a.nii.gz": gzip.compress(b"x" * 999), "b.nii": b"<html>", "c.nii.gz": b"<html>"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as NIfTI"):
            read_nifti(tmp_path / name)
