"""Entries for any folders and for BIDS."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, convert
from bdfm_nnunet.dataset_conversion.path_patterns import path_pattern
from bdfm_nnunet.dataset_conversion.reading.bids_layout import bids_release
from bdfm_nnunet.dataset_conversion.reading.folder_layout import expression_of, folder_release
from bdfm_nnunet.dataset_conversion.reading.scanning import scan
from bdfm_nnunet.dataset_conversion.release import LABEL, Release, Source
from bdfm_nnunet.dataset_conversion.release_json import check_entry
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from tests.dataset_conversion.planting import Planter
from tests.dataset_conversion.trees import make_tree


@pytest.mark.parametrize(
    ("pattern", "path", "case"),
    [
        ("**/{case}/{case}_T1", "a/b/p1/p1_T1", "p1"),
        ("**/{case}/{case}_T1.nii.gz", "p1/p1_T1", "p1"),
        ("**/{case}/{case}_T1", "p1/p2_T1", None),
        ("**/{case}/{case}_T1", "p1/p1_T1c", None),
        ("{case}/t1", "p1/t1", "p1"),
        ("{case}/t1", "x/p1/t1", None),
        ("./train/{case}_?.img", "train/p1_7", "p1"),
        ("*/{case}-*", "x/p1-y", "p1"),
        ("*/{case}-*", "x/z/p1-y", None),
        ("**/{case}_T1+c (1)", "p1_T1+c (1)", "p1"),
        ("a/**/{case}", "a/b/c/p1", "p1"),
    ],
)
def test_patterns_in_the_style_of_a_shell(pattern: str, path: str, case: str | None) -> None:
    match = path_pattern(expression_of(pattern), r"[^/]+?").fullmatch(path)
    assert (match and match.group("case")) == case


def test_folders_with_labels(tmp_path: Path, raw: Path) -> None:
    planter = Planter(tmp_path / "download", 0)
    labels = {}
    for case in ("p1_day1", "p1_day2", "p2_day1"):
        for name in ("T1", "T2"):
            planter.image(f"site/{case}/{case}_{name}.nii.gz")
        labels[case] = planter.label(f"masks/{case}.nii.gz", (2, 5))
    release = folder_release(
        {"t1": "**/{case}/{case}_T1", "t2": "**/{case}/{case}_T2"},
        label="masks/{case}",
        labels={2: "core", 5: "rim of it"},
        patient=r"^(p\d)",
        name="Own",
    )
    check_entry(release)
    report = convert(release, tmp_path / "download", dataset_id=7)
    assert report.folder.name == "Dataset007_Own"
    assert [record.patient for record in report.good] == ["p1", "p1", "p2"]
    for case, label in labels.items():
        written = np.asarray(nib.load(report.folder / f"labelsTr/{case}.nii.gz").dataobj)
        np.testing.assert_array_equal(written, np.select([label == 2, label == 5], [1, 2]))


def test_every_volume_is_a_case_with_the_path_as_id(tmp_path: Path) -> None:
    make_tree("folder", tmp_path / "download")
    found = scan(tmp_path / "download", RELEASES["folder"])
    assert {case: content.files for case, content in found.cases.items()} == {
        "one_T1": {"image": ["one/T1.nii.gz"]},
        "two_deep_T1": {"image": ["two/deep/T1.nii"]},
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"images": {}}, "no image pattern"),
        ({"images": {"a": "x/y"}}, "does not tell the case"),
        ({"images": {"a": "{case}"}, "label": "seg"}, "does not tell the case"),
        ({"images": {"a": "{case}"}, "labels": {1: "x"}}, "no label file"),
        ({"images": {"a": "{case}"}, "patient": "("}, "no regular expression"),
        ({"images": {"a": "{case}"}, "patient": "p1"}, "has no group"),
        ({"images": {"a": "{case}"}, "name": "a/b"}, "no good for a folder"),
        ({"images": {"a": "{case}_x", "b": "./{case}_x.NII.gz"}}, "channel a and channel b have the same pattern"),
        ({"images": {"a": "{case}_x"}, "label": "{case}_x"}, "channel a and the label have the same pattern"),
        ({"images": {" ": "{case}_x"}}, "a channel cannot be called ' '"),
        ({"images": {"label": "{case}_x"}, "label": "{case}_y"}, "a channel cannot be called label"),
        ({"images": {"a": "{case}_x"}, "label": "{case}_y", "labels": {1: "a", 2: "a"}}, "both called 'a'"),
        ({"images": {"a": "{case}_x"}, "label": "{case}_y", "labels": {0: "air", 1: "a"}}, "0 is the background"),
    ],
)
def test_bad_patterns(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        folder_release(**settings)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- BIDS


@pytest.mark.parametrize("suffix", ["T1w", "FLAIR", "bold"])
def test_bids_finds_the_files_that_pybids_finds(suffix: str, tmp_path: Path) -> None:
    from bids import BIDSLayout

    make_tree("bids", tmp_path / "download")
    layout = BIDSLayout(tmp_path / "download")
    expected = set(layout.get(suffix=suffix, extension=["nii", "nii.gz"], return_type="filename"))
    found = scan(tmp_path / "download", bids_release([suffix]))
    files = [path for content in found.cases.values() for path in content.files[suffix]]
    assert {str(tmp_path / "download" / path) for path in files} == expected
    assert len(files) == len(expected) > 0
    for case, content in found.cases.items():
        (entry,) = layout.get(suffix=suffix, extension=["nii", "nii.gz"], **_entities(case))
        assert entry.relpath == content.files[suffix][0]


def _entities(case: str) -> dict[str, object]:
    """What pybids calls the parts of an id; the parts that are not there must not be there."""
    from bids.layout import Query

    names = {"sub": "subject", "ses": "session", "acq": "acquisition", "run": "run", "task": "task"}
    parts = dict(part.split("-") for part in case.split("_"))
    return {
        long: (int(parts[short]) if short == "run" else parts[short]) if short in parts else Query.NONE
        for short, long in names.items()
    }


def test_bids_with_several_channels_and_a_label(tmp_path: Path) -> None:
    """A session is a case; entities choose among its files; labels are derivatives."""
    planter = Planter(tmp_path / "download", 0)
    for name in ("ses-1/anat/sub-01_ses-1_run-1_T1w", "ses-1/anat/sub-01_ses-1_run-2_T1w",
                 "ses-1/anat/sub-01_ses-1_FLAIR", "ses-2/anat/sub-01_ses-2_run-1_T1w"):  # fmt: skip
        planter.image(f"sub-01/{name}.nii.gz")
    planter.image("derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_space-T1w_label-lesion_mask.nii.gz")
    planter.image("derivatives/manual/sub-01/ses-1/anat/sub-01_ses-1_space-T1w_label-brain_mask.nii.gz")
    release = bids_release(["run-2_T1w", "FLAIR"], label="label-lesion_mask", labels={1: "lesion"})
    check_entry(release)
    found = scan(tmp_path / "download", release)
    assert {case: sorted(content.files) for case, content in found.cases.items()} == {
        "sub-01_ses-1": ["FLAIR", LABEL, "run-2_T1w"]
    }
    clash = scan(tmp_path / "download", bids_release(["T1w", "FLAIR"])).cases
    assert len(clash["sub-01_ses-1"].files["T1w"]) == 2 and "FLAIR" not in clash["sub-01_ses-2"].files
    assert release.patient_of("sub-01_ses-1") == "sub-01" and release.session_of("sub-01_ses-1") == "1"


def test_bids_names_must_fit_their_folders(tmp_path: Path) -> None:
    planter = Planter(tmp_path / "download", 0)
    for path in ("sub-01/anat/sub-01_T1w", "sub-01/anat/sub-02_T1w", "sub-01/ses-1/anat/sub-01_ses-2_T1w",
                 "sub-01/anat/sub-01_ses-1_T1w", "sub-01_T1w", "nested/study/sub-03/anat/sub-03_T1w"):  # fmt: skip
        planter.image(f"{path}.nii.gz")
    assert list(scan(tmp_path / "download", RELEASES["bids"]).cases) == ["sub-01", "sub-03"]


@pytest.mark.parametrize("suffixes", [[], ["T1w", "T1w"], ["T1w.nii"], ["run1_T1w"]])
def test_bad_suffixes(suffixes: list[str]) -> None:
    with pytest.raises(InputError, match="T1w"):
        bids_release(suffixes)


def test_a_file_that_fits_two_patterns_belongs_to_the_one_with_more_letters(tmp_path: Path) -> None:
    planter = Planter(tmp_path, 0)
    for name in ("p1", "p1_seg", "p2", "p2_seg"):
        planter.image(f"{name}.nii.gz")
    found = scan(tmp_path, folder_release({"t1": "{case}"}, label="{case}_seg"))
    assert {case: content.files for case, content in found.cases.items()} == {
        case: {"t1": [f"{case}.nii.gz"], LABEL: [f"{case}_seg.nii.gz"]} for case in ("p1", "p2")
    }


def test_background_may_be_named_and_is_the_background(tmp_path: Path, raw: Path) -> None:
    planter = Planter(tmp_path / "download", 0)
    labels = {}
    for case in ("p1", "p2"):
        planter.image(f"download_{case}.nii.gz")
        planter.image(f"{case}_t1.nii.gz")
        labels[case] = planter.label(f"{case}_seg.nii.gz", (1,))
    release = folder_release({"t1": "{case}_t1"}, label="{case}_seg", labels={0: "background", 1: "lesion"})
    report = convert(release, tmp_path / "download", dataset_id=7)
    assert read_json(report.folder / "dataset.json")["labels"] == {"background": 0, "lesion": 1}
    for case, label in labels.items():
        np.testing.assert_array_equal(np.asarray(nib.load(report.folder / f"labelsTr/{case}.nii.gz").dataobj), label)


def test_values_far_apart_are_mapped_without_a_table_of_all_between(tmp_path: Path, raw: Path) -> None:
    planter = Planter(tmp_path / "download", 0)
    label = np.zeros((9, 8, 7), np.int32)
    label[2:4], label[5:7] = -7, 2_000_000_000
    for case in ("p1", "p2"):
        planter.image(f"{case}_t1.nii.gz")
        planter.write(f"{case}_seg.nii.gz", label)
    release = folder_release({"t1": "{case}_t1"}, label="{case}_seg", labels={-7: "a", 2_000_000_000: "b"})
    report = convert(release, tmp_path / "download", dataset_id=7)
    written = np.asarray(nib.load(report.folder / "labelsTr/p1.nii.gz").dataobj)
    np.testing.assert_array_equal(written, np.select([label == -7, label > 0], [1, 2]))


@pytest.mark.parametrize("release", [folder_release({"t1": "{case}_t1"}, label="{case}_seg"),
                                     bids_release(["T1w"], label="mask")])  # fmt: skip
def test_no_sentence_blames_the_release_for_data_of_a_user(release: Release, tmp_path: Path, raw: Path) -> None:
    """An unknown label, a missing label and image, another grid, and nothing at all."""
    planter = Planter(tmp_path / "download", 0)
    image, mask = ("{}_t1", "{}_seg") if release.name == "folder" else ("sub-{0}/anat/sub-{0}_T1w", "sub-{0}_mask")
    for case in "1234":
        planter.image(image.format(case) + ".nii.gz", shape=(9, 8, 6) if case == "4" else (9, 8, 7))
    planter.label(mask.format(1) + ".nii.gz", (1, 5))
    for case in "35":
        planter.label(mask.format(case) + ".nii.gz", (1,))
    planter.label(mask.format(4) + ".nii.gz", (1,))
    report = convert(release, tmp_path / "download", dataset_id=7)
    reasons = {record.case.removeprefix("sub-"): record.reason for record in report.refused}
    assert list(reasons) == ["1", "2", "4", "5"]
    assert "label 5" in reasons["1"] and "--labels 1=lesion,2=oedema" in reasons["1"]
    with pytest.raises(InputError) as nothing:
        scan(report.folder / "labelsTr", replace(release, channels={"x": Source("never/{case}")}))
    assert not [text for text in (*reasons.values(), str(nothing.value), report.summary()) if "release" in text]


# -------------------------------------------------------------------------------------------------- masks of BIDS


def _bids(root: Path, *paths: str) -> None:
    planter = Planter(root, 0)
    for path in paths:
        planter.image(f"{path}.nii.gz")


def _masks_found(root: Path, suffixes: list[str], label: str) -> dict[str, list[str]]:
    found = scan(root, bids_release(suffixes, label=label))
    return {case: [path.rpartition("/")[2] for path in c.files.get(LABEL, [])] for case, c in found.cases.items()}


def test_a_mask_with_more_entities_than_its_image(tmp_path: Path) -> None:
    for sub in ("sub-01", "sub-02"):
        _bids(tmp_path, f"{sub}/anat/{sub}_T1w", f"derivatives/x/{sub}/anat/{sub}_space-orig_label-lesion_desc-x_mask")
    assert _masks_found(tmp_path, ["T1w"], "label-lesion_mask") == {
        sub: [f"{sub}_space-orig_label-lesion_desc-x_mask.nii.gz"] for sub in ("sub-01", "sub-02")
    }


def test_of_several_images_the_one_with_all_the_entities_of_the_others(tmp_path: Path) -> None:
    top = "sub-01/anat/sub-01"
    _bids(tmp_path, f"{top}_T1w", f"{top}_run-1_T1w", f"{top}_run-2_T1w", f"{top}_acq-x_T1w",
          "derivatives/sub-01_run-01_space-orig_mask", "derivatives/sub-01_run-2_acq-x_mask")  # fmt: skip
    found = scan(tmp_path, bids_release(["T1w"], label="mask"))
    assert {case: LABEL in content.files for case, content in found.cases.items()} == {
        "sub-01": False, "sub-01_acq-x": False, "sub-01_run-1": True, "sub-01_run-2": False,
    }  # fmt: skip
    assert found.unused == ["derivatives/sub-01_run-2_acq-x_mask.nii.gz"]
    assert [note for note in found.notes if "exactly one image (1): derivatives/sub-01_run-2_acq-x_mask" in note]


@pytest.mark.parametrize("label", ["roi", "FLAIR_roi"])
@pytest.mark.parametrize("suffixes", [["T1w", "FLAIR"], ["FLAIR"]])
def test_masks_beside_their_images_that_carry_their_suffix(label: str, suffixes: list[str], tmp_path: Path) -> None:
    for sub in ("sub-01", "sub-02"):
        _bids(tmp_path, f"{sub}/anat/{sub}_acq-iso08_T1w", f"{sub}/anat/{sub}_acq-T2sel_FLAIR")
    _bids(tmp_path, "sub-01/anat/sub-01_acq-T2sel_FLAIR_roi")
    end = "_acq-T2sel" if len(suffixes) == 1 else ""
    assert _masks_found(tmp_path, suffixes, label) == {
        f"sub-01{end}": ["sub-01_acq-T2sel_FLAIR_roi.nii.gz"], f"sub-02{end}": [],
    }  # fmt: skip


def test_derivatives_are_preferred_and_other_folders_not_looked_into(tmp_path: Path) -> None:
    _bids(tmp_path, "sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_mask", "derivatives/sub-01_desc-b_mask",
          "sourcedata/sub-01_mask", "code/sub-01_mask")  # fmt: skip
    assert _masks_found(tmp_path, ["T1w"], "mask") == {"sub-01": ["sub-01_desc-b_mask.nii.gz"]}


def test_a_mask_of_a_session_without_images_is_a_case_that_lacks_them(tmp_path: Path) -> None:
    _bids(tmp_path, "sub-01/ses-1/anat/sub-01_ses-1_T1w", "derivatives/sub-01_ses-2_label-x_mask")
    assert _masks_found(tmp_path, ["T1w"], "mask") == {
        "sub-01_ses-1": [], "sub-01_ses-2": ["sub-01_ses-2_label-x_mask.nii.gz"],
    }  # fmt: skip


def test_where_no_mask_is_found_a_note_shows_the_way_out(tmp_path: Path) -> None:
    _bids(tmp_path, "sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_lesion")
    (note,) = scan(tmp_path, bids_release(["T1w"], label="mask")).notes
    assert "`bdfm convert folder`" in note and "--label '**/{case}_mask'" in note


@pytest.mark.parametrize("label", ["", "mask.nii", "a b", "T1w_", "Label-x_mask"])
def test_bad_ends_of_masks(label: str) -> None:
    with pytest.raises(InputError, match="no end of a mask's name"):
        bids_release(["T1w"], label=label)


def test_an_image_cannot_be_its_own_label() -> None:
    with pytest.raises(InputError, match="as image and as label"):
        bids_release(["T1w", "FLAIR"], label="FLAIR")


def test_masks_with_the_suffix_of_their_image_before_the_entities(tmp_path: Path) -> None:
    _bids(tmp_path, "sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T1w_label-lesion_dseg")
    for label in ("label-lesion_dseg", "T1w_label-lesion_dseg", "dseg"):
        assert _masks_found(tmp_path, ["T1w"], label) == {"sub-01": ["sub-01_T1w_label-lesion_dseg.nii.gz"]}


def test_two_masks_of_one_image_are_a_clash_that_says_what_to_do(tmp_path: Path, raw: Path) -> None:
    _bids(tmp_path, "sub-01/anat/sub-01_T1w", "derivatives/sub-01_desc-a_mask", "derivatives/sub-01_desc-b_mask")
    (record,) = convert(bids_release(["T1w"], label="mask"), tmp_path, dataset_id=7).refused
    assert "2 files for label" in record.reason and "or give --label more of its name" in record.reason


def test_two_channels_with_the_same_values_are_noted(tmp_path: Path, raw: Path) -> None:
    planter = Planter(tmp_path / "download", 0)
    for case in ("p1", "p2"):
        for name in ("t1", "t2"):
            planter.image(f"{case}_{name}.nii.gz")
    (tmp_path / "download/p1_t2.nii.gz").unlink()
    (tmp_path / "download/p1_t2.nii.gz").symlink_to("p1_t1.nii.gz")
    release = folder_release({"t1": "{case}_t1", "t2": "{case}_t2"})
    notes = {r.case: r.notes for r in convert(release, tmp_path / "download", dataset_id=7, unlabelled=True).records}
    assert notes == {"p1": ["t1 and t2 hold the same values"], "p2": []}
