"""Paths in result files: found again elsewhere, and without anybody's name."""

from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.results.places import find_place, place_of


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    monkeypatch.setenv("nnUNet_raw", "/disk/raw")
    for variable in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("path", "beside", "place"),
    [
        ("/home/anna/out/a.pth", "/home/anna/out", "a.pth"),
        ("/home/anna/scans/labels", "/home/anna/scans/out", "../labels"),
        ("/home/anna/w.pth", "/data/out", "~/w.pth"),
        ("/home/anna/w.pth", "/home/bert/out", "~/w.pth"),
        ("/disk/raw/Dataset501_A/imagesTs", "/disk/out", "$nnUNet_raw/Dataset501_A/imagesTs"),
        ("/disk/raw/Dataset501_A/labelsTr", "/disk/raw/Dataset501_A/out", "../labelsTr"),
        ("/data/labels", "/scratch/out", "/data/labels"),
    ],
)
def test_places_lead_back(path: str, beside: str, place: str) -> None:
    assert place_of(path, beside=beside) == place
    assert find_place(place, beside=Path(beside)).resolve() == Path(path).resolve()


def test_a_relative_path_counts_from_the_result_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place_of("labels", beside="runs/out") == "../../labels"


@pytest.mark.parametrize("place", ["$PATH/ls", "$nnUNet_raw/../../etc", "$nnUNet_raw", "//host/share", "\\\\host\\a",
                                   "a\x00b", "$nnUNet_raw//etc"])  # fmt: skip
def test_places_of_a_forged_file_are_refused(place: str) -> None:
    with pytest.raises(InputError, match="is no path of a result file"):
        find_place(place, beside=Path("out"))


def test_a_folder_of_nnunet_that_is_not_set_here() -> None:
    with pytest.raises(InputError, match="nnUNet_results is not set"):
        find_place("$nnUNet_results/Dataset501_A", beside=Path("out"))
