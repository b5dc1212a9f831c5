"""Entries for any folders and for BIDS."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, convert
from bdfm_nnunet.dataset_conversion.entries import check_entry
from bdfm_nnunet.dataset_conversion.open_trees import bids_release, expression_of, folder_release
from bdfm_nnunet.dataset_conversion.patterns import path_pattern
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.scanning import scan
from bdfm_nnunet.errors import InputError
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
