"""`bdfm convert dicom` as a whole: voxels, geometry, pseudonyms, the table of series, the key, and refusals."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from bdfm_nnunet.cli import main
from bdfm_nnunet.dataset_conversion import dicom_folders
from bdfm_nnunet.dataset_conversion.reading import dicom_tree
from bdfm_nnunet.dataset_conversion.writing.case_conversion import convert_case
from bdfm_nnunet.files import read_json
from bdfm_nnunet.images.dicom_key import DicomKey
from bdfm_nnunet.patients import groups, read_cases
from bdfm_nnunet.table_files import write_table
from tests.dataset_conversion.converted_dicom import assert_is, convert, everything_in, image, rows_of
from tests.dicom_series import Patient, Series, Study, as_jpeg_lossless, secrets_of, turned

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


SHAPES: dict[str, Callable[[Study], Series]] = {
    "axial": Series,
    "oblique": lambda study: Series(study, direction=turned(33, 21)),
    "sagittal": lambda study: Series(study, direction=np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]])),
    "thick": lambda study: Series(study, spacing=(0.45, 0.45, 6.6), thickness=5.5, shape=(20, 18, 6)),
    "signed and scaled": lambda study: Series(study, type=np.int16, slope=0.732),
    "thirty slices downwards": lambda study: Series(study, shape=(8, 9, 30), direction=np.diag([1.0, -1, -1])),
}


@pytest.mark.parametrize("multiframe", [False, True], ids=["a file a slice", "multi-frame"])
@pytest.mark.parametrize("name", SHAPES)
def test_voxels_and_positions_are_exact(name: str, multiframe: bool, pacs: Path, raw: Path) -> None:
    series = SHAPES[name](Study())
    series.write_enhanced(pacs / "IM1") if multiframe else series.write(pacs)
    assert convert(pacs, "--channels", "T1") == 0
    found = image(raw, "sub-0001_ses-01")
    assert_is(found, series)
    row = read_json(raw / "Dataset070_DICOM" / "manifest.json")["cases"][0]
    assert (row["patient"], row["session"], row["part"]) == ("sub-0001", "01", "test")


@pytest.mark.parametrize("name", SHAPES)
def test_another_reader_sees_the_same_volume(name: str, pacs: Path, raw: Path) -> None:
    """SimpleITK on the files of the series, and on the volume that was made of them."""
    series = SHAPES[name](Study())
    series.write(pacs)
    assert convert(pacs, "--channels", "T1") == 0
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(pacs)))
    theirs, ours = reader.Execute(), sitk.ReadImage(image(raw, "sub-0001_ses-01").get_filename())
    assert theirs.GetSize() == ours.GetSize()
    for what in ("Spacing", "Origin", "Direction"):
        assert np.allclose(getattr(theirs, f"Get{what}")(), getattr(ours, f"Get{what}")(), atol=1e-4)
    assert np.allclose(sitk.GetArrayFromImage(theirs), sitk.GetArrayFromImage(ours), rtol=1e-6)


@pytest.mark.parametrize("encode", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"], ids=["RLE", "JPEG-LS"])
def test_lossless_compression_changes_nothing(encode: str, pacs: Path, raw: Path) -> None:
    series = Series(Study())
    series.write(pacs, encode=pydicom.uid.UID(encode))
    assert convert(pacs, "--channels", "T1") == 0
    assert_is(image(raw, "sub-0001_ses-01"), series)


@pytest.mark.parametrize("multiframe", [False, True])
def test_jpeg_lossless_is_read_without_further_packages(multiframe: bool, pacs: Path, raw: Path) -> None:
    """The values are those that are stored, and each frame has its own slope."""
    series = Series(Study(), slope=0.75)
    if multiframe:
        series.write_enhanced(pacs / "x", change=as_jpeg_lossless)
    else:
        series.write(pacs, change=as_jpeg_lossless)
    assert convert(pacs, "--channels", "T1") == 0
    assert_is(image(raw, "sub-0001_ses-01"), series)


@pytest.mark.parametrize("change", [None, as_jpeg_lossless], ids=["plain", "compressed"])
def test_every_frame_has_its_own_slope(change: Any, pacs: Path, raw: Path) -> None:
    def scale(dataset: Dataset, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{1 + 0.25 * k}", f"{-k}"
        if change is not None:
            change(dataset)

    series = Series(Study())
    series.write(pacs, change=scale)
    assert convert(pacs, "--channels", "T1") == 0
    k = np.arange(series.shape[2])
    values = np.asarray(image(raw, "sub-0001_ses-01").dataobj)
    assert np.array_equal(values, (series.values * (1 + 0.25 * k) - k).astype(np.float32))


def test_visits_patients_and_channels(pacs: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several studies of several patients in one folder of files without endings, with a DICOMDIR and others beside."""
    jane, juergen = Patient(), Patient("Müller^Jürgen^^Dr", "KH77123", "19500101")
    visits = [Study(jane, date="20190214"), Study(jane, date="20170101"), Study(juergen, date="20200202")]
    t1 = [Series(visit, seed=n) for n, visit in enumerate(visits)]
    flair = [
        each.like(
            number=7, description="t2_space_dark-fluid", echo=380.0, repetition=5000.0, inversion=1800.0, kind="SE"
        )
        for each in t1
    ]
    for n, series in enumerate((*t1, *flair)):
        series.write(pacs / series.study.patient.name.replace("^", " ") / "DICOM" / f"{n}", name="I{:d}")
    monkeypatch.setattr(dicom_tree, "FILES_AT_ONCE", 7)
    localizer = t1[0].like(number=1, description="localizer")
    localizer.write(pacs, name="L{:d}")
    (pacs / "DICOMDIR").write_bytes(_directory())
    (pacs / "report.pdf").write_bytes(b"%PDF-1.4 Jane Doe")
    (pacs / ".DS_Store").touch()
    assert convert(pacs, "--channels", "FLAIR,T1", "--unlabelled") == 0
    folder = raw / "Dataset070_DICOMUnlabelled"
    rows = read_json(folder / "manifest.json")["cases"]
    assert len(rows) == 3 and {row["session"] for row in rows} == {"01", "02"}
    cases = read_cases(folder)
    assert len(set(groups(cases.rows, cases.scope).values())) == 2
    twice = next(row["patient"] for row in rows if row["session"] == "02")
    once = {"sub-0001": "sub-0002", "sub-0002": "sub-0001"}[twice]
    for case, n in ((f"{twice}_ses-01", 1), (f"{twice}_ses-02", 0), (f"{once}_ses-01", 2)):
        for channel, series in enumerate((flair[n], t1[n])):
            assert_is(image(raw, case, channel, name="DICOMUnlabelled", part="Tr"), series)
    assert read_json(folder / "dataset.json")["channel_names"] == {"0": "FLAIR", "1": "T1"}


def _directory() -> bytes:
    path = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests" / "DICOMDIR"
    return path.read_bytes()


def test_no_output_tells_who_it_is(pacs: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, numbers, dates and UIDs are in no file, in no name of a file and in nothing that is printed."""
    first, other = Study(), Study(Patient("Müller^Jürgen", "KH77123", "19500101"), date="20200202", accession="A-99/17")
    series = [
        Series(first, description="t1 Doe Jane 14.02.2019 ACC7781 PID00042 House"),
        Series(other, description="T1_mueller^JUERGEN_20200202_A-99/17", direction=turned(5)),
    ]
    broken = Series(Study(Patient("Smith^Winston", "WS6079X", "19440404")), description="T1 winston smith WS6079X")
    for n, each in enumerate(series):
        each.write(
            pacs / f"{each.study.patient.name} {each.study.date}" / each.uid, name=f"{n}_{each.study.accession[:3]}{{}}"
        )
    broken.write(pacs / "Smith", slices=[0, 1, 2, 6, 7])
    out = tmp_path / "shared"
    assert convert(pacs, "--dry-run", "--series", out / "s.csv", "--manifest", out / "dry.json") == 3
    assert convert(pacs, "--channels", "T1", "--unlabelled", "--key", tmp_path / "key.json") == 3
    shown = capsys.readouterr()
    assert "has a gap" in shown.out
    text = everything_in(raw) + everything_in(out) + shown.out.replace(str(tmp_path), "") + shown.err
    found = [secret for secret in secrets_of(*series, broken) if secret.casefold() in text.casefold()]
    assert not found and "Jane" not in text.replace(str(pacs), "")
    descriptions = {row["description"] for row in rows_of(out / "s.csv")}
    assert descriptions == {"t1", "T1"}
    key = (tmp_path / "key.json").read_text(encoding="utf-8")
    assert "Doe^Jane" in key and first.uid in key and (tmp_path / "key.json").stat().st_mode & 0o077 == 0


def test_table_of_series_is_written_edited_and_passed_back(
    pacs: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study, table = Study(), tmp_path / "series.csv"
    coarse, fine = Series(study, number=2, spacing=(2.0, 2.4, 4.0)), Series(study, number=4, seed=1)
    odd = fine.like(number=9, description="WIP 12", echo=3.0, repetition=9.0, inversion=None, seed=2)
    for n, series in enumerate((coarse, fine, odd)):
        series.write(pacs / str(n))
    assert convert(pacs, "--dry-run", "--series", table, "--manifest", tmp_path / "m.json") == 0
    rows = {row["series"].rpartition("-")[2]: row for row in rows_of(table)}
    assert [rows[n]["channel"] for n in ("002", "004", "009")] == ["", "T1", ""]
    assert "ser-004 was taken" in rows["002"]["note"] and rows["004"]["voxels"] == "12 x 14 x 10"
    assert (rows["004"]["plane"], rows["004"]["echo_time"], rows["004"]["spacing"]) == ("axial", "2.5", "1 x 1.2 x 2")
    rows["002"]["channel"], rows["004"]["channel"], rows["009"]["channel"] = "coarse", "", "T1"
    write_table(table, [list(rows["002"]), *(list(row.values()) for row in rows.values())])
    assert convert(pacs, "--channels", "T1", "--series", table) == 0
    assert_is(image(raw, "sub-0001_ses-01"), odd)
    first, *others = rows_of(table)
    write_table(table, [list(first), list(first.values()), list(first.values())])
    assert convert(pacs, "--channels", "T1", "--series", table) == 2
    assert "has two rows" in capsys.readouterr().err


def test_series_on_other_grids_are_refused_or_resampled(
    pacs: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    t1 = Series(Study(), shape=(24, 24, 20), spacing=(1.0, 1.0, 1.0))
    thick = t1.like(
        number=5, description="t2_flair_tra", echo=90.0, repetition=9000.0, inversion=2500.0, kind="SE",
        shape=(24, 24, 5), spacing=(1.0, 1.0, 4.0),
    )  # fmt: skip
    t1.write(pacs / "a")
    thick.write(pacs / "b")
    assert convert(pacs, "--channels", "T1,FLAIR") == 3
    assert "resample all onto one channel, as with --resample T1" in capsys.readouterr().out
    assert convert(pacs, "--channels", "T1,FLAIR", "--resample", "T1") == 0
    assert_is(image(raw, "sub-0001_ses-01"), t1)
    flair = np.asarray(image(raw, "sub-0001_ses-01", 1).dataobj)
    assert flair.shape == t1.shape and np.allclose(flair[:, :, ::4], thick.values)
    assert np.allclose(flair[:, :, 2], thick.values[:, :, :2].mean(axis=2), atol=0.5)
    row = read_json(raw / "Dataset070_DICOM" / "manifest.json")["cases"][0]
    assert any("resampled from 24 x 24 x 5 voxels of 1 x 1 x 4 mm onto the grid of T1" in note for note in row["notes"])


def test_other_frames_of_reference_are_not_resampled(pacs: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    t1 = Series(Study())
    flair = t1.like(
        description="flair",
        number=4,
        inversion=None,
        echo=90.0,
        repetition=9000.0,
        spacing=(1.0, 1.2, 1.0),
        study=replace(t1.study, reference="1.2.3"),
    )
    t1.write(pacs / "a")
    flair.write(pacs / "b")
    assert convert(pacs, "--channels", "T1,FLAIR", "--resample", "T1") == 3
    assert "no common frame of reference" in capsys.readouterr().out


def test_labels_drawn_on_the_images_make_a_data_set_with_them(pacs: Path, raw: Path) -> None:
    """As docs/data.md shows."""
    jane = Patient()
    visits = [Study(jane), Study(jane, date="20200101"), Study(Patient("Roe^Richard", "8"))]
    for n, visit in enumerate(visits):
        Series(visit, seed=n).write(pacs / str(n))
    assert convert(pacs, "--channels", "T1") == 0
    source = raw / "Dataset070_DICOM"
    (source / "drawn").mkdir()
    for path in (source / "imagesTs").iterdir():
        drawn = np.zeros(Series(visits[0]).shape, np.uint8)
        drawn[3:6, 3:6, 3:6] = 1
        nib.save(nib.Nifti1Image(drawn, nib.load(path).affine), source / "drawn" / path.name.replace("_0000", ""))
    options = ["--image", "T1=imagesTs/{case}_0000", "--label", "drawn/{case}", "--labels", "1=tumour"]
    command = ["convert", "folder", str(source), "-d", "71", "--name", "Ours", "--workers", "1", *options]
    assert main([*command, "--patient", r"(sub-\d+)"]) == 0
    cases = read_cases(raw / "Dataset071_Ours")
    assert len(cases.rows) == 3 and len(set(groups(cases.rows, cases.scope).values())) == 2


def test_patients_to_whom_an_anonymiser_gave_the_same_uids_stay_apart(pacs: Path, raw: Path, tmp_path: Path) -> None:
    one = Series(Study(Patient("Anon", "1")))
    other = replace(one, study=replace(one.study, patient=Patient("Anon", "2")), seed=1)
    for n, each in enumerate((one, other)):
        each.write(pacs / str(n))
    table = tmp_path / "series.csv"
    assert convert(pacs, "--dry-run", "--series", table, "--manifest", tmp_path / "m.json") == 0
    assert convert(pacs, "--channels", "T1", "--series", table) == 0
    found = [np.asarray(image(raw, f"sub-000{n}_ses-01").dataobj) for n in (1, 2)]
    for each in (one, other):
        assert sum(np.array_equal(values, each.values) for values in found) == 1


def test_orders_reach_other_processes(pacs: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_folders, "convert_case", lambda order: convert_case(pickle.loads(pickle.dumps(order))))
    series = Series(Study())
    series.write(pacs)
    assert convert(pacs, "--channels", "T1") == 0
    assert_is(image(raw, "sub-0001_ses-01"), series)


def test_copies_of_a_file_count_once(pacs: Path, raw: Path) -> None:
    series = Series(Study())
    for path in series.write(pacs / "a"):
        (pacs / f"{path.name} (copy).dcm").write_bytes(path.read_bytes())
    assert convert(pacs, "--channels", "T1") == 0
    assert_is(image(raw, "sub-0001_ses-01"), series)
    assert (
        "10 files are copies of others and were read once"
        in read_json(raw / "Dataset070_DICOM" / "manifest.json")["notes"]
    )


def test_key_keeps_numbers_when_patients_are_added(
    pacs: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, known = tmp_path / "safe" / "key.json", {}
    for n in range(4):
        series = Series(Study(Patient(f"Name{n}^X", f"N{n}")), seed=n)
        series.write(pacs / str(n))
        assert convert(pacs, "--channels", "T1", "--key", key) == 0
        patients = {patient.id: name for name, patient in DicomKey.read(key).patients.items()}
        assert known.items() <= patients.items() and len(patients) == n + 1
        known = patients
        assert_is(image(raw, f"{patients[f'N{n}']}_ses-01"), series)
    earlier = Study(Patient("Name0^X", "N0"), date="19990101")
    Series(earlier).write(pacs / "earlier")
    assert convert(pacs, "--channels", "T1", "--key", key) == 0
    assert DicomKey.read(key).patients[known["N0"]].studies["02"] == earlier.uid
    shortened = DicomKey.read(key)
    del shortened.patients[known["N0"]].studies["01"]
    shortened.write(key)
    assert convert(pacs, "--dry-run", "--key", key, "--manifest", tmp_path / "m.json") == 0
    assert set(DicomKey.read(key).patients[known["N0"]].studies) == {"02", "03"}
    assert convert(pacs, "--channels", "T1") == 2
    assert "without a key numbers may change" in capsys.readouterr().err


def test_second_run_reads_nothing_again_and_sees_changes(
    pacs: Path, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bdfm_nnunet.dataset_conversion.writing import dicom_order

    read: list[str] = []
    original = dicom_order.read_stack
    monkeypatch.setattr(dicom_order, "read_stack", lambda stack, name: [read.append(name), original(stack, name)][1])
    series = [Series(Study(Patient(f"A^{n}", f"{n}")), seed=n) for n in range(2)]
    for n, each in enumerate(series):
        each.write(pacs / str(n))
    for expected in (2, 0):
        read.clear()
        assert convert(pacs, "--channels", "T1") == 0
        assert len(read) == expected
    changed = replace(series[1], seed=9)
    changed.write(pacs / "1", change=lambda dataset, k: setattr(dataset, "ImageComments", "again"))
    read.clear()
    assert convert(pacs, "--channels", "T1") == 0
    assert len(read) == 1


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ([], "no channels were named: name them with --channels; the cases have T1 (1)"),
        (["--channels", "T2"], "name one or more of those that the cases have, each once: T1 (1)"),
        (["--channels", "T1", "--resample", "T2"], "--resample T2 is none of the channels T1"),
        (["--channels", "T1", "--link", "sym"], "--link cannot be used here"),
        (["--channels", "T1", "--key", "key.txt"], "name a file that ends in .json"),
        (["--channels", "T1", "--key", "{raw}/key.json"], "lies in nnUNet_raw, whose files are shared"),
        (["--channels", "T1", "--key", "{bad}"], "is not as expected (scope is missing)"),
        (["--channels", "T1", "--key", "{odd}"], "has the case '../x_ses-01', expected one such as sub-0001_ses-01"),
        (["--channels", "T1", "--series", "{bad}"], "has no columns channel and mark"),
        (["--channels", "T1", "--series", "table.txt"], "name a file that ends in .csv"),
        (["--channels", "T1", "--image", "a={case}"], "--image cannot be used here"),
        (["--channels", "T1", "--spacing", "2"], "--spacing cannot be used here"),
    ],
)
def test_bad_options(
    more: list[str], sentence: str, pacs: Path, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text(json.dumps({"a": 1}))
    person = {"id": "1", "issuer": "", "name": "", "studies": {}}
    (tmp_path / "odd.json").write_text(json.dumps({"scope": "a", "patients": {"../x": person}, "cases": {}}))
    Series(Study()).write(pacs)
    names = {"raw": raw, "bad": tmp_path / "bad.json", "odd": tmp_path / "odd.json", "case": "{case}"}
    assert convert(pacs, *(text.format(**names) for text in more)) == 2
    assert sentence in capsys.readouterr().err


def test_folders_without_images(pacs: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pacs / "notes.txt").write_text("Jane Doe")
    assert convert(pacs, "--channels", "T1") == 2
    assert "holds no series of DICOM images; 1 files are no DICOM" in capsys.readouterr().err
    assert convert(pacs / "missing", "--channels", "T1") == 2
    assert "is not a folder" in capsys.readouterr().err


def test_options_for_dicom_are_for_dicom(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["convert", "folder", str(tmp_path), "-d", "70", "--key", "k.json"]) == 2
    assert "--key cannot be used here: it is for `bdfm convert dicom`" in capsys.readouterr().err


def test_strangers_files_are_sorted_or_passed_over(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files that pydicom carries for its own tests: many kinds, makers, syntaxes and faults."""
    source = Path(pydicom.__file__).parent / "data" / "test_files"
    assert convert(source, "--dry-run", "--manifest", raw / "m.json", "--series", raw / "s.csv") == 3
    shown = capsys.readouterr().out
    assert "DICOM files without images were passed over: CT (50), DICOMDIR (8), ECG (1), RTDOSE (7)" in shown
    rows = rows_of(raw / "s.csv")
    assert (
        shown.count("refused sub-") == 20 and len(rows) == 29 and {row["channel"] for row in rows} == {"", "T1c", "T2"}
    )
