"""Every fault of a download: the case is refused with a sentence that names the file, the others are written."""

import csv
import gzip
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header, Nifti1Image

from bdfm_nnunet.cli import main
from bdfm_nnunet.dataset_conversion import convert
from bdfm_nnunet.dataset_conversion.cohort import make_cohort_dataset
from bdfm_nnunet.dataset_conversion.reading.folder_layout import folder_release
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from tests.limits import largest_file

GLI = "brats2023-gli"


def _values(path: Path) -> np.ndarray:
    return np.array(np.asarray(Nifti1Image.from_filename(path).dataobj))


def _remove(tree: Any, case: str, suffix: str) -> None:
    tree.file(case, suffix).unlink()


def _cut(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    path.write_bytes(path.read_bytes()[:-20])


def _cut_inside(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-500]))


def _flip_bits(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF  # in the checksum: readers that stop at the last voxel never see it
    path.write_bytes(content)


def _no_gzip(tree: Any, case: str, suffix: str) -> None:
    tree.file(case, suffix).write_bytes(b"<html>not found</html>" * 50)


def _no_nifti(tree: Any, case: str, suffix: str) -> None:
    tree.file(case, suffix).write_bytes(gzip.compress(b"<html>not found</html>" * 50))


def _no_bytes(tree: Any, case: str, suffix: str) -> None:
    tree.file(case, suffix).write_bytes(b"")


def _other_shape(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    tree.write(path, _values(path)[:-1])


def _moved(tree: Any, case: str, suffix: str, *, change: Callable[[np.ndarray], None]) -> None:
    path = tree.file(case, suffix)
    affine = np.array(Nifti1Image.from_filename(path).affine)
    change(affine)
    tree.write(path, _values(path), affine=affine)


def _other_origin(tree: Any, case: str, suffix: str) -> None:
    _moved(tree, case, suffix, change=lambda affine: affine.__setitem__((1, 3), affine[1, 3] + 1))


def _other_spacing(tree: Any, case: str, suffix: str) -> None:
    _moved(tree, case, suffix, change=lambda affine: affine.__setitem__((2, 2), 1.01))


def _other_direction(tree: Any, case: str, suffix: str) -> None:
    _moved(tree, case, suffix, change=lambda affine: affine.__setitem__((0, 0), 1))


def _voxel(value: float, tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    values = _values(path).astype(np.float32)
    values[5, 5, 5] = value
    tree.write(path, values)


def _constant(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    tree.write(path, np.zeros_like(_values(path)))


def _four_axes(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    tree.write(path, np.stack([_values(path)] * 2, axis=-1))


def _twice(tree: Any, case: str, suffix: str) -> None:
    copy = tree.root / "again" / case / tree.file(case, suffix).name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(tree.file(case, suffix).read_bytes())


def _both_forms(tree: Any, case: str, suffix: str) -> None:
    path = tree.file(case, suffix)
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))


FAULTS: dict[str, tuple[Callable[..., None], str, str]] = {
    "missing modality": (_remove, "t2w", "is missing: download"),
    "missing label": (_remove, "seg", "is missing: .*--unlabelled"),
    "truncated gzip": (_cut, "t1c", "truncated"),
    "truncated inside": (_cut_inside, "t1c", "truncated"),
    "wrong checksum": (_flip_bits, "t1c", "damaged gzip"),
    "not gzip": (_no_gzip, "t1c", "not a gzip file"),
    "not NIfTI": (_no_nifti, "t1c", "not a NIfTI file"),
    "no bytes": (_no_bytes, "seg", "empty file"),
    "image of another shape": (_other_shape, "t2f", "has shape 13 x 13 x 12 but .*t1n.nii.gz has 14 x 13 x 12"),
    "label of another shape": (_other_shape, "seg", "has shape 13 x 13 x 12"),
    "image with another origin": (_other_origin, "t2f", "another affine"),
    "label with another origin": (_other_origin, "seg", "another affine"),
    "image with another spacing": (_other_spacing, "t1c", "has spacing 1 x 1 x 1.01 mm"),
    "label with another direction": (_other_direction, "seg", "another affine"),
    "unknown label": (lambda *at: _voxel(6, *at), "seg", r"label 6 \(1 voxels\) but brats2023-gli knows 0, 1, 2, 3"),
    "negative label": (lambda *at: _voxel(-1, *at), "seg", r"label -1 \(1 voxels\)"),
    "broken label": (lambda *at: _voxel(1.5, *at), "seg", "1 voxels with values such as 1.5"),
    "NaN label": (lambda *at: _voxel(np.nan, *at), "seg", "whole-number labels"),
    "NaN image": (lambda *at: _voxel(np.nan, *at), "t2w", "1 voxels that are NaN or infinite"),
    "infinite image": (lambda *at: _voxel(np.inf, *at), "t2w", "NaN or infinite"),
    "empty image": (_constant, "t1n", r"is empty \(every voxel is 0\)"),
    "4-D image": (_four_axes, "t2f", "14 x 13 x 12 x 2 .*where one 3-D volume"),
    "two of one name": (_twice, "t1c", "2 files for t1c"),
    "two forms of one file": (_both_forms, "t1c", "2 files for t1c"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_case_is_refused_and_the_others_are_written(
    fault: str, tree: Any, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, suffix, sentence = FAULTS[fault]
    good, bad, other = (tree.add(patient) for patient in range(3))
    plant(tree, bad, suffix)
    code = main(["convert", GLI, str(tree.root), "-d", "501", "--workers", "1"])
    folder = raw / "Dataset501_BraTS2023GLI"
    names = {path.name.partition(".")[0].partition("_")[0] for path in folder.rglob("*.nii.gz")}
    assert (code, names) == (3, {good, other})
    output = capsys.readouterr().out
    (reason,) = re.findall(rf"refused {bad}: (.*)", output)
    assert re.search(sentence, reason)
    assert f"{bad}-{suffix}.nii" in reason
    assert "Traceback" not in output


def test_truncated_plain_nifti(tree: Any, raw: Path) -> None:
    """Readers fill up what is missing with zeros and say nothing."""
    tree.add(0)
    bad = tree.add(1, ending=".nii")
    path = tree.file(bad, "t1c", ending=".nii")
    path.write_bytes(path.read_bytes()[:-1000])
    (record,) = convert(GLI, tree.root, dataset_id=501).refused
    assert re.search(r"t1c\.nii is truncated", record.reason)


def test_a_case_folder_without_its_files_is_not_passed_over(tree: Any, raw: Path) -> None:
    tree.add(0)
    (tree.root / tree.case_id(1)).mkdir()
    (record,) = convert(GLI, tree.root, dataset_id=501).refused
    assert record.case == tree.case_id(1) and "are missing" in record.reason


def test_no_strict_ends_with_zero(tree: Any, raw: Path) -> None:
    tree.add(0)
    tree.file(tree.add(1), "seg").unlink()
    command = ["convert", GLI, str(tree.root), "-d", "501", "--workers", "1"]
    assert main(command + ["--no-strict"]) == 0
    assert main(command) == 3


def test_a_data_set_without_a_good_case_is_none(tree: Any, raw: Path) -> None:
    tree.file(tree.add(0), "seg").unlink()
    report = convert(GLI, tree.root, dataset_id=501)
    assert not report.good
    assert report.manifest.exists() and not (report.folder / "dataset.json").exists()


# ------------------------------------------------------------------------------------------- the whole run is stopped


def test_download_of_another_release(new_tree: Callable[..., Any], raw: Path) -> None:
    tree = new_tree("other", task="MEN")
    case = tree.add(0)
    with pytest.raises(InputError, match=rf"BraTS-GLI-00000-000-t1n\.nii\.gz were expected, there is .*{case}"):
        convert(GLI, tree.root, dataset_id=501)
    assert not any(raw.iterdir())


def test_source_that_is_no_folder(tmp_path: Path, raw: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        convert(GLI, tmp_path / "nowhere", dataset_id=501)


def test_unknown_release_names_the_nearest(tree: Any, raw: Path) -> None:
    with pytest.raises(InputError, match="did you mean brats2023-gli"):
        convert("brats2023gli", tree.root, dataset_id=501)


def test_unset_folder(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.add(0)
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match="export nnUNet_raw="):
        convert(GLI, tree.root, dataset_id=501)


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_number_taken_under_another_name(variable: str, tree: Any, raw: Path) -> None:
    tree.add(0)
    (raw.parent / variable / "Dataset501_Heart").mkdir()
    with pytest.raises(InputError, match=r"Dataset501_Heart .*choose another with -d"):
        convert(GLI, tree.root, dataset_id=501)


def test_data_set_of_another_program(tree: Any, raw: Path) -> None:
    tree.add(0)
    (raw / "Dataset501_BraTS2023GLI").mkdir()
    (raw / "Dataset501_BraTS2023GLI/dataset.json").write_text("{}")
    with pytest.raises(InputError, match="not written by bdfm convert"):
        convert(GLI, tree.root, dataset_id=501)
    assert (raw / "Dataset501_BraTS2023GLI/dataset.json").read_text() == "{}"


def test_labelled_and_unlabelled_are_not_mixed(tree: Any, raw: Path) -> None:
    tree.add(0)
    convert(GLI, tree.root, dataset_id=501)
    with pytest.raises(InputError, match="choose another with -d"):
        convert(GLI, tree.root, dataset_id=501, unlabelled=True)


def test_cases_of_another_download_are_not_mixed_in(tree: Any, new_tree: Callable[..., Any], raw: Path) -> None:
    tree.add(0)
    convert(GLI, tree.root, dataset_id=501)
    other = new_tree("second part")
    other.add(1)
    with pytest.raises(InputError, match="belongs to no case of the download"):
        convert(GLI, other.root, dataset_id=501)


def test_no_permission_to_write(tree: Any, raw: Path) -> None:
    """A file in the place of the folder: it stops even a run by root, whom permissions do not."""
    tree.add(0)
    (raw / "Dataset501_BraTS2023GLI").write_text("in the way")
    with pytest.raises(InputError, match="Dataset501_BraTS2023GLI"):
        convert(GLI, tree.root, dataset_id=501)
    assert (raw / "Dataset501_BraTS2023GLI").read_text() == "in the way"


@pytest.mark.parametrize("unlabelled", [False, True])
def test_disk_that_takes_no_more(unlabelled: bool, tree: Any, raw: Path) -> None:
    tree.add(0)
    with largest_file(1000), pytest.raises(InputError, match=r"cannot write .*imagesTr.* run the command again"):
        convert(GLI, tree.root, dataset_id=501, unlabelled=unlabelled)
    (folder,) = raw.iterdir()
    assert not (folder / "dataset.json").exists()
    assert not list(folder.rglob("*.nii.gz"))
    report = convert(GLI, tree.root, dataset_id=501, unlabelled=unlabelled)
    assert len(report.good) == 1 and (report.folder / "dataset.json").exists()


def test_hard_link_to_another_disk(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.add(0)

    def other_disk(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", other_disk)
    with pytest.raises(InputError, match="use --link sym or --link copy"):
        convert(GLI, tree.root, dataset_id=501, link="hard")


# ----------------------------------------------------------------------------------------------------- odd file names

ODD = {
    b"a\xff\xfeb": "UTF-8|holds", b"x" * 223: "bytes, at most", b"x" * 248: "bytes, at most", b".hidden": "a dot",
    b"a\nb": "holds", b"a\x1b[31mb": "holds", b"a\\..\\b": "holds", b"a ": "white space", b"..": "a dot",
    b"a:b": "holds", "a\u202egz".encode(): "holds",
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_name_that_no_file_may_have_refuses_its_case_alone(
    name: bytes, tree: Any, raw: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = tree.file(tree.add(0), "t1c")
    root = image.parent / "odd"
    root.mkdir()
    (root / "plain.nii.gz").write_bytes(image.read_bytes())
    shutil.copy(os.fsencode(tree.file(tree.add(1), "t1c")), os.fsencode(root) + b"/" + name + b".nii.gz")
    assert main(["convert", "folder", str(root), "-d", "501", "--unlabelled", "--workers", "1"]) == 3
    assert [path.name for path in raw.rglob("*_0000.nii.gz")] == ["plain_0000.nii.gz"]
    output = capfd.readouterr().out
    (reason,) = re.findall(r"refused .*: its id cannot be the name of a file \((.*)\): rename", output)
    assert re.search(ODD[name], reason) and "\x1b" not in output
    manifest = read_json(raw / "Dataset501_FolderUnlabelled/manifest.json")
    assert sorted(row["status"] for row in manifest["cases"]) == ["ok", "refused"]
    assert main(["splits", "-d", "501", "--check"]) != 1  # it reads the manifest


@pytest.mark.parametrize("name", ['=HYPERLINK("http:x","y")', "+1+1", "@SUM(1)", "--help"])
def test_a_name_that_a_spreadsheet_would_run(name: str, tree: Any, raw: Path) -> None:
    image = tree.file(tree.add(0), "t1c")
    (image.parent / "odd").mkdir()
    (image.parent / "odd" / f"{name}.nii.gz").write_bytes(image.read_bytes())
    convert("folder", image.parent / "odd", dataset_id=501, unlabelled=True)
    with (raw / "Dataset501_FolderUnlabelled/manifest.csv").open(newline="") as stream:
        cells = [cell for line in csv.reader(stream) for cell in line if cell]
    assert f"'{name}" in cells and not [cell for cell in cells if cell[0] in "=+@-"]


def test_a_name_of_the_data_set_that_is_too_long_is_a_sentence(tree: Any, raw: Path) -> None:
    tree.add(0)
    with pytest.raises(InputError, match="at most 200 are possible"):
        convert(folder_release({"a": "**/{case}-t1c"}, name="a" * 300), tree.root, dataset_id=501, unlabelled=True)
    with pytest.raises(InputError, match="at most 200 are possible"):
        make_cohort_dataset(502, [501], name="a" * 300)


def test_links_that_lead_nowhere_say_how_to_fetch(tree: Any, raw: Path) -> None:
    tree.add(0)
    path = tree.file(tree.add(1), "t1c")
    path.unlink()
    path.symlink_to("../.git/annex/objects/x")
    (record,) = convert(GLI, tree.root, dataset_id=501).refused
    assert "is a link whose target ../.git/annex/objects/x is not there" in record.reason
    assert "`datalad get`" in record.reason and not record.reason.startswith("/")


def test_left_overs_in_the_data_set_do_not_stop_a_second_run(tree: Any, raw: Path) -> None:
    case = tree.add(0)
    report = convert(GLI, tree.root, dataset_id=501)
    (report.folder / f"imagesTr/._{case}_0000.nii.gz").write_bytes(b"junk")
    (report.folder / "labelsTr/.DS_Store").write_bytes(b"junk")
    assert convert(GLI, tree.root, dataset_id=501).counts()["ok"] == 1


def test_two_positions_of_one_file_are_noted(tree: Any, raw: Path) -> None:
    """Other programs show it elsewhere than nnU-Net's reader puts it."""
    case = tree.add(0)
    for suffix in ("t1n", "t1c", "t2w", "t2f", "seg"):
        path = tree.file(case, suffix)
        content = gzip.decompress(path.read_bytes())
        header = Nifti1Header(content[:348])
        header["qoffset_x"] += 5.8
        header["qform_code"], header["sform_code"] = 1, 2
        path.write_bytes(gzip.compress(header.binaryblock + content[348:]))
    (record,) = convert(GLI, tree.root, dataset_id=501).records
    assert record.status == "ok"
    assert [note for note in record.notes if "qform" in note and "sform" in note and "5.8" in note]
