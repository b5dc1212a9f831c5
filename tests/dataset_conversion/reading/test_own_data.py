"""What holds for data of a user's own in any layout: labels, channels, and the sentences about them."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import convert
from bdfm_nnunet.dataset_conversion.reading.bids_layout import bids_release
from bdfm_nnunet.dataset_conversion.reading.folder_layout import folder_release
from bdfm_nnunet.dataset_conversion.reading.scanning import scan
from bdfm_nnunet.dataset_conversion.release import Release, Source
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from tests.dataset_conversion.planting import Planter


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
