"""Cases are found under any legal names, at any level; faults are those of one case."""

import os
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.containers.input_cases import ChannelNames, InputCase, find_inputs
from bdfm_nnunet.errors import InputError

NAMES = ChannelNames(("t1n", "t1c", "t2w", "t2f"), ("t2w",))
FOUR = ("t1n", "t1c", "t2w", "t2f")


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.mkdir() if path.endswith("/") else target.touch()
    return root


def four(folder: str, before: str | None = None, mark: str = "-", channels: Any = FOUR) -> list[str]:
    name = folder.rpartition("/")[2] if before is None else before
    return [f"{folder}/{name}{mark}{channel}.nii.gz" for channel in channels]


def found(root: Path) -> dict[str, InputCase]:
    return {case.name: case for case in find_inputs(root, NAMES)[0]}


LAYOUTS = {
    "BraTS": (four("BraTS-MET-00001-000"), ["BraTS-MET-00001-000"]),
    "time points": ([*four("P-00001-000"), *four("P-00001-001")], ["P-00001-000", "P-00001-001"]),
    "spaces, dashes, marks": (
        [*four("a b"), *four("-rf"), *four("-- x"), *four("é漢"), *four("a\nb"), *four("a'\"$`b")],
        ["-- x", "-rf", "a\nb", "a b", "a'\"$`b", "é漢"],
    ),
    "a hidden case": (four(".hidden"), [".hidden"]),
    "a folder in between": (four("batch 1/session/C1"), ["C1"]),
    "the same folder twice": (four("C1/C1"), ["C1"]),
    "sessions": ([*four("s1/ses"), *four("s2/ses")], ["s1_ses", "s2_ses"]),
    "one folder for several cases": ([*four("all", "A"), *four("all", "B")], ["A", "B"]),
    "files at the top": ([*four(".", "A", "_"), *four(".", "B")], ["A", "B"]),
    "nnU-Net": (four(".", "A", "_", [f"{n:04d}" for n in range(4)]), ["A"]),
    "other names": (["C/x_T1.nii", "C/y_T1-Gd.NII.GZ", "C/flair.nii.gz", "C/T2.hdr", "C/T2.img"], ["C"]),
    "left-overs": ([*four("C"), "C/._C-t1n.nii.gz", ".DS_Store", "__MACOSX/C/C-t1n.nii.gz", ".git/t1n.nii.gz"], ["C"]),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    paths, names = LAYOUTS[layout]
    cases = found(tree(tmp_path, *paths))
    assert list(cases) == sorted(names)
    for case in cases.values():
        assert list(case.files) == list(FOUR) and not case.faults


@pytest.mark.parametrize(
    ("paths", "fault"),
    [
        (four("C", channels=("t1n", "t1c", "t2w")), "it has no t2f"),
        ([*four("C", mark="_", channels=FOUR[1:]), "C/a_t1.nii.gz", "C/b_t1.nii.gz"], "it has 2 files for t1n"),
        (["C/"], "its folder holds no image"),
        (["C/notes.txt"], "its folder holds no image"),
        (["C/one.nii.gz", "C/two.nii.gz"], "none of its files (one.nii.gz, two.nii.gz) is called after one of t1n"),
    ],
)
def test_faults_are_those_of_one_case(paths: list[str], fault: str, tmp_path: Path) -> None:
    cases = found(tree(tmp_path, *paths, *four("good")))
    assert not cases["good"].faults
    assert len(cases["C"].faults) == 1 and fault in cases["C"].faults[0]


def test_what_may_be_missing_and_what_is_left_aside(tmp_path: Path) -> None:
    tree(tmp_path, *four("C", channels=("t1n", "t1c", "t2f")), "C/C-seg.nii.gz", "labels/C/seg.nii.gz")
    (case,) = find_inputs(tmp_path, NAMES)[0]
    assert list(case.files) == ["t1n", "t1c", "t2f"] and not case.faults
    assert case.notes == ["files that are no images of the model were left aside: C-seg.nii.gz"]


def test_of_two_files_that_of_the_usual_name_is_taken(tmp_path: Path) -> None:
    tree(tmp_path, *four("C"), "C/C-t1n.nii", "C/other_t1c.nii.gz", "C/C-t1ce.nii.gz")
    (case,) = find_inputs(tmp_path, NAMES)[0]
    assert case.files["t1n"].name == "C-t1n.nii.gz" and case.files["t1c"].name == "C-t1c.nii.gz"
    assert any("not C-t1n.nii" in note for note in case.notes) and len(case.notes) == 2


def test_links_lost_and_in_circles(tmp_path: Path) -> None:
    tree(tmp_path, *four("C"), *four("store/D"))
    os.symlink(tmp_path, tmp_path / "C" / "up")
    os.symlink(tmp_path / "store" / "D", tmp_path / "E")
    os.symlink(tmp_path / "nowhere", tmp_path / "lost")
    assert list(found(tmp_path)) in (["C", "E"], ["C", "D"])  # a folder counts once, by whichever path


@pytest.mark.parametrize("paths", [["notes.txt"], ["labels/seg.nii.gz"], []])
def test_no_case_at_all(paths: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no case: expected a folder for each"):
        find_inputs(tree(tmp_path, *paths), NAMES)


def test_a_modality_takes_the_place_of_another(tmp_path: Path) -> None:
    names = ChannelNames(("flair", "t2s"), (), {"t2s": "swi", "swi": "t2s"})
    tree(tmp_path, "A/flair.nii.gz", "A/swi.nii.gz", "B/flair.nii.gz", "B/swi.nii.gz", "B/t2s.nii.gz")
    one, two = find_inputs(tmp_path, names)[0]
    assert one.files["t2s"].name == "swi.nii.gz" and one.notes == ["swi.nii.gz takes the place of t2s"]
    assert two.files["t2s"].name == "t2s.nii.gz" and not two.notes
