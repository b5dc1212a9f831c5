"""What a good download becomes."""

import csv
import gzip
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.nifti1 import Nifti1Image

from bdfm_nnunet.dataset_conversion import RELEASES, ConversionReport, convert, convert_release
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from tests.dataset_conversion.converted import verify_with_nnunet

GLI = "brats2023-gli"


def _values(path: Path) -> np.ndarray:
    return np.asarray(Nifti1Image.from_filename(path).dataobj)


def test_a_download_becomes_a_data_set_that_nnunet_accepts(tree: Any, raw: Path) -> None:
    for patient in range(3):
        tree.add(patient)
    report = convert(GLI, tree.root, dataset_id=501)
    assert report.folder == raw / "Dataset501_BraTS2023GLI"
    verify_with_nnunet(report.folder)


def test_channels_are_in_order_and_unchanged(tree: Any, raw: Path) -> None:
    case = tree.add(7)
    folder = convert(GLI, tree.root, dataset_id=501).folder
    for index, suffix in enumerate(("t1n", "t1c", "t2w", "t2f")):
        assert (folder / f"imagesTr/{case}_{index:04d}.nii.gz").read_bytes() == tree.file(case, suffix).read_bytes()
    assert (folder / f"labelsTr/{case}.nii.gz").read_bytes() == tree.file(case, "seg").read_bytes()


def test_dataset_json_has_regions_in_painting_order(tree: Any, raw: Path) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    for patient in range(2):
        tree.add(patient)
    content = read_json(convert(GLI, tree.root, dataset_id=501).folder / "dataset.json")
    assert content["channel_names"] == {"0": "t1n", "1": "t1c", "2": "t2w", "3": "t2f"}
    assert content["numTraining"] == 2
    assert content["release"] == GLI
    assert content["licence"] and content["reference"]
    assert str(tree.root) not in json.dumps(content)
    manager = LabelManager(content["labels"], content["regions_class_order"])
    source = np.array([[[0, 1, 2, 3]]])
    regions = np.stack([np.isin(source, np.atleast_1d(region)) for region in manager.foreground_regions])
    assert manager.convert_probabilities_to_segmentation(regions.astype(np.float32)).tolist() == source.tolist()


@pytest.mark.parametrize("task", ["GLI", "MEN", "MET", "PED", "SSA"])
def test_every_release_of_the_family(task: str, new_tree: Callable[..., Any], raw: Path) -> None:
    tree = new_tree("other", task=task)
    case = tree.add(743, 1)
    report = convert(f"brats2023-{task.lower()}", tree.root, dataset_id=7)
    (record,) = report.good
    assert (record.case, record.patient) == (case, f"BraTS-{task}-00743")
    assert report.folder.name == f"Dataset007_BraTS2023{task}"


def test_manifest_has_a_row_for_every_case(tree: Any, raw: Path) -> None:
    good, bad = tree.add(0, 3), tree.add(1)
    tree.file(bad, "t2w").unlink()
    folder = convert(GLI, tree.root, dataset_id=501).folder
    rows = read_json(folder / "manifest.json")["cases"]
    with (folder / "manifest.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    for form in (rows, table):
        assert [(row["case"], row["status"]) for row in form] == [(good, "ok"), (bad, "refused")]
    first = rows[0]
    assert first["patient"] == "BraTS-GLI-00000"
    assert first["labels"] == {"0": 14 * 13 * 12 - 125, "1": 1, "2": 98, "3": 26}
    assert (first["shape"], first["spacing"], first["orientation"]) == ([14, 13, 12], [1, 1, 1], "LPS")
    assert first["sources"]["t2f"] == f"{good}/{good}-t2f.nii.gz"
    assert first["targets"]["t2f"] == f"imagesTr/{good}_0003.nii.gz"
    assert sorted(first["sha256"]) == ["label", "t1c", "t1n", "t2f", "t2w"]
    assert json.loads(table[0]["labels"]) == first["labels"]
    assert any("grid" in note for note in first["notes"])  # 14 x 13 x 12 is not BraTS's: noted, not refused


def test_nested_folders_plain_nifti_and_junk(tree: Any, raw: Path) -> None:
    nested = tree.add(0, under="UCSD - Training/part 1")
    plain = tree.add(1, ending=".nii")
    for junk in (f"._{nested}-t1n.nii.gz", ".DS_Store", f"__MACOSX/{nested}-t1n.nii.gz"):
        (tree.root / junk).parent.mkdir(exist_ok=True)
        (tree.root / junk).write_bytes(b"junk")
    tree.write(tree.root / "something_else.nii.gz", np.zeros((4, 4, 4), np.uint8))
    report = convert(GLI, tree.root, dataset_id=501)
    assert [record.case for record in report.good] == [nested, plain]
    assert report.counts() == {"ok": 2, "repaired": 0, "refused": 0, "junk": 3, "unused": 1}
    target = report.folder / f"imagesTr/{plain}_0000.nii.gz"
    assert gzip.decompress(target.read_bytes()) == tree.file(plain, "t1n", ending=".nii").read_bytes()


def test_links_to_folders_are_followed_once(tree: Any, new_tree: Callable[..., Any], raw: Path) -> None:
    elsewhere = new_tree("elsewhere")
    case = elsewhere.add(5)
    (tree.root / "linked").symlink_to(elsewhere.root)
    (elsewhere.root / "loop").symlink_to(tree.root)
    assert [record.case for record in convert(GLI, tree.root, dataset_id=501).good] == [case]


@pytest.mark.parametrize("link", ["copy", "hard", "sym"])
def test_link_chooses_how_files_are_placed(link: str, tree: Any, raw: Path) -> None:
    case = tree.add(0)
    source = tree.file(case, "t1c")
    source.chmod(stat.S_IRUSR)
    target = convert(GLI, tree.root, dataset_id=501, link=link).folder / f"imagesTr/{case}_0001.nii.gz"
    assert target.is_symlink() == (link == "sym")
    assert (os.stat(target).st_ino == source.stat().st_ino) == (link != "copy")
    assert target.read_bytes() == source.read_bytes()
    source.chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_changing_how_files_are_linked_takes_effect(tree: Any, raw: Path) -> None:
    case = tree.add(0)
    for link in ("copy", "hard", "hard", "sym", "copy"):
        folder = convert(GLI, tree.root, dataset_id=501, link=link).folder
        target = folder / f"imagesTr/{case}_0001.nii.gz"
        assert target.is_symlink() == (link == "sym")
        assert (os.stat(target).st_ino == tree.file(case, "t1c").stat().st_ino) == (link != "copy")
        assert not list(folder.rglob("*.partial.*"))


def test_unlabelled_takes_the_brain_mask(tree: Any, raw: Path) -> None:
    case = tree.add(0, labelled=False)
    other = tree.add(1)
    extra = np.array(_values(tree.file(case, "t2f")))
    extra[0, 0, 0] = 5  # outside of the other channels' brain: the mask is the union
    tree.write(tree.file(case, "t2f"), extra)
    report = convert(GLI, tree.root, dataset_id=501, unlabelled=True)
    assert [record.case for record in report.good] == [case, other]
    content = read_json(report.folder / "dataset.json")
    assert content["labels"] == {"background": 0, "brain": 1}
    assert "regions_class_order" not in content
    mask = _values(report.folder / f"labelsTr/{case}.nii.gz")
    images = np.stack([_values(tree.file(case, suffix)) for suffix in ("t1n", "t1c", "t2w", "t2f")])
    np.testing.assert_array_equal(mask, (images != 0).any(axis=0))
    label, image = (sitk.ReadImage(str(path)) for path in (report.folder / f"labelsTr/{case}.nii.gz",
                                                           tree.file(case, "t1n")))  # fmt: skip
    assert label.GetOrigin() == image.GetOrigin() and label.GetDirection() == image.GetDirection()


def test_unlabelled_data_set_passes_nnunets_check(tree: Any, raw: Path) -> None:
    for patient in range(2):
        tree.add(patient, labelled=False)
    verify_with_nnunet(convert(GLI, tree.root, dataset_id=501, unlabelled=True).folder)


def test_dry_run_writes_the_manifest_alone(tree: Any, raw: Path, tmp_path: Path) -> None:
    good, bad = tree.add(0), tree.add(1)
    tree.file(bad, "t1c").unlink()
    report = convert(GLI, tree.root, dataset_id=501, dry_run=True, manifest=tmp_path / "found.json")
    assert not any(raw.iterdir())
    assert report.manifest == tmp_path / "found.json"
    assert [row["status"] for row in read_json(report.manifest)["cases"]] == ["ok", "refused"]
    assert good in (tmp_path / "found.csv").read_text()


def test_dry_run_gives_the_rows_of_the_real_run(
    tree: Any, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for patient in range(2):
        tree.add(patient)
    monkeypatch.chdir(tmp_path)
    real = convert(GLI, tree.root, dataset_id=501)
    monkeypatch.delenv("nnUNet_raw")
    dry = convert(GLI, tree.root, dataset_id=501, dry_run=True)
    assert dry.manifest.resolve() == tmp_path / "Dataset501_BraTS2023GLI.manifest.json"
    assert dry.records == real.records


def test_workers_give_the_same_result(tree: Any, raw: Path) -> None:
    for patient in range(7):  # more than two per worker, so that the queue is refilled
        tree.add(patient)
    tree.file(tree.case_id(3), "seg").unlink()
    alone = convert(GLI, tree.root, dataset_id=501)
    together = convert(GLI, tree.root, dataset_id=502, workers=3)
    assert alone.records == together.records
    files = [sorted(path.relative_to(report.folder) for path in report.folder.rglob("*.nii.gz"))
             for report in (alone, together)]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) == 30


def test_relabelled_release_and_its_inverse(tree: Any, raw: Path) -> None:
    """Older releases have 1, 2, 4 on the disk; the target has no gap, and the inverse map gives the source back."""
    from dataclasses import replace

    old = replace(RELEASES[GLI], labels={1: "NCR", 2: "ED", 4: "ET"}, label_map={4: 3})
    case = tree.add(0)
    source = np.array(_values(tree.file(case, "seg")))
    source[source == 3] = 4
    tree.write(tree.file(case, "seg"), source)
    report: ConversionReport = convert_release(old, tree.root, dataset_id=501, link="sym")
    target = report.folder / f"labelsTr/{case}.nii.gz"
    assert not target.is_symlink()
    mapped = _values(target)
    assert sorted(np.unique(mapped)) == [0, 1, 2, 3]
    inverse = {int(value): there for value, there in read_json(report.manifest)["inverse_labels"].items()}
    np.testing.assert_array_equal(np.vectorize(lambda value: inverse.get(value, 0))(mapped), source)
    assert report.good[0].labels == {0: 2059, 1: 1, 2: 98, 4: 26}


def test_hash_is_of_values_not_of_files(tree: Any, raw: Path) -> None:
    """The same values: as int16, as scaled float with another compression, and stored along flipped axes."""
    cases = [tree.add(patient) for patient in range(4)]
    values = np.array(_values(tree.file(cases[0], "t1n")))
    affine = np.array(Nifti1Image.from_filename(tree.file(cases[0], "t1n")).affine)
    tree.write(tree.file(cases[1], "t1n"), values.astype(np.float64), affine=affine)
    tree.write(tree.file(cases[2], "t1n"), values // 1 * 2, affine=affine, slope=0.5)
    for suffix in ("t1n", "t1c", "t2w", "t2f", "seg"):  # flipped along x, with the affine that belongs to it
        flipped = affine @ np.array([[-1, 0, 0, values.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
        content = values if suffix == "t1n" else np.array(_values(tree.file(cases[3], suffix)))
        tree.write(tree.file(cases[3], suffix), content[::-1], affine=flipped)
    hashes = [record.sha256["t1n"] for record in convert(GLI, tree.root, dataset_id=501).good]
    assert len(hashes) == 4 and len(set(hashes)) == 1
    others = {record.sha256["t1c"] for record in convert(GLI, tree.root, dataset_id=501).good}
    assert len(others) == 4


def test_splits_are_written_by_patient(tree: Any, raw: Path) -> None:
    for patient in range(5):
        tree.add(patient)
    tree.add(2, 4)
    splits = read_json(convert(GLI, tree.root, dataset_id=501).folder / "splits_final.json")
    assert len(splits) == 5
    for fold in splits:
        assert not {case[:15] for case in fold["train"]} & {case[:15] for case in fold["val"]}


def test_number_out_of_range(tree: Any, raw: Path) -> None:
    tree.add(0)
    with pytest.raises(InputError, match="1 to 999"):
        convert(GLI, tree.root, dataset_id=1000)
