"""Entries for any folders."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, convert
from bdfm_nnunet.dataset_conversion.path_patterns import path_pattern
from bdfm_nnunet.dataset_conversion.reading.folder_layout import expression_of, folder_release
from bdfm_nnunet.dataset_conversion.reading.scanning import scan
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.release_json import check_entry
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


def test_a_file_that_fits_two_patterns_belongs_to_the_one_with_more_letters(tmp_path: Path) -> None:
    planter = Planter(tmp_path, 0)
    for name in ("p1", "p1_seg", "p2", "p2_seg"):
        planter.image(f"{name}.nii.gz")
    found = scan(tmp_path, folder_release({"t1": "{case}"}, label="{case}_seg"))
    assert {case: content.files for case, content in found.cases.items()} == {
        case: {"t1": [f"{case}.nii.gz"], LABEL: [f"{case}_seg.nii.gz"]} for case in ("p1", "p2")
    }
