"""One rule for what a label value is."""

from pathlib import Path

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Image

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.label_values import histogram, read_labels, whole_numbers
from bdfm_nnunet.images.volumes import read_volume
from tests.images.headers import LPS, save_with

LABELS = np.arange(4, dtype=np.uint8).reshape(1, 2, 2).repeat(3, axis=0)


@pytest.mark.parametrize("scale", range(2, 86))
def test_scaled_labels_are_whole(scale: int, tmp_path: Path) -> None:
    """The slope is the inverse of a number in single precision; with an intercept too."""
    stored = (LABELS.astype(np.int16) + 2) * np.int16(scale)
    path = save_with(tmp_path / "a.nii", stored, scl_slope=1 / scale, scl_inter=-2)
    found = whole_numbers(read_volume(path, "a"))
    assert found.dtype.kind in "iu"
    np.testing.assert_array_equal(found, LABELS)


@pytest.mark.parametrize("type_", [np.float32, np.float64])
def test_noise_of_single_precision_is_none(type_: type, tmp_path: Path) -> None:
    values = LABELS.astype(type_)
    noisy = np.nextafter(values.astype(np.float32), np.float32(-1)).astype(
        type_
    )  # just below: cut off they are 0, 1, 2
    for changed in (noisy, values * (1 + 2e-7)):
        Nifti1Image(changed.astype(type_), LPS).to_filename(tmp_path / "a.nii")
        np.testing.assert_array_equal(whole_numbers(read_volume(tmp_path / "a.nii", "a")), LABELS)


@pytest.mark.parametrize(
    ("value", "shown"), [(1.5, "1.5"), (0.99999, "0.99999"), (1.000004, "1.000004"), (np.nan, "nan"), (1e30, "1e[+]30")]
)
def test_other_values_are_refused_with_all_their_digits(value: float, shown: str, tmp_path: Path) -> None:
    values = LABELS.astype(np.float64)
    values[0, 0, 0] = value
    Nifti1Image(values, LPS).to_filename(tmp_path / "a.nii")
    with pytest.raises(Refusal, match=f"a has 1 voxels with values such as {shown} where whole-number"):
        whole_numbers(read_volume(tmp_path / "a.nii", "a"))


def test_values_that_are_not_allowed(tmp_path: Path) -> None:
    path = save_with(tmp_path / "a.nii.gz", LABELS)
    volume, labels = read_labels(path, allowed=[0, 1, 2, 3], remedy="map it")
    assert labels.dtype == np.int16 and volume.spacing == [1, 1, 2]
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(Refusal, match=r"a\.nii\.gz holds the value 3, expected only \[0, 1, 2\]: map it"):
        read_labels(path, allowed=[0, 1, 2], remedy="map it")
    Nifti1Image(-LABELS.astype(np.int16), LPS).to_filename(path)
    with pytest.raises(Refusal, match="holds the value -3"):
        read_labels(path, allowed=[0, 1, 2, 3], remedy="map it")
    large = save_with(path, LABELS.astype(np.int32) * 20_000)
    assert read_labels(large, allowed=[0, 20_000, 40_000, 60_000], remedy="")[1].max() == 60_000


@pytest.mark.parametrize("low", [-2, 0, 250])
@pytest.mark.parametrize("type_", [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("spread", [1, 5, 300])
def test_histogram_counts_every_value(low: int, type_: type, spread: int) -> None:
    random = np.random.default_rng(0)
    limits = np.iinfo(type_)
    whole = (low + random.integers(0, spread, (9, 8, 7)) * 3).clip(int(limits.min), int(limits.max)).astype(type_)
    values, counts = np.unique(whole, return_counts=True)
    assert histogram(whole) == dict(zip(values.tolist(), counts.tolist()))
