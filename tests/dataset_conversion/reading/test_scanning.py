"""What is found in a download, and what becomes of everything else in it."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion import RELEASES
from bdfm_nnunet.dataset_conversion.reading.scanning import Scan, scan
from bdfm_nnunet.dataset_conversion.release import LABEL, Release, Repair, Source
from bdfm_nnunet.errors import InputError
from tests.dataset_conversion.trees import TREES, make_tree

PLAIN = Release(
    name="made-up",
    title="made up",
    dataset_name="MadeUp",
    case_pattern=r"case\d+",
    patient_pattern=r"^(case\d+)$",
    channels={"a": Source(r"(?:.*/)?{case}/a"), "b": Source(r"(?:.*/)?{case}/b")},
    extra_channels={"c": Source(r"(?:.*/)?{case}/c")},
    label=(Source(r"(?:.*/)?by_hand/{case}", kind="manual"), Source(r"(?:.*/)?{case}/seg", kind="automated")),
    labels={1: "one"},
    regions={"one": (1,)},
)


def plant(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def files_of(found: Scan) -> dict[str, dict[str, list[str]]]:
    return {case: content.files for case, content in found.cases.items()}


@pytest.mark.parametrize("name", TREES)
def test_every_tree_is_found_whole(name: str, tmp_path: Path) -> None:
    """Each planted case, in the order of ids, and nothing else; the same at every call."""
    planted = make_tree(name, tmp_path / "download")
    found = scan(tmp_path / "download", RELEASES[name])
    assert list(found.cases) == sorted(planted.statuses)
    assert {case for case, content in found.cases.items() if content.test} == planted.test
    assert len(found.junk) == planted.junk
    assert scan(tmp_path / "download", RELEASES[name]) == found
    used = {path for content in found.cases.values() for paths in content.files.values() for path in paths}
    assert all((tmp_path / "download" / path).is_file() for path in used)
    assert not used & set(found.unused)


def test_files_are_sorted_by_case_and_role(tmp_path: Path) -> None:
    plant(tmp_path, "x/case2/b.nii.gz", "x/case2/a.nii", "case1/a.nii.gz", "case1/seg.nii.gz", "notes.txt", "odd.nii")
    found = scan(tmp_path, PLAIN)
    assert files_of(found) == {
        "case1": {"a": ["case1/a.nii.gz"], LABEL: ["case1/seg.nii.gz"]},
        "case2": {"a": ["x/case2/a.nii"], "b": ["x/case2/b.nii.gz"]},
    }
    assert found.unused == ["odd.nii"]


def test_two_files_for_one_role_are_both_named(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case1/a.nii.gz", "copy/case1/b.nii.gz", "case1/b.nii.gz")
    assert files_of(scan(tmp_path, PLAIN))["case1"] == {
        "a": ["case1/a.nii", "case1/a.nii.gz"],
        "b": ["case1/b.nii.gz", "copy/case1/b.nii.gz"],
    }


def test_the_preferred_alternative_is_taken(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case1/seg.nii", "case2/a.nii", "case2/seg.nii", "by_hand/case2.nii")
    found = scan(tmp_path, PLAIN)
    assert found.cases["case1"].kinds == {LABEL: "automated"}
    assert found.cases["case2"].kinds == {LABEL: "manual"}
    assert found.cases["case2"].files[LABEL] == ["by_hand/case2.nii"]
    assert found.unused == []


def test_what_has_files_missing_is_a_case(tmp_path: Path) -> None:
    """An empty folder, one with other files, and a label whose images are nowhere."""
    plant(tmp_path, "case1/a.nii", "case2/readme.txt", "by_hand/case4.nii")
    (tmp_path / "case3").mkdir()
    assert {case: list(files) for case, files in files_of(scan(tmp_path, PLAIN)).items()} == {
        "case1": ["a"], "case2": [], "case3": [], "case4": [LABEL],
    }  # fmt: skip


def test_pairs_count_once(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.img", "case1/a.hdr", "case1/b.hdr", "other.img", "other.hdr")
    found = scan(tmp_path, PLAIN)
    assert files_of(found)["case1"] == {"a": ["case1/a.img"], "b": ["case1/b.hdr"]}
    assert found.unused == ["other.img"]


def test_junk_is_named(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case1/._a.nii", "__MACOSX/case2/a.nii", ".DS_Store", "case1/Thumbs.db")
    found = scan(tmp_path, PLAIN)
    assert sorted(found.junk) == [".DS_Store", "__MACOSX/", "case1/._a.nii", "case1/Thumbs.db"]
    assert list(found.cases) == ["case1"]


def test_linked_folders_are_walked_once(tmp_path: Path) -> None:
    plant(tmp_path / "elsewhere", "case1/a.nii")
    (tmp_path / "download").mkdir()
    for name in ("one", "two"):
        (tmp_path / "download" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "download")
    assert files_of(scan(tmp_path / "download", PLAIN)) == {"case1": {"a": ["one/case1/a.nii"]}}


def test_the_data_set_being_written_is_left_out(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "out/case2/a.nii")
    assert list(scan(tmp_path, PLAIN, leave_out=tmp_path / "out").cases) == ["case1"]


def test_only_some_cases(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case2/a.nii", "case12/a.nii")
    assert list(scan(tmp_path, PLAIN, only="case1|case12").cases) == ["case1", "case12"]
    assert list(scan(tmp_path, PLAIN, only="case1").cases) == ["case1"]
    with pytest.raises(InputError, match="none of the 3 cases has an id"):
        scan(tmp_path, PLAIN, only="case")
    with pytest.raises(InputError, match="no regular expression"):
        scan(tmp_path, PLAIN, only="case(")


def test_channels_on_request(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case1/c.nii", "case2/c.nii")
    found = scan(tmp_path, replace(PLAIN, case_folder=""))
    assert files_of(found) == {"case1": {"a": ["case1/a.nii"]}}
    assert found.unused == []
    assert [re.sub(r"\d+", "N", note) for note in found.notes] == [
        "files of channels that were not asked for were left aside: c (N)",
        "N cases have none but such channels and are left out, for instance caseN",
    ]
    asked = scan(tmp_path, PLAIN.with_channels(["c", "a"]))
    assert list(files_of(asked)["case1"]) == ["c", "a"] and asked.notes == []
    with pytest.raises(InputError, match="made-up has no channel 'd': choose among a, b, c"):
        PLAIN.with_channels(["d"])
    with pytest.raises(InputError, match="each once"):
        PLAIN.with_channels(["a", "a"])


def test_stand_ins_of_repairs(tmp_path: Path) -> None:
    repair = Repair("case1|case2", "it has another name", files={LABEL: r"(?:.*/)?{case}/W39"})
    release = replace(PLAIN, repairs=(repair,))
    plant(tmp_path, "case1/W39.nii", "case2/W39.nii", "case2/seg.nii", "case3/W39.nii")
    found = scan(tmp_path, release)
    assert found.cases["case1"].files[LABEL] == ["case1/W39.nii"]
    assert found.cases["case1"].repaired == ["it has another name"]
    assert found.cases["case2"].files[LABEL] == ["case2/seg.nii"] and not found.cases["case2"].repaired
    assert sorted(found.unused) == ["case2/W39.nii", "case3/W39.nii"]


def test_replacements_settle_a_clash(tmp_path: Path) -> None:
    release = replace(PLAIN, replacements="fixed")
    plant(tmp_path, "case1/a.nii", "fixed/case1/a.nii", "fixed/case1/b.nii", "case2/a.nii", "copy/case2/a.nii")
    found = scan(tmp_path, release)
    assert found.cases["case1"].files == {"a": ["fixed/case1/a.nii"], "b": ["fixed/case1/b.nii"]}
    assert found.cases["case1"].repaired == [
        "fixed/case1/a.nii was published in place of another file for a and is used"
    ]
    assert len(found.cases["case2"].files["a"]) == 2


def test_part_without_labels_may_be_the_download_itself(tmp_path: Path) -> None:
    release = replace(PLAIN, unlabelled_part="(?i:validation)")
    root = plant(tmp_path / "ValidationData", "case1/a.nii", "case2/a.nii", "case2/seg.nii")
    assert {case: content.test for case, content in scan(root, release).cases.items()} == {
        "case1": True, "case2": False,
    }  # fmt: skip
    assert not scan(plant(tmp_path / "Data", "case1/a.nii"), release).cases["case1"].test


def test_nothing_of_the_release(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        scan(tmp_path / "nowhere", PLAIN)
    with pytest.raises(InputError, match=r"case0/a\.nii\.gz were expected, there is no \.nii"):
        scan(tmp_path, PLAIN)
    with pytest.raises(InputError, match=r"there is for instance odd\.nii"):
        scan(plant(tmp_path, "odd.nii"), PLAIN)


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even for root, whom permissions do not stop."""
    plant(tmp_path, "case1/a.nii", "closed/a.nii")
    real = os.scandir

    def refuse(folder: str) -> Any:
        if str(folder).endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(InputError, match=r"closed cannot be read \(Permission denied\)"):
        scan(tmp_path, PLAIN)


# ------------------------------------------------------------------------------------ nothing is passed over in silence


def test_endings_in_letters_of_any_size(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.NII.GZ", "case1/b.Nii", "case2/a.IMG", "case2/a.HDR", "case2/b.nii.gz", "odd.NII")
    found = scan(tmp_path, PLAIN)
    assert files_of(found) == {
        "case1": {"a": ["case1/a.NII.GZ"], "b": ["case1/b.Nii"]},
        "case2": {"a": ["case2/a.IMG"], "b": ["case2/b.nii.gz"]},
    }
    assert found.unused == ["odd.NII"]


def test_volumes_of_other_forms_are_counted_and_named(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case1/b.mgz", "x/1.dcm", "x/2.DCM", "readme.txt")
    found = scan(tmp_path, PLAIN)
    assert found.unused == ["case1/b.mgz", "x/1.dcm", "x/2.DCM"]
    assert found.notes == [
        "volumes of a form that is not read, .dcm and .mgz (3): case1/b.mgz, x/1.dcm, x/2.DCM; export them as .nii.gz "
        "to use them"
    ]
    with pytest.raises(InputError, match=r"not read, \.mgz \(1\): b\.mgz"):
        scan(plant(tmp_path / "other", "b.mgz"), PLAIN)


def test_hidden_folders_are_not_looked_into_but_named(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", ".git/annex/case2/a.nii", "case1/.cache/case3/a.nii", ".case4/a.nii")
    found = scan(tmp_path, PLAIN)
    assert list(found.cases) == ["case1"] and not found.unused
    assert found.notes == [
        "folders whose names begin with a dot, which were not looked into (3): .case4, .git, case1/.cache"
    ]
    assert list(scan(plant(tmp_path / ".hidden", "case1/a.nii"), PLAIN).cases) == ["case1"]


def test_links_that_lead_nowhere_and_folders_like_volumes_are_named(tmp_path: Path) -> None:
    plant(tmp_path, "case1/a.nii", "case2_a.nii/x.txt")
    (tmp_path / "case3").symlink_to("nowhere")
    (tmp_path / "case1/b.nii").symlink_to("nowhere")
    found = scan(tmp_path, PLAIN)
    assert files_of(found) == {"case1": {"a": ["case1/a.nii"], "b": ["case1/b.nii"]}}
    assert found.notes == [
        "folders that are named like a volume, which were looked into (1): case2_a.nii",
        "links whose targets are not there, to be fetched first (in a DataLad data set with `datalad get`) (1): case3",
    ]


# ------------------------------------------------------------------------------------------ one file over several paths


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_one_file_over_two_paths_is_no_clash(how: str, tmp_path: Path) -> None:
    plant(tmp_path, "z/case1/a.nii", "case1/b.nii", "copy/case1/b.nii")
    (tmp_path / "case1").mkdir(exist_ok=True)
    getattr(tmp_path / "case1/a.nii", how)(tmp_path / "z/case1/a.nii")
    found = scan(tmp_path, PLAIN)
    kept = "z/case1/a.nii" if how == "symlink_to" else "case1/a.nii"
    assert files_of(found)["case1"] == {"a": [kept], "b": ["case1/b.nii", "copy/case1/b.nii"]}
    assert [note for note in found.notes if "found already (1)" in note]


@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_a_case_that_is_another_path_to_the_files_of_a_case_counts_once(how: str, tmp_path: Path) -> None:
    plant(tmp_path, "store/7f.nii", "sub-02.nii")
    getattr(tmp_path / "sub-01.nii", how)(tmp_path / "store/7f.nii")
    found = scan(tmp_path, RELEASES["folder"])
    kept, other = ("store_7f", "sub-01")
    assert list(found.cases) == [kept, "sub-02"]
    assert found.notes == [f"cases that are other paths to the files of a case (1): {other} (the files of {kept})"]


def test_cases_that_share_some_of_their_files_stay(tmp_path: Path) -> None:
    """As in stores that keep equal content once: two empty masks may be one file."""
    plant(tmp_path, "case1/a.nii", "case2/a.nii", "case1/seg.nii", "case3/a.nii")
    (tmp_path / "case2/seg.nii").symlink_to(tmp_path / "case1/seg.nii")
    (tmp_path / "case3/seg.nii").symlink_to("nowhere")
    found = scan(tmp_path, PLAIN)
    assert list(found.cases) == ["case1", "case2", "case3"] and not found.notes
    assert all(len(content.files) == 2 for content in found.cases.values())


def test_test_cases_all_stay(tmp_path: Path) -> None:
    plant(tmp_path, "test/case1/a.nii")
    (tmp_path / "test/case2").mkdir()
    (tmp_path / "test/case2/a.nii").symlink_to(tmp_path / "test/case1/a.nii")
    assert list(scan(tmp_path, replace(PLAIN, unlabelled_part="test")).cases) == ["case1", "case2"]
