"""Every entry of a folder of cases is taken, known, or named."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_folders import list_cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.nii", "a.nii.gz", "a.b.nii.gz"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_cases_and_their_companions(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("dataset.json", "plans.json", "predict_from_raw_data_args.json", "summary.json", "a.npz", "a.pkl",
                 "scores.csv", "README.md"):  # fmt: skip
        (folder / name).write_text("{}")
    (folder / "c.nii.gz").symlink_to(folder / "b.nii")
    found = list_cases(folder)
    assert {case: path.name for case, path in found.files.items()} == {
        "a": "a.nii.gz", "a.b": "a.b.nii.gz", "b": "b.nii", "c": "c.nii.gz",
    }  # fmt: skip
    assert not found.leftovers and not found.others and not caplog.records


def test_leftovers_are_counted_and_other_entries_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in ("._a.nii.gz", ".DS_Store", "Thumbs.db", f".{os.getpid()}.partial.a.nii.gz", "notes.doc", "older"):
        (folder / name).mkdir() if name == "older" else (folder / name).write_bytes(b"")
    found = list_cases(folder)
    assert set(found.files) == {"a", "a.b", "b"}
    assert len(found.leftovers) == 4 and found.others == ["notes.doc", "older"]
    assert "4 left-overs" in caplog.text and "notes.doc, older are no cases" in caplog.text


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a folder": ("c.nii.gz", Path.mkdir, "is a folder, expected a file"),
    "a pipe": ("c.nii.gz", os.mkfifo, "is a named pipe"),
    "a link to a device": ("c.nii", lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "a broken link": ("c.nii.gz", lambda path: path.symlink_to("/nowhere"), "link whose target /nowhere is not there"),
    "a link to itself": ("c.nii.gz", lambda path: path.symlink_to(path), "cannot be read"),
    "capitals": ("c.NII.GZ", Path.touch, "ends in .NII.GZ, which nnU-Net does not take for .nii.gz: rename it"),
    "hidden": (".c.nii.gz", Path.touch, "is hidden"),
    "NRRD": ("c.nrrd", Path.touch, "looks like an image but does not end in"),
    "a folder of another format": ("c.mha", Path.mkdir, "looks like an image"),
    "a pair": ("c.img", Path.touch, "looks like an image"),
    "an unfinished download": ("c.nii.gz.part", Path.touch, "looks like an image"),
    "another compression": ("c.nii.bz2", Path.touch, "looks like an image"),
    "two of one case": ("a.nii", Path.touch, "are the same case: remove one"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_might_be_a_case_is_named(fault: str, folder: Path) -> None:
    name, plant, sentence = FAULTS[fault]
    plant(folder / name)
    with pytest.raises(InputError, match=sentence) as error:
        list_cases(folder)
    assert name in str(error.value)


def test_folders_without_cases(folder: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder: give the folder that holds the images"):
        list_cases(folder / "nowhere", what="images")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no \.nii\.gz or \.nii file"):
        list_cases(folder / "empty")


def test_other_endings(folder: Path) -> None:
    (folder / "c_0000.nrrd").touch()
    for path in folder.glob("*.nii*"):
        path.unlink()
    assert set(list_cases(folder, endings=[".nrrd"]).files) == {"c_0000"}


def test_names_that_are_no_text(folder: Path) -> None:
    os.rename(os.fsencode(folder / "b.nii"), os.fsencode(folder) + b"/\xff\xfe.nii")
    assert set(list_cases(folder).files) == {"a", "a.b", "\udcff\udcfe"}
