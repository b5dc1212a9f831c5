import pytest

from bdfm_nnunet.leftovers import is_leftover, is_leftover_folder


@pytest.mark.parametrize("name", ["._case_0000.nii.gz", ".DS_Store", "Thumbs.db", "THUMBS.DB", "desktop.ini"])
def test_left_overs(name: str) -> None:
    assert is_leftover(name)


@pytest.mark.parametrize("name", ["case.nii.gz", ".hidden", "_case", "thumbs.db.nii.gz"])
def test_other_files(name: str) -> None:
    assert not is_leftover(name)


def test_folders() -> None:
    assert is_leftover_folder("__MACOSX") and not is_leftover_folder("MACOSX")
