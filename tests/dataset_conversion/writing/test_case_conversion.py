"""Files of every form that a release may have, on made-up entries."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.dataset_conversion import convert_release
from bdfm_nnunet.dataset_conversion.release import Release, Repair, Source
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.images import volumes
from tests.dataset_conversion.made_up_release import (
    ENTRY,
    IN_ONE,
    OBLIQUE,
    SHAPE,
    Download,
    convert_first,
    read_volume,
)

# ---------------------------------------------------------------------------------------------------- 4-D files


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.25, -3)])
def test_channels_of_one_file(slope: float, intercept: float, download: Download) -> None:
    values = download.image("c1_all", (*SHAPE, 3), slope=slope, intercept=intercept)
    download.label("c1_seg", (0, 1))
    record, folder = convert_first(IN_ONE, download, link="sym")
    assert record.status == "ok" and record.sources["a"] == record.sources["b"] == "c1_all.nii.gz"
    for index, volume in enumerate((2, 0)):
        path = folder / f"imagesTr/c1_{index:04d}.nii.gz"
        np.testing.assert_allclose(read_volume(path), values[..., volume] * slope + intercept)
        np.testing.assert_allclose(nib.load(path).affine, OBLIQUE, atol=1e-6)
        assert nib.load(path).get_data_dtype() == np.int16
    assert (folder / "labelsTr/c1.nii.gz").is_symlink()
    assert record.sha256["a"] != record.sha256["b"]


def test_a_file_of_several_channels_is_read_once(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    download.image("c1_all", (*SHAPE, 3))
    download.label("c1_seg")
    read, names = volumes.read_bytes, []
    monkeypatch.setattr(volumes, "read_bytes", lambda path, name: names.append(name) or read(path, name))
    assert convert_first(IN_ONE, download)[0].status == "ok"
    assert names == ["c1_all.nii.gz", "c1_seg.nii.gz"]


@pytest.mark.parametrize(
    ("entry", "shape", "sentence"),
    [(ENTRY, (*SHAPE, 3), "where one 3-D volume of numbers was expected"),
     (IN_ONE, SHAPE, "c1_all.nii.gz is 3-D where 3 or more volumes were expected"),
     (IN_ONE, (*SHAPE, 2), "7 x 6 x 5 x 2 .* where 3 or more volumes were expected")],
)  # fmt: skip
def test_wrong_number_of_axes(entry: Release, shape: tuple[int, ...], sentence: str, download: Download) -> None:
    for name in ("c1_all", "c1_a", "c1_b"):
        download.image(name, shape)
    download.label("c1_seg")
    record, folder = convert_first(entry, download)
    assert record.status == "refused"
    assert re.search(sentence, record.reason)
    assert not list(folder.rglob("*.nii.gz"))


# ------------------------------------------------------------------------------------------------------- repairs


def test_file_that_was_not_compressed(download: Download) -> None:
    entry = replace(ENTRY, repairs=(Repair("c1", "published without compression", plain=True),))
    for case in ("c1", "c2"):
        download.case(case)
        values = download.image(f"{case}_b", compress=False)
    report = convert_release(entry, download.root, dataset_id=9, link="sym")
    first, second = report.records
    assert first.reason == "published without compression (c1_b.nii.gz is not compressed)"
    assert (second.status, "c2_b.nii.gz is not a gzip file" in second.reason) == ("refused", True)
    target = report.folder / "imagesTr/c1_0001.nii.gz"
    assert gzip.decompress(target.read_bytes()) == (download.root / "c1_b.nii.gz").read_bytes()
    assert values.shape == read_volume(target).shape


@pytest.mark.parametrize("missing", ["a", "b"])
def test_missing_channel_is_written_as_zeros(missing: str, download: Download) -> None:
    entry = replace(ENTRY, repairs=(Repair("c.*", "not scanned everywhere", missing=(missing,)),))
    download.case()
    (download.root / f"c1_{missing}.nii.gz").unlink()
    record, folder = convert_first(entry, download)
    there = "b" if missing == "a" else "a"
    assert record.reason == f"not scanned everywhere ({missing} is missing and written as zeros)"
    assert sorted(record.sources) == sorted(record.sha256) == sorted([there, "label"])
    written = sitk.ReadImage(str(folder / record.targets[missing]))
    other = sitk.ReadImage(str(folder / record.targets[there]))
    assert not sitk.GetArrayFromImage(written).any()
    assert (written.GetSize(), written.GetOrigin(), written.GetDirection()) == (
        other.GetSize(), other.GetOrigin(), other.GetDirection())  # fmt: skip


def test_no_channel_at_all_is_refused(download: Download) -> None:
    entry = replace(ENTRY, repairs=(Repair("c.*", "not scanned everywhere", missing=("a", "b")),))
    download.label("c1_seg")
    record, _ = convert_first(entry, download)
    assert re.search("c1_a.nii.gz and c1_b.nii.gz .*are missing", record.reason)


def test_empty_channel_that_may_be(download: Download) -> None:
    entry = replace(ENTRY, repairs=(Repair("c1", "not scanned everywhere", missing=("b",)),))
    for case in ("c1", "c2"):
        download.case(case)
        download.write(f"{case}_b", np.zeros(SHAPE, np.int16))
    first, second = convert_release(entry, download.root, dataset_id=9).records
    assert (first.status, first.notes, "b" in first.sha256) == ("ok", ["b is empty"], False)
    assert "c2_b.nii.gz is empty" in second.reason


# --------------------------------------------------------------------------------------------------------- pairs


def _write_pair(path: Path, values: np.ndarray, *, kind: Any, big_endian: bool = False) -> None:
    header = kind.header_class(endianness=">" if big_endian else "<")
    header.set_data_dtype(values.dtype)
    kind(values, OBLIQUE if kind is nib.Nifti1Pair else np.diag([-1.5, 1, 2, 1]), header).to_filename(path)


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.AnalyzeImage, nib.Spm99AnalyzeImage])
@pytest.mark.parametrize("big_endian", [False, True])
def test_image_and_header_in_two_files(kind: Any, big_endian: bool, download: Download) -> None:
    values = {}
    for role in ("a", "b", "seg"):
        values[role] = download.random.choice((0, 1, 4), SHAPE).astype(np.int16)
        _write_pair(download.root / f"c1_{role}.img", values[role], kind=kind, big_endian=big_endian)
    record, folder = convert_first(ENTRY, download, link="sym")
    assert record.status == "ok" and record.sources["a"] == "c1_a.img"
    assert any("Analyze" in note for note in record.notes) == (kind is not nib.Nifti1Pair)
    written = folder / record.targets["a"]
    np.testing.assert_array_equal(read_volume(written), values["a"])
    np.testing.assert_array_equal(
        read_volume(folder / "labelsTr/c1.nii.gz"), np.where(values["seg"] == 4, 2, values["seg"])
    )
    np.testing.assert_allclose(nib.load(written).affine, nib.load(download.root / "c1_a.img").affine, atol=1e-5)
    in_lps = np.diag([-1, -1, 1, 1]) @ nib.load(download.root / "c1_a.img").affine
    np.testing.assert_allclose(sitk.ReadImage(str(written)).GetOrigin(), in_lps[:3, 3], atol=1e-5)


@pytest.mark.parametrize("fault", ["no header", "short image", "short header"])
def test_damaged_pair(fault: str, download: Download) -> None:
    download.case()
    (download.root / "c1_b.nii.gz").unlink()
    path = download.root / "c1_b.img"
    _write_pair(path, np.ones(SHAPE, np.int16), kind=nib.AnalyzeImage)
    if fault == "no header":
        path.with_suffix(".hdr").unlink()
    else:
        damaged = path if fault == "short image" else path.with_suffix(".hdr")
        damaged.write_bytes(damaged.read_bytes()[:-10])
    record, _ = convert_first(ENTRY, download)
    assert record.status == "refused" and "c1_b." in record.reason


# -------------------------------------------------------------------------------------------- parts and selections


def test_cases_published_without_label(download: Download) -> None:
    channels = {role: Source(rf"(?:.*/)?{{case}}_{role}") for role in "ab"}
    entry = replace(ENTRY, unlabelled_part="(?:^|/)hidden/", channels=channels)
    for case in ("c1", "c2"):
        download.case(case)
    for role in "ab":
        path = download.root / f"c3_{role}.nii.gz"
        download.image(path.name.partition(".")[0])
        (download.root / "hidden").mkdir(exist_ok=True)
        path.rename(download.root / "hidden" / path.name)
    report = convert_release(entry, download.root, dataset_id=9)
    assert [record.part for record in report.records] == ["train", "train", "test"]
    assert sorted(path.name for path in (report.folder / "imagesTs").iterdir()) == ["c3_0000.nii.gz", "c3_0001.nii.gz"]
    assert not (report.folder / "labelsTr/c3.nii.gz").exists() and "label" not in report.records[2].targets
    assert read_json(report.folder / "dataset.json")["numTraining"] == 2
    assert "c3" not in json.dumps(read_json(report.folder / "splits_final.json"))

    download.label("c3_seg")  # published later: the case moves to the training part
    report = convert_release(entry, download.root, dataset_id=9)
    assert report.records[2].part == "train" and not list((report.folder / "imagesTs").iterdir())
    assert (report.folder / "imagesTr/c3_0001.nii.gz").exists()


def test_unlabelled_takes_every_case_to_the_training_part(download: Download) -> None:
    entry = replace(ENTRY, unlabelled_part="_a")
    download.case()
    (download.root / "c1_seg.nii.gz").unlink()
    record, folder = convert_first(entry, download, unlabelled=True)
    assert record.part == "train" and (folder / "labelsTr/c1.nii.gz").exists()


def test_release_without_labels(download: Download) -> None:
    download.case()
    entry = replace(ENTRY, label=())
    with pytest.raises(InputError, match="made-up has no segmentations: convert it with --unlabelled"):
        convert_first(entry, download)
    assert convert_first(entry, download, unlabelled=True)[0].status == "ok"


def test_channels_and_cases_are_chosen(download: Download) -> None:
    for case in ("c1", "c2"):
        download.case(case)
    report = convert_release(ENTRY, download.root, dataset_id=9, channels=["b"], only="c2")
    assert [record.case for record in report.records] == ["c2"]
    assert read_json(report.folder / "dataset.json")["channel_names"] == {"0": "b"}
    target = report.folder / "imagesTr/c2_0000.nii.gz"
    assert target.read_bytes() == (download.root / "c2_b.nii.gz").read_bytes()
    with pytest.raises(InputError, match=r"converted with channels = \['b'\], not \['a', 'b'\]"):
        convert_release(ENTRY, download.root, dataset_id=9)


# ---------------------------------------------------------------------------------------------- scaling and grids


@pytest.mark.parametrize(("slope", "intercept", "good"), [
    (0.5, 2, True), (0, 0, True), (np.nan, np.nan, True), (np.nan, 0, True), (np.inf, 0, True),
    (0, 5, False), (np.nan, 5, False), (1e-20, 0, False), (1, np.nan, False), (2, np.inf, False),
])  # fmt: skip
def test_scaling_that_readers_take_differently(slope: float, intercept: float, good: bool, download: Download) -> None:
    download.case()
    content = bytearray(gzip.decompress((download.root / "c1_a.nii.gz").read_bytes()))
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    (download.root / "c1_a.nii.gz").write_bytes(gzip.compress(bytes(content)))
    record, folder = convert_first(ENTRY, download)
    assert (record.status == "ok") == good
    if good:
        expected = nib.load(download.root / "c1_a.nii.gz").get_fdata()
        np.testing.assert_allclose(read_volume(folder / record.targets["a"]), expected)
    else:
        assert "c1_a.nii.gz has a scaling that readers take differently" in record.reason


@pytest.mark.parametrize(("change", "note"), [
    ({"grid": (7, 6, 9)}, "the grid is not the release's 7 x 6 x 9"),
    ({"grid": SHAPE, "spacing": (1.0, 1.0, 1.0)}, "the spacing is not the release's 1 x 1 x 1 mm"),
    ({"grid": SHAPE, "spacing": (1.0, 1.0, 2.5), "origin": (0.0, 3.0, 7.0)}, "the origin is not the release's"),
    ({"grid": SHAPE, "spacing": (1.0, 1.0, 2.5), "origin": (-4.0, 3.0, 7.0)}, ""),
])  # fmt: skip
def test_another_grid_is_noted(change: dict[str, Any], note: str, download: Download) -> None:
    download.case()
    record, _ = convert_first(replace(ENTRY, **change), download)
    assert record.status == "ok"
    assert [found[: len(note)] for found in record.notes] == ([note] if note else [])


def test_images_that_are_not_skull_stripped(download: Download) -> None:
    head = np.zeros(SHAPE, bool)
    head[2:6, 1:5, 1:4] = True
    values = np.where(head, 500, download.random.integers(1, 20, SHAPE))
    values[0, 0, 0] = 600  # a bright speck outside, and a dark hole inside
    values[4, 3, 2] = 1
    for role in "ab":
        download.write(f"c1_{role}", values.astype(np.int16))
    record, folder = convert_first(ENTRY, download, unlabelled=True)
    np.testing.assert_array_equal(read_volume(folder / "labelsTr/c1.nii.gz"), head)
    assert any("Otsu's threshold of a" in note for note in record.notes)
