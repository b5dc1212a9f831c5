"""Labels that are written: mapped, put together from masks, or refused."""

import gzip
import re
from dataclasses import replace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import convert_release
from bdfm_nnunet.dataset_conversion.release import Repair, Source
from bdfm_nnunet.files import read_json
from tests.dataset_conversion.made_up_release import (
    ENTRY,
    MASKS,
    OBLIQUE,
    SHAPE,
    Download,
    convert_first,
    read_volume,
)


def test_bits_of_overlapping_masks(download: Download) -> None:
    download.case()
    left, right = (download.label(f"c1_{side}", (0, 255)) for side in ("left", "right"))
    record, folder = convert_first(MASKS, download)
    expected = (left > 0) + 2 * (right > 0)
    np.testing.assert_array_equal(read_volume(folder / "labelsTr/c1.nii.gz"), expected)
    assert record.labels == {value: int((expected == value).sum()) for value in range(4)}
    assert sorted(record.sha256) == ["a", "b", "mask:left", "mask:right"]
    assert record.targets["label"] == "labelsTr/c1.nii.gz"
    assert read_json(folder / "dataset.json")["labels"] == {"background": 0, "left": [1, 3], "right": [2, 3]}


def test_a_mask_of_two_values_is_refused(download: Download) -> None:
    download.case()
    download.label("c1_left", (0, 1, 2))
    download.label("c1_right", (0, 1))
    record, _ = convert_first(MASKS, download)
    assert "c1_left.nii.gz has the values 1, 2 where a mask" in record.reason


def test_a_missing_mask_is_refused(download: Download) -> None:
    download.case()
    download.label("c1_left", (0, 1))
    record, _ = convert_first(MASKS, download)
    assert re.search(r"c1_right\.nii\.gz .*is missing: .*--unlabelled", record.reason)


def test_the_alternative_that_was_taken_is_named(download: Download) -> None:
    entry = replace(ENTRY, label=(Source("{case}_seg", kind="manual"), Source("{case}_auto", kind="automated")))
    download.case()
    download.case("c2")
    (download.root / "c2_seg.nii.gz").rename(download.root / "c2_auto.nii.gz")
    report = convert_release(entry, download.root, dataset_id=9)
    assert [record.notes for record in report.records] == [["label: manual"], ["label: automated"]]


def test_a_scaled_label_becomes_whole_numbers(download: Download) -> None:
    download.case()
    stored = download.random.choice((0, 10), SHAPE).astype(np.int16)
    download.write("c1_seg", stored, slope=0.1)  # 10 * 0.1 is not 1 in single precision's neighbours
    record, folder = convert_first(ENTRY, download, link="sym")
    written = nib.load(folder / "labelsTr/c1.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), stored // 10)
    assert record.labels == {0: int((stored == 0).sum()), 1: int((stored == 10).sum())}
    assert written.get_data_dtype() == np.uint8


@pytest.mark.parametrize("type_", [np.uint8, np.int16, np.int64, np.float32, np.float64, ">i2", ">f4"])
def test_labels_of_any_type_are_mapped(type_: Any, download: Download) -> None:
    download.case()
    label = download.random.choice((0, 1, 4), SHAPE)
    image = nib.Nifti1Image(label.astype(type_), OBLIQUE, nib.Nifti1Header(endianness=np.dtype(type_).byteorder))
    (download.root / "c1_seg.nii.gz").write_bytes(gzip.compress(image.to_bytes()))
    record, folder = convert_first(ENTRY, download)
    assert record.labels == {value: int((label == value).sum()) for value in (0, 1, 4)}
    np.testing.assert_array_equal(read_volume(folder / "labelsTr/c1.nii.gz"), np.where(label == 4, 2, label))


def test_stray_label_value(download: Download) -> None:
    entry = replace(ENTRY, repairs=(Repair("c1", "a stray value was published", values={6: 4}),))
    for case in ("c1", "c2"):
        download.case(case)
        label = download.label(f"{case}_seg", (0, 1, 6))
    report = convert_release(entry, download.root, dataset_id=9)
    first, second = report.records
    assert (first.status, second.status) == ("repaired", "refused")
    assert re.fullmatch(r"a stray value was published \(\d+ voxels of 6 in c1_seg.nii.gz are read as 4\)", first.reason)
    source = np.asarray(nib.load(download.root / "c1_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(read_volume(report.folder / "labelsTr/c1.nii.gz"), np.where(source == 6, 2, source))
    assert first.labels[6] == (source == 6).sum() and label.any()


def test_a_changed_table_entry_is_applied(download: Download) -> None:
    download.case()
    before, folder = convert_first(ENTRY, download)
    after, _ = convert_first(replace(ENTRY, label_map={1: 2, 4: 1}), download)
    source = np.asarray(nib.load(download.root / "c1_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(
        read_volume(folder / "labelsTr/c1.nii.gz"), np.select([source == 1, source == 4], [2, 1])
    )
    assert before == after
