"""The archive for a challenge, and what keeps one from being written."""

import gzip
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.dataset_conversion import RELEASES, Release, convert, find_release
from bdfm_nnunet.dataset_conversion.submission import make_submission
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json

SHAPE = (240, 240, 155)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
CASES = {
    "brats2018": "Brats18_CBICA_AAB_1",
    "brats2020": "BraTS20_Validation_001",
    "brats2021": "BraTS2021_00001",
    "brats2023-gli": "BraTS-GLI-00001-000",
    "brats2024-ped": "BraTS-PED-00001-000",
}


def _labels(values: list[int], shape: tuple[int, ...] = SHAPE, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    labels[1:6, 1:6, 1:6] = random.choice(values, (5, 5, 5))
    return labels


def _write(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = nib.Nifti1Image(values, affine).to_bytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def _member(archive: Path, name: str) -> nib.Nifti1Image:
    with zipfile.ZipFile(archive) as content:
        return nib.Nifti1Image.from_bytes(gzip.decompress(content.read(name)))


@pytest.mark.parametrize("name", CASES)
def test_names_labels_and_grid_of_the_release(name: str, tmp_path: Path) -> None:
    release, case = find_release(name), CASES[name]
    predicted = _labels(sorted(release.inverse_label_map()))
    _write(tmp_path / f"out/{case}.nii.gz", predicted)
    report = make_submission(tmp_path / "out", release=release, out=tmp_path / "s.zip")
    image = _member(tmp_path / "s.zip", f"{case}.nii.gz")
    expected = predicted.copy()
    for value, there in release.inverse_label_map().items():
        expected[predicted == value] = there
    assert np.array_equal(np.asarray(image.dataobj), expected)
    assert image.get_data_dtype() == np.uint8
    assert np.array_equal(image.affine, AFFINE)
    content = read_json(tmp_path / "s.json")
    assert content["members"][0]["labels"] == {str(v): int((expected == v).sum()) for v in np.unique(expected)}
    assert report.empty == []


def test_labels_go_round(tmp_path: Path, raw: Path) -> None:
    """Source to nnU-Net by the converter, and back by the submission, bit for bit."""
    case, random = "BraTS2021_00007", np.random.default_rng(3)
    source = _labels([1, 2, 4])
    for suffix in ("t1", "t1ce", "t2", "flair"):
        image = random.integers(1, 900, SHAPE, dtype=np.int16)
        _write(tmp_path / f"download/{case}/{case}_{suffix}.nii.gz", image)
    _write(tmp_path / f"download/{case}/{case}_seg.nii.gz", source)
    folder = convert("brats2021", tmp_path / "download", dataset_id=21).folder
    make_submission(
        folder / "labelsTr", release=find_release("brats2021"), out=tmp_path / "s.zip", images=folder / "imagesTr"
    )
    assert np.array_equal(np.asarray(_member(tmp_path / "s.zip", f"{case}.nii.gz").dataobj), source)


def test_same_predictions_give_the_same_archive(tmp_path: Path) -> None:
    for number in range(3):
        _write(tmp_path / f"out/BraTS2021_{number:05d}.nii.gz", _labels([0, 1, 2, 3], seed=number))
    release = RELEASES["brats2021"]
    archives = [tmp_path / "a.zip", tmp_path / "b.zip"]
    for archive in archives:
        make_submission(tmp_path / "out", release=release, out=archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with zipfile.ZipFile(archives[0]) as content:
        assert content.namelist() == [f"BraTS2021_{number:05d}.nii.gz" for number in range(3)]
        assert content.testzip() is None


def test_empty_predictions_are_named(tmp_path: Path) -> None:
    _write(tmp_path / "out/BraTS2021_00000.nii.gz", np.zeros(SHAPE, np.uint8))
    report = make_submission(tmp_path / "out", release=RELEASES["brats2021"], out=tmp_path / "s.zip")
    assert report.empty == ["BraTS2021_00000"]
    assert "empty: BraTS2021_00000" in report.summary()


def test_names_that_are_handed_in_already(tmp_path: Path) -> None:
    case = "BraTS-MEN-RT-0002-1"
    image = np.random.default_rng(0).integers(1, 9, (9, 8, 7), dtype=np.int16)
    _write(tmp_path / f"images/{case}_0000.nii.gz", image)
    _write(tmp_path / f"out/{case}_gtv.nii.gz", _labels([1], (9, 8, 7)))
    release = RELEASES["brats2024-men-rt"]
    make_submission(tmp_path / "out", release=release, out=tmp_path / "s.zip", images=tmp_path / "images")
    assert _member(tmp_path / "s.zip", f"{case}_gtv.nii.gz").shape == (9, 8, 7)


FAULTS = {
    "is no case id": lambda out: _write(out / "BraTS2021_1.nii.gz", _labels([1])),
    "are the same case": lambda out: _write(out / "BraTS2021_00000.nii", _labels([1])),
    "has shape 8 x 8 x 8": lambda out: _write(out / "BraTS2021_00001.nii.gz", np.zeros((8, 8, 8), np.uint8)),
    "has label 7": lambda out: _write(out / "BraTS2021_00001.nii.gz", _labels([7])),
    "has origin": lambda out: _write(out / "BraTS2021_00001.nii.gz", _labels([1]), np.diag([-1.0, -1, 1, 1])),
    "has spacing": lambda out: _write(out / "BraTS2021_00001.nii.gz", _labels([1]), AFFINE * [[1], [1], [2], [1]]),
    "truncated": lambda out: (out / "BraTS2021_00001.nii.gz").write_bytes(gzip.compress(bytes(2000))[:-9]),
}


@pytest.mark.parametrize("sentence", FAULTS)
def test_nothing_is_written_where_anything_is_wrong(sentence: str, tmp_path: Path) -> None:
    _write(tmp_path / "out/BraTS2021_00000.nii.gz", _labels([1, 2, 3]))
    FAULTS[sentence](tmp_path / "out")
    with pytest.raises(InputError, match=sentence):
        make_submission(tmp_path / "out", release=RELEASES["brats2021"], out=tmp_path / "s.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_cases_are_those_of_the_images(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 9, (9, 8, 7), dtype=np.int16)
    for number in (0, 1):
        _write(tmp_path / f"images/BraTS2021_{number:05d}_0000.nii.gz", image)
    for number in (1, 2):
        _write(tmp_path / f"out/BraTS2021_{number:05d}.nii.gz", np.zeros((9, 8, 7), np.uint8))
    with pytest.raises(InputError, match=r"2 faults: BraTS2021_00000 has an image but no prediction; .*00002"):
        make_submission(
            tmp_path / "out", release=RELEASES["brats2021"], out=tmp_path / "s.zip", images=tmp_path / "images"
        )


@pytest.mark.parametrize(
    ("name", "out", "sentence"),
    [
        ("oasis3", "s.zip", "is no challenge"),
        ("brats2021", "s.tar", "does not end in .zip"),
        ("brats2024-men-rt", "s.zip", "with --images"),
    ],
)
def test_requests_that_cannot_be_met(name: str, out: str, sentence: str, tmp_path: Path) -> None:
    release: Release = RELEASES[name]
    _write(tmp_path / f"out/{CASES.get(name, 'BraTS-MEN-RT-0002-1')}.nii.gz", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(InputError, match=sentence):
        make_submission(tmp_path / "out", release=release, out=tmp_path / out)


@pytest.mark.parametrize("plant", ["hidden", "other format", "folder"])
def test_nothing_in_the_folder_is_left_out_in_silence(plant: str, tmp_path: Path) -> None:
    _write(tmp_path / "out/BraTS2021_00000.nii.gz", np.zeros(SHAPE, np.uint8))
    name = {"hidden": ".BraTS2021_00001.nii.gz", "other format": "x.mha", "folder": "BraTS2021_00001.nii"}[plant]
    (tmp_path / "out" / name).mkdir()
    with pytest.raises(InputError, match=name):
        make_submission(tmp_path / "out", release=RELEASES["brats2021"], out=tmp_path / "s.zip")


def test_a_data_set_of_ones_own_is_packed_in_its_source_values(tmp_path: Path) -> None:
    shape, data = (9, 8, 7), tmp_path / "Dataset061_Ours"
    _write(tmp_path / "images/a_0000.nii.gz", np.random.default_rng(0).integers(1, 9, shape, dtype=np.int16))
    _write(tmp_path / "out/a.nii.gz", _labels([1, 2], shape))
    data.mkdir()
    labels = {"background": 0, "all": [1, 2], "core": 2}
    content = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    write_json(data / "dataset.json", content)
    write_json(data / "manifest.json", {"inverse_labels": {"1": 10, "2": 2035}})
    command = ["submit", str(tmp_path / "out"), "--dataset-json", str(data / "dataset.json"), "-o",
               str(tmp_path / "s.zip"), "--workers", "1"]  # fmt: skip
    assert main(command) == 2
    assert main([*command, "--images", str(tmp_path / "images")]) == 0
    found = np.asarray(_member(tmp_path / "s.zip", "a.nii.gz").dataobj)
    assert np.array_equal(found, np.array([0, 10, 2035])[_labels([1, 2], shape)])
