"""Entries for BIDS."""

from pathlib import Path

import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, convert
from bdfm_nnunet.dataset_conversion.reading.bids_layout import bids_release
from bdfm_nnunet.dataset_conversion.reading.scanning import scan
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.release_json import check_entry
from bdfm_nnunet.errors import InputError
from tests.dataset_conversion.planting import Planter
from tests.dataset_conversion.trees import make_tree


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
