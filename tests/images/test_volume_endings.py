"""Which names are those of volumes."""

import pytest

from bdfm_nnunet.images.volume_endings import unread_ending, without_ending


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.GZ", ".Nii", ".nii.GZ", ".img", ".IMG", ".hdr", ".Hdr"])
def test_volumes_that_are_read_in_letters_of_any_size(ending: str) -> None:
    assert without_ending(f"a.b/C_T1{ending}") == "a.b/C_T1" and unread_ending(f"C_T1{ending}") is None


@pytest.mark.parametrize("ending", [".mgz", ".MGZ", ".nrrd", ".mha", ".dcm", ".DCM", ".img.gz", ".BRIK.gz", ".nii.bz2"])
def test_volumes_of_other_forms(ending: str) -> None:
    assert unread_ending(f"a/C_T1{ending}") == ending.lower() and without_ending(f"a/C_T1{ending}") is None


@pytest.mark.parametrize("name", ["a.txt", "nii", "a.json", "a.nii.gz.md5", "participants.tsv", "a.gz", "a.npz"])
def test_other_files(name: str) -> None:
    assert without_ending(name) is None and unread_ending(name) is None
