"""DICOM SEG objects: on the frames of their source, read back by pydicom alone, and by `bdfm predict` as a whole."""

import builtins
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from bdfm_nnunet import cli
from bdfm_nnunet.dataset_conversion import convert_dicom
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.dicom_key import DicomKey
from bdfm_nnunet.prediction.dicom_segmentations import DicomSources
from tests.conftest import point_to
from tests.dicom_series import Patient, Series, Study, turned
from tests.prediction.test_whole_command import arguments, model

REGIONS = {"background": 0, "whole tumour": [1, 2], "oedema": 2, "ignore": 3}
OBLIQUE = Series(Study(), direction=turned(25, 30))
FRAMES = Series(Study(Patient("Müller^Jürgen", "77")), number=601, spacing=(0.5, 0.5, 6.0), shape=(10, 12, 7))


class Converted:
    """A patient with a file a slice and one with a multi-frame image, converted with a key."""

    def __init__(self, root: Path) -> None:
        OBLIQUE.write(root / "pacs" / "a")
        FRAMES.write_enhanced(root / "pacs" / "b", per_frame=True)
        self.key, self.root = root / "key.json", root
        report = convert_dicom(root / "pacs", dataset_id=71, channels=["T1"], key=self.key)
        self.images = report.folder / "imagesTs"
        names = {patient.id: name for name, patient in DicomKey.read(self.key).patients.items()}
        self.cases = {f"{names[each.study.patient.id]}_ses-01": each for each in (OBLIQUE, FRAMES)}

    def predict(self, folder: Path, labels: dict[str, Any] = REGIONS) -> dict[str, np.ndarray]:
        """Writes random label maps as nnU-Net would, without any in the first slices."""
        folder.mkdir()
        dataset = {"channel_names": {"0": "T1"}, "labels": labels, "file_ending": ".nii.gz", "numTraining": 1}
        (folder / "dataset.json").write_text(json.dumps(dataset))
        found = {}
        for seed, case in enumerate(sorted(self.cases)):
            image = nib.load(self.images / f"{case}_0000.nii.gz")
            found[case] = np.random.default_rng(seed).integers(0, 3, image.shape).astype(np.uint8)
            found[case][..., :3] = 0
            nib.save(nib.Nifti1Image(found[case], image.affine), folder / f"{case}.nii.gz")
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        root = point_to(tmp_path_factory.mktemp("dicom"), monkeypatch)
        Converted(root)
        return root


@pytest.fixture
def converted(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Converted:
    monkeypatch.setattr(sys, "argv", ["bdfm"])
    point_to(made, monkeypatch)
    found = Converted.__new__(Converted)
    found.root, found.key = made, made / "key.json"
    found.images = made / "nnUNet_raw" / "Dataset071_DICOM" / "imagesTs"
    names = {patient.id: name for name, patient in DicomKey.read(found.key).patients.items()}
    found.cases = {f"{names[each.study.patient.id]}_ses-01": each for each in (OBLIQUE, FRAMES)}
    return found


def segments_of(seg: Any, series: Series, root: Path) -> dict[str, np.ndarray]:
    """Segment -> mask (columns, rows, slices) on the source, by the references and the positions of the frames."""
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    slices = {tuple(series.position(k)): k for k in range(series.shape[2])}
    places = {}
    for path in sorted((root / "pacs").rglob("*")):
        if path.is_file() and (source := pydicom.dcmread(path)).SeriesInstanceUID == series.uid:
            frames = source.get("PerFrameFunctionalGroupsSequence", [source])
            for number, frame in enumerate(frames, 1):
                at = (frame.PlanePositionSequence[0] if len(frames) > 1 else frame).ImagePositionPatient
                places[source.SOPInstanceUID, number] = tuple(at)
    names = {segment.SegmentNumber: segment.SegmentLabel for segment in seg.SegmentSequence}
    masks = {name: np.zeros(series.shape, bool) for name in names.values()}
    for frame, plane in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = places[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber", 1)]
        assert np.allclose(place, frame.PlanePositionSequence[0].ImagePositionPatient)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        masks[names[number]][:, :, slices[place]] = plane.T
    return masks


def test_segments_lie_on_the_frames_of_their_source(converted: Converted, tmp_path: Path) -> None:
    maps = converted.predict(tmp_path / "out")
    written = DicomSources(converted.key, converted.images, tmp_path / "seg").write(tmp_path / "out", model="A")
    assert [path.stem for path in written] == sorted(maps)
    for path in written:
        seg, series = pydicom.dcmread(path), converted.cases[path.stem]
        masks = segments_of(seg, series, converted.root)
        assert list(masks) == ["whole tumour", "oedema"]
        assert np.array_equal(masks["whole tumour"], maps[path.stem] > 0)
        assert np.array_equal(masks["oedema"], maps[path.stem] == 2)
        shared = seg.SharedFunctionalGroupsSequence[0]
        assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [series.spacing[1], series.spacing[0]]
        assert np.allclose(
            shared.PlaneOrientationSequence[0].ImageOrientationPatient, series.direction[:, :2].T.ravel(), atol=1e-7
        )
        study = series.study
        assert (seg.PatientID, seg.StudyInstanceUID, seg.FrameOfReferenceUID) == (
            study.patient.id, study.uid, study.reference,
        )  # fmt: skip
        assert seg.Modality == "SEG" and seg.SeriesInstanceUID != series.uid
        types = [each.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for each in seg.SegmentSequence]
        assert types == ["Neoplasm", "Edema"]


def test_a_case_without_any_voxel_is_written_too(converted: Converted, tmp_path: Path) -> None:
    maps = converted.predict(tmp_path / "out")
    case = next(iter(maps))
    image = nib.load(tmp_path / "out" / f"{case}.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), tmp_path / "out" / f"{case}.nii.gz")
    DicomSources(converted.key, converted.images, tmp_path / "seg").write(tmp_path / "out")
    seg = pydicom.dcmread(tmp_path / "seg" / f"{case}.dcm")
    assert not seg.pixel_array.any() and len(seg.SegmentSequence) == 2


def test_prediction_writes_objects_beside_segmentations(converted: Converted, tmp_path: Path) -> None:
    folder = model(tmp_path / "model", axes=3, channels=1, ending=".nii.gz", reader=SimpleITKIO)
    given = [*arguments(folder, converted.images, tmp_path / "out"), "--dicom-seg", str(tmp_path / "seg")]
    assert cli.main([*given, "--key", str(converted.key)]) == 0
    for case, series in converted.cases.items():
        labels = np.asarray(nib.load(tmp_path / "out" / f"{case}.nii.gz").dataobj)
        masks = segments_of(pydicom.dcmread(tmp_path / "seg" / f"{case}.dcm"), series, converted.root)
        assert np.array_equal(masks["a"], labels == 1) and np.array_equal(masks["b"], labels == 2)
        assert masks["a"].any() or masks["b"].any()
    assert not list((tmp_path / "out").glob("*.dcm"))
    case = sorted(converted.cases)[0]
    image = nib.load(tmp_path / "out" / f"{case}.nii.gz")
    corrected = np.zeros(image.shape, np.uint8)
    corrected[2:4, 3:6, 1:3] = 2
    nib.save(nib.Nifti1Image(corrected, image.affine), tmp_path / "out" / f"{case}.nii.gz")
    assert cli.main([*given, "--key", str(converted.key), "--continue_prediction"]) == 0
    masks = segments_of(pydicom.dcmread(tmp_path / "seg" / f"{case}.dcm"), converted.cases[case], converted.root)
    assert np.array_equal(masks["b"], corrected == 2) and not masks["a"].any()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--dicom-seg", "seg"], "--dicom-seg FOLDER and --key KEY.json go together"),
        (["--key", "{key}"], "--dicom-seg FOLDER and --key KEY.json go together"),
        (["--dicom-seg", "{out}", "--key", "{key}"], "objects that name patients need another folder"),
        (["--dicom-seg", "seg", "--key", "missing.json"], "missing.json does not exist"),
    ],
)
def test_contradictions(
    more: list[str], sentence: str, converted: Converted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments(tmp_path / "model", converted.images, tmp_path / "out")
    options = [text.format(key=converted.key, out=tmp_path / "out") for text in more]
    assert cli.main([*given, *options]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_sources_are_checked_before_the_prediction(converted: Converted, tmp_path: Path) -> None:
    images, key = tmp_path / "images", tmp_path / "key.json"
    shutil.copytree(converted.images, images)
    content = json.loads(converted.key.read_text())
    case, other = sorted(converted.cases)
    first = sorted(images.iterdir())[0]

    def told(cases: dict[str, Any]) -> str:
        key.write_text(json.dumps(content | {"cases": cases}))
        with pytest.raises(InputError) as error:
            DicomSources(key, images, tmp_path / "seg")
        return str(error.value)

    known = content["cases"]
    assert f"does not know {other}" in told({case: known[case]})
    moved = [known[case][0] | {"files": ["/nowhere/1"]}]
    assert f"the series for T1 of {case} in {key} is not where it was (/nowhere/1)" in told(known | {case: moved})
    assert "is not where it was" in told(known | {case: [known[case][0] | {"files": known[other][0]["files"]}]})
    assert "has the grid of its images" in told(known | {case: known[other]})
    image = nib.load(first)
    shifted = image.affine @ np.array([[1, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), shifted), first)
    assert "has the grid of its images" in told(known)


def test_a_segmentation_on_another_grid_is_refused(converted: Converted, tmp_path: Path) -> None:
    case = next(iter(converted.predict(tmp_path / "out")))
    path = tmp_path / "out" / f"{case}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., :-1], image.affine), path)
    with pytest.raises(InputError, match="has another shape than the series that it was made from"):
        DicomSources(converted.key, converted.images, tmp_path / "seg").write(tmp_path / "out")


LESS = ("PatientSex", "PatientName", "StudyTime", "StudyID", "AccessionNumber", "SliceThickness", "SeriesNumber")


@pytest.mark.parametrize("multiframe", [False, True])
def test_sources_that_an_anonymiser_has_thinned_out(
    multiframe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def thin_out(dataset: Any, _: int = 0) -> None:
        for name in LESS:
            if name in dataset:
                del dataset[name]

    point_to(tmp_path, monkeypatch)
    if multiframe:
        OBLIQUE.write_enhanced(tmp_path / "pacs" / "x", change=thin_out)
    else:
        OBLIQUE.write(tmp_path / "pacs", change=thin_out)
    report = convert_dicom(tmp_path / "pacs", dataset_id=72, channels=["T1"], key=tmp_path / "key.json")
    path = report.folder / "imagesTs" / "sub-0001_ses-01_0000.nii.gz"
    out = tmp_path / "out"
    out.mkdir()
    labels = np.random.default_rng(0).integers(0, 3, OBLIQUE.shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, nib.load(path).affine), out / "sub-0001_ses-01.nii.gz")
    dataset = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1, "b": 2}, "file_ending": ".nii.gz"}
    (out / "dataset.json").write_text(json.dumps(dataset | {"numTraining": 1}))
    (written,) = DicomSources(tmp_path / "key.json", path.parent, tmp_path / "seg").write(out)
    assert np.array_equal(segments_of(pydicom.dcmread(written), OBLIQUE, tmp_path)["a"], labels == 1)


@pytest.mark.parametrize("package", ["pydicom", "highdicom"])
def test_missing_packages_are_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == package:
            raise ImportError(name)
        return original(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=rf'needs the package {package}.*pip install "bdfm-nnunet\[dicom\]"'):
        DicomSources(tmp_path / "key.json", tmp_path, tmp_path)
