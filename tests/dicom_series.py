"""DICOM series as scanners write them, small and made up, with patients who have names."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"
STRAIGHT = np.eye(3)


def turned(degrees: float, tilt: float = 0.0) -> np.ndarray:
    """Directions of rows, columns and slices, as columns: turned about z, then tilted about x."""
    a, b = np.radians([degrees, tilt])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_x @ about_z


@dataclass(frozen=True)
class Patient:
    name: str = "Doe^Jane"
    id: str = "PID00042"
    birth: str = "19610503"


@dataclass(frozen=True)
class Study:
    """A visit; its UIDs are found again in no output."""

    patient: Patient = Patient()
    date: str = "20190214"
    uid: str = field(default_factory=lambda: str(generate_uid()))
    reference: str = field(default_factory=lambda: str(generate_uid()))
    accession: str = "ACC7781"


@dataclass(frozen=True)
class Series:
    """One series of a study, along with how it was measured."""

    study: Study
    number: int | None = 3
    description: str = "t1_mprage_sag"
    shape: tuple[int, int, int] = (12, 14, 10)
    spacing: tuple[float, float, float] = (1.0, 1.2, 2.0)
    direction: np.ndarray = field(default_factory=lambda: STRAIGHT)
    origin: tuple[float, float, float] = (-30.5, 22.25, 7.0)
    thickness: float = 2.0
    echo: float = 2.5
    repetition: float = 2200.0
    inversion: float | None = 900.0
    kind: str = "GR"
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M")
    agent: str = ""
    seed: int = 0
    slope: float = 1.0
    uid: str = field(default_factory=lambda: str(generate_uid()))
    type: Any = np.uint16

    @property
    def values(self) -> np.ndarray:
        """Stored values, (columns, rows, slices): a bright ball in noise."""
        noise = np.random.default_rng(self.seed).integers(1, 60, self.shape)
        grid = np.meshgrid(*(np.linspace(-1, 1, size) for size in self.shape), indexing="ij")
        return (noise + 900 * (np.sum(np.square(grid), axis=0) < 0.6)).astype(self.type)

    @property
    def affine(self) -> np.ndarray:
        """From voxel to mm in LPS."""
        affine = np.eye(4)
        affine[:3, :3] = self.direction * self.spacing
        affine[:3, 3] = self.origin
        return affine

    def like(self, **changes: Any) -> "Series":
        """Another series of the same study."""
        return replace(self, uid=str(generate_uid()), **changes)

    def position(self, k: int) -> list[float]:
        return [round(float(x), 6) for x in (self.affine @ (0, 0, k, 1))[:3]]

    def write(
        self, folder: Path, *, slices: Sequence[int] | None = None, name: str = "IM{:04d}",
        change: Callable[[Dataset, int], None] | None = None, encode: UID | None = None,
    ) -> list[Path]:  # fmt: skip
        """Writes one file a slice, in an order that is not that of space."""
        folder.mkdir(parents=True, exist_ok=True)
        chosen, paths = list(range(self.shape[2]) if slices is None else slices), []
        for order, k in enumerate(sorted(chosen, key=lambda k: (k * 7) % 11)):
            dataset = self.slice(k)
            if change is not None:
                change(dataset, k)
            if encode is not None:
                dataset.compress(encode)
            path = folder / name.format(order)
            dataset.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    def slice(self, k: int) -> FileDataset:
        dataset = self._dataset(MR)
        dataset.InstanceNumber = k + 1
        dataset.ImagePositionPatient = self.position(k)
        dataset.ImageOrientationPatient = self._orientation()
        dataset.PixelSpacing = [self.spacing[1], self.spacing[0]]
        dataset.SliceThickness = self.thickness
        dataset.ImageType = list(self.image_type)
        dataset.EchoTime, dataset.RepetitionTime, dataset.FlipAngle = self.echo, self.repetition, 9
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.MRAcquisitionType = self.kind, "SP", "3D"
        if self.inversion is not None:
            dataset.InversionTime = self.inversion
        if self.slope != 1:
            dataset.RescaleSlope, dataset.RescaleIntercept = self.slope, 0
        self._set_pixels(dataset, self.values[:, :, k].T)
        return dataset

    def write_enhanced(
        self, path: Path, change: Callable[[Dataset], None] | None = None, *, per_frame: bool = False
    ) -> Path:
        """Writes all slices as one multi-frame image, the frames in another order than that of space.

        `per_frame` puts into each frame what is the same for all of them, as Philips does.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset = self._dataset(ENHANCED_MR)
        order = sorted(range(self.shape[2]), key=lambda k: (k * 7) % 11)
        dataset.NumberOfFrames = len(order)
        dataset.ImageType = list(self.image_type)
        shared = Dataset()
        shared.PlaneOrientationSequence = _item(ImageOrientationPatient=self._orientation())
        shared.PixelMeasuresSequence = _item(
            PixelSpacing=[self.spacing[1], self.spacing[0]], SliceThickness=self.thickness
        )
        shared.PixelValueTransformationSequence = _item(RescaleSlope=self.slope, RescaleIntercept=0, RescaleType="US")
        shared.MREchoSequence = _item(EffectiveEchoTime=self.echo)
        shared.MRTimingAndRelatedParametersSequence = _item(RepetitionTime=self.repetition, FlipAngle=9)
        dataset.SharedFunctionalGroupsSequence = Items([shared])
        frames = []
        for n, k in enumerate(order):
            frame = copy.deepcopy(shared) if per_frame else Dataset()
            frame.PlanePositionSequence = _item(ImagePositionPatient=self.position(k))
            frame.FrameContentSequence = _item(FrameAcquisitionNumber=1, StackID="1", InStackPositionNumber=n + 1)
            frames.append(frame)
        dataset.PerFrameFunctionalGroupsSequence = Items(frames)
        if per_frame:
            dataset.SharedFunctionalGroupsSequence = _item(
                MRTimingAndRelatedParametersSequence=shared.MRTimingAndRelatedParametersSequence
            )
        self._set_pixels(dataset, np.stack([self.values[:, :, k].T for k in order]))
        if change is not None:
            change(dataset)
        dataset.save_as(path, enforce_file_format=True)
        return path

    def _orientation(self) -> list[float]:
        return [round(float(x), 8) for x in (*self.direction[:, 0], *self.direction[:, 1])]

    def _dataset(self, kind: str) -> FileDataset:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        study, patient = self.study, self.study.patient
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = patient.name, patient.id, patient.birth
        dataset.PatientSex, dataset.Manufacturer = "F", "MAKER"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study.uid, self.uid
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = study.date
        dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "101500", "STU9", study.accession
        dataset.ReferringPhysicianName = "House^Gregory"
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = study.reference, ""
        dataset.Modality, dataset.SeriesDescription, dataset.SeriesNumber = "MR", self.description, self.number
        if self.agent:
            dataset.ContrastBolusAgent = self.agent
        return dataset

    def _set_pixels(self, dataset: Dataset, values: np.ndarray) -> None:
        dataset.Rows, dataset.Columns = values.shape[-2:]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 8 * values.dtype.itemsize
        dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(values.dtype.kind == "i")
        dataset.PixelData = values.tobytes()


def as_jpeg_lossless(dataset: Dataset, _: int = 0) -> None:
    """Compresses the pixels as most hospitals do, by SimpleITK: pydicom has no encoder for it."""
    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/image.dcm")
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.Execute(sitk.GetImageFromArray(dataset.pixel_array))
        compressed = pydicom.dcmread(f"{folder}/image.dcm")
        dataset.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
        dataset.PixelData = compressed.PixelData
        dataset["PixelData"].VR = "OB"


def _item(**values: Any) -> Items:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Items([item])


def secrets_of(*series: Series) -> set[str]:
    """What must be found in no output: parts of names, numbers, dates and UIDs."""
    found: set[str] = {"House", "Gregory", "STU9"}
    for each in series:
        study, patient = each.study, each.study.patient
        found |= {part for part in patient.name.replace("^", " ").split() if len(part) > 2}
        found |= {patient.id, patient.birth, study.date, study.accession, study.uid, study.reference, each.uid}
    return found
