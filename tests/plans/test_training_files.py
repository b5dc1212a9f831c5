"""Training cases of data sets of strangers."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans import preprocessing
from bdfm_nnunet.plans.training_files import find_training_files

DESCRIPTION = {
    "channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz",
}  # fmt: skip
BAD = {
    "nested": b"[" * 100_000, "a long number": b'{"a": ' + b"9" * 5000 + b"}", "no UTF-8": b"\xff\xfe{}", "empty": b"",
    "a list": b"[]", "a number": b"5", "null": b"null", "a text": b'"x"', "no entries": b"{}",
    "NaN": b'{"labels": NaN}', "twice": b'{"labels": 1, "labels": 2}',
}  # fmt: skip


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_raw" / "Dataset501_Tiny"
    for name in ("imagesTr/a_0000", "imagesTr/b_0000", "labelsTr/a", "labelsTr/b"):
        (folder / f"{name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.nii.gz").touch()
    (folder / "dataset.json").write_text(json.dumps(DESCRIPTION))
    return folder


def _listed(raw: Path, case: str, **changes: Any) -> None:
    entry = {"images": [str(raw / "imagesTr/a_0000.nii.gz")], "label": str(raw / "labelsTr/a.nii.gz")} | changes
    (raw / "dataset.json").write_text(json.dumps(DESCRIPTION | {"dataset": {case: entry}}))


def test_cases_are_those_of_nnunet(raw: Path) -> None:
    found = find_training_files(raw)
    assert list(found) == ["a", "b"]
    assert found["a"]["images"] == [str(raw / "imagesTr" / "a_0000.nii.gz")]
    _listed(raw, "own")
    assert list(find_training_files(raw)) == ["own"]


@pytest.mark.parametrize("name", ["imagesTr/._a_0000.nii.gz", "labelsTr/._a.nii.gz"])
def test_a_left_over_that_nnunet_would_take_is_named(raw: Path, name: str) -> None:
    (raw / "imagesTr" / ".DS_Store").touch()  # does no harm
    assert len(find_training_files(raw)) == 2
    (raw / name).write_bytes(b"left by a Mac")
    with pytest.raises(InputError, match=r"\._a.*is a left-over of another system.*delete it, `find .* -delete`"):
        find_training_files(raw)


@pytest.mark.parametrize("what", BAD)
def test_a_damaged_description_is_a_sentence(
    raw: Path, what: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (raw / "dataset.json").write_bytes(BAD[what])
    assert cli.main(["plan", "-d", "501", "--workers", "1"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("bdfm: error:"))
    assert str(raw / "dataset.json") in line
    assert not [path for path in (tmp_path / "nnUNet_preprocessed").rglob("*") if path.is_file()]


@pytest.mark.parametrize("case", ["../../../escape", "/tmp/escape", "a/b", ".hidden", "x" * 300])
def test_ids_that_are_paths_are_refused(raw: Path, case: str, tmp_path: Path) -> None:
    _listed(raw, case)
    assert cli.main(["plan", "-d", "501", "--workers", "1"]) == 2
    assert not list(tmp_path.rglob("*escape*"))


@pytest.mark.parametrize("change", [{"images": []}, {"images": 5}, {"label": None}, {"label": 7}])
def test_cases_without_files_are_refused(raw: Path, change: dict[str, Any]) -> None:
    _listed(raw, "own", **change)
    with pytest.raises(InputError, match=r"dataset\.json"):
        find_training_files(raw)


def test_a_missing_folder_of_images(raw: Path) -> None:
    for path in (raw / "imagesTr").iterdir():
        path.unlink()
    (raw / "imagesTr").rmdir()
    with pytest.raises(InputError):
        find_training_files(raw)


def test_a_reading_process_that_died_is_named_with_both_of_its_causes(tmp_path: Path) -> None:
    found = pytest.raises(InputError, match=r"has died: give fewer --workers .* `if __name__ == \"__main__\":`")
    with found as caught, preprocessing._as_input_errors(f"{tmp_path} is no valid nnU-Net data set"):
        raise RuntimeError("Some background worker is 6 feet under. Yuck. \nOK jokes aside.")
    assert "6 feet" not in str(caught.value)
