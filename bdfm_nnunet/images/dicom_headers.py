"""Headers of DICOM images: who and what they show, and where the planes of a file lie."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import open_regular
from bdfm_nnunet.images.dicom_values import number_of, numbers_of, text_of

_PREFIX, _MAGIC = 128, b"DICM"
_OLD_STARTS = (b"\x08\x00", b"\x00\x08", b"\x02\x00")
"""First group of a file without preamble, in both orders of bytes."""
_PEOPLE = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ReferringPhysicianName",
    "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "OperatorsName", "RequestingPhysician",
    "ResponsiblePerson",
)  # fmt: skip
_NUMBERS_OF_PATIENTS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID")
_MARKS = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "InversionTime": ("MRModifierSequence", "InversionTimes"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "ImageType": ("MRImageFrameTypeSequence", "FrameType"),
    "StackID": ("FrameContentSequence", "StackID"),
}
"""What tells the volumes of one series apart: an attribute, and the same of a frame of a multi-frame image."""
_PLANE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
          "SliceThickness")  # fmt: skip
_SINGLE = (
    "IssuerOfPatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime", "SeriesInstanceUID",
    "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName", "Modality", "SOPClassUID",
    "SOPInstanceUID", "FrameOfReferenceUID", "RepetitionTime", "FlipAngle", "ContrastBolusAgent", "MRAcquisitionType",
    "VolumetricProperties", "BurnedInAnnotation", "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "ScanningSequence", "SpecificCharacterSet", "LossyImageCompression",
)  # fmt: skip
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_READ = (*_SINGLE, *_PEOPLE, *_NUMBERS_OF_PATIENTS, *_GROUPS, *_PLANE, *(name for name in _MARKS if name != "StackID"))


@dataclass(frozen=True, slots=True)
class Frame:
    """One plane of a series.

    Attributes:
        path: the file.
        number: of the plane in it, from 0.
        instance: SOP instance UID of the file.
        position: of the middle of the first pixel, mm in LPS; empty if the file does not tell.
        direction: unit vectors along a row and along a column, six numbers; empty if the file does not tell.
        spacing: mm from row to row and from column to column; empty if the file does not tell.
        size: rows and columns.
        rescale: slope and intercept.
        thickness: of the slice in mm; 0 if the file does not tell.
        marks: values of `_MARKS`, in their order.
    """

    path: Path
    number: int
    instance: str
    position: tuple[float, ...]
    direction: tuple[float, ...]
    spacing: tuple[float, ...]
    size: tuple[int, int]
    rescale: tuple[float, float]
    thickness: float
    marks: tuple[str, ...]

    def mark(self, name: str) -> str:
        """Return one of the marks, for instance of "EchoTime"."""
        return self.marks[list(_MARKS).index(name)]


MARKS = tuple(_MARKS)


@dataclass(frozen=True)
class Identity:
    """Who and what an image belongs to; nothing of this may reach a data set.

    Attributes:
        patient: id of the patient, with who has issued it; name and date of birth where there is no id.
        name: of the patient.
        birth: date of birth.
        study: UID of the study.
        date: and time of the study.
        accession: number of the study.
        series: UID of the series.
        words: names and numbers that texts of the header may repeat.
    """

    patient: tuple[str, str]
    name: str
    birth: str
    study: str
    date: str
    accession: str
    series: str
    words: frozenset[str]


@dataclass(frozen=True)
class SeriesFacts:
    """What an image tells of its series.

    Attributes:
        identity: whose it is.
        number: of the series; None if the file does not tell, or tells a date.
        description: of the series, and name of its protocol, as typed at the scanner: may hold names.
        sequence: name of the pulse sequence.
        modality: `MR`, `CT` ...
        kind: `ScanningSequence`, such as SE, GR or EP.
        three_d: whether it was acquired in 3-D.
        image_type: values of `ImageType`.
        repetition_time: ms; None if the file does not tell, as in the following.
        echo_time: ms.
        inversion_time: ms.
        flip_angle: degrees.
        b_value: s/mm².
        contrast: whether a contrast agent is named.
        reference: UID of the frame of reference.
        colours: whether pixels are not single grey values.
        burned_in: whether the pixels are said to show annotations that tell the patient.
        lossy: whether the pixels were compressed with loss at any time.
    """

    identity: Identity
    number: int | None
    description: str
    sequence: str
    modality: str
    kind: str
    three_d: bool
    image_type: tuple[str, ...]
    repetition_time: float | None
    echo_time: float | None
    inversion_time: float | None
    flip_angle: float | None
    b_value: float | None
    contrast: bool
    reference: str
    colours: bool
    burned_in: bool
    lossy: bool


def pydicom_package(needed_by: str) -> ModuleType:
    """Return the package pydicom.

    Args:
        needed_by: what needs it, for the message.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pydicom
    except ImportError:
        raise InputError(
            f'{needed_by} needs the package pydicom, which is not installed: run `pip install "bdfm-nnunet[dicom]"`'
        ) from None
    return pydicom


@contextmanager
def quietly() -> Iterator[None]:
    """Let pydicom read values that break rules without warnings, which would print them: some are names."""
    import pydicom

    log = logging.getLogger("pydicom")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


Header = tuple[SeriesFacts, list[Frame]] | str
"""What an image tells of its series, and its planes; or a word for anything else, see `read_header`."""
KnownFacts = dict[tuple[str, ...], SeriesFacts]
"""Values of `_KEYS` to what an image tells."""
_KEYS = ("SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PatientName", "BurnedInAnnotation",
         "PhotometricInterpretation")  # fmt: skip


@lru_cache(1)
def _tags() -> list[int]:
    """Return the tags of what is read: looking names up takes a tenth of the time."""
    from pydicom.datadict import tag_for_keyword

    return [tag for name in _READ if (tag := tag_for_keyword(name)) is not None]


def is_dicom(path: Path) -> bool:
    """Return whether a file begins as DICOM files do, with preamble or as old files without.

    Raises:
        InputError: it cannot be read.
    """
    with open_regular(path) as stream:
        start = stream.read(_PREFIX + len(_MAGIC))
    return start[_PREFIX:] == _MAGIC or start[:2] in _OLD_STARTS


def read_header(path: Path, known: KnownFacts | None = None) -> Header:
    """Read the header of an image file, to be called inside `quietly`.

    Args:
        path: the file.
        known: what other files have told of their series, which takes as long to read as the rest; is added to.

    Returns:
        What it tells of its series and its frames; or, for anything else than an image, its modality: `SR`, `SEG`,
        `DICOMDIR` ...; an empty text for a file that is no DICOM, cannot be read or is damaged before its pixels.
    """
    import pydicom

    try:
        if not is_dicom(path):
            return ""
        with open_regular(path) as stream:
            dataset = pydicom.dcmread(stream, stop_before_pixels=True, force=True, specific_tags=_tags())
        if dataset.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
            return "DICOMDIR"
        if not text_of(dataset, "SOPClassUID") or not text_of(dataset, "SeriesInstanceUID"):
            return ""
        if not (dataset.get("Rows") and dataset.get("Columns")) or text_of(dataset, "Modality") in _NO_IMAGES:
            return text_of(dataset, "Modality") or "no images"
        frames, known = _frames(dataset, path), {} if known is None else known
        key = tuple(text_of(dataset, name) for name in _KEYS)
        if key not in known:
            known[key] = _facts(dataset, frames[0])
        return known[key], frames
    except Exception:  # a damaged file: pydicom has no family of errors for values that it cannot convert
        return ""


_DIRECTORY = "1.2.840.10008.1.3.10"
_NO_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG", "FID"}


# -------------------------------------------------------------------------------------------------------- frames


def _frames(dataset: Any, path: Path) -> list[Frame]:
    """Return the planes of a file; a multi-frame image tells in its functional groups where they lie."""
    count = int(number_of(dataset, "NumberOfFrames") or 1)
    each = dataset.get("PerFrameFunctionalGroupsSequence")
    if not each:
        marks = tuple(text_of(dataset, name) for name in _MARKS)
        return [_frame(dataset, dict.fromkeys(_PLACES, dataset), marks, path, n) for n in range(count)]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]
    found = []
    for n, own in enumerate(each[:count]):
        groups = {name: _group((own, shared), name) or dataset for name in _PLACES}
        marks = tuple(
            text_of(group, attribute) if (group := _group((own, shared), name)) else text_of(dataset, mark)
            for mark, (name, attribute) in _MARKS.items()
        )
        found.append(_frame(dataset, groups, marks, path, n))
    return found


_PLACES = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
           "PixelValueTransformationSequence")  # fmt: skip
"""Functional groups that tell where a frame lies and what its values mean."""


def _group(groups: Sequence[Any], name: str) -> Any:
    """Return the first item of a functional group of a frame, or that of all frames."""
    return next((items[0] for group in groups if (items := group.get(name))), None)


def _frame(dataset: Any, groups: Mapping[str, Any], marks: tuple[str, ...], path: Path, number: int) -> Frame:
    """Return a plane of an image whose attributes stand in functional groups, or in the image itself."""
    position, orientation, measures, values = (groups[name] for name in _PLACES)
    slope, intercept = number_of(values, "RescaleSlope"), number_of(values, "RescaleIntercept")
    return Frame(
        path=path,
        number=number,
        instance=text_of(dataset, "SOPInstanceUID"),
        position=numbers_of(position, "ImagePositionPatient", 3),
        direction=numbers_of(orientation, "ImageOrientationPatient", 6),
        spacing=numbers_of(measures, "PixelSpacing", 2),
        size=(int(dataset.Rows), int(dataset.Columns)),
        rescale=(1.0 if slope is None else slope, intercept or 0.0),
        thickness=number_of(measures, "SliceThickness") or 0.0,
        marks=marks,
    )


# --------------------------------------------------------------------------------------------------------- facts


def _facts(dataset: Any, frame: Frame) -> SeriesFacts:
    timing = _of_first_frame(dataset, "MRTimingAndRelatedParametersSequence") or dataset
    agent = dataset.get("ContrastBolusAgent") or dataset.get("ContrastBolusAgentSequence")
    description = " ".join(
        dict.fromkeys(filter(None, (text_of(dataset, "SeriesDescription"), text_of(dataset, "ProtocolName"))))
    )
    values = {name: _first_number(frame.mark(name)) for name in ("EchoTime", "InversionTime", "DiffusionBValue")}
    number = number_of(dataset, "SeriesNumber")
    return SeriesFacts(
        identity=_identity(dataset),
        number=None if number is None or not 0 <= number < _MOST_SERIES else int(number),
        description=description,
        sequence=text_of(dataset, "SequenceName") or text_of(dataset, "PulseSequenceName"),
        modality=text_of(dataset, "Modality"),
        kind=text_of(dataset, "ScanningSequence"),
        three_d="3D" in text_of(dataset, "MRAcquisitionType"),
        image_type=tuple(frame.mark("ImageType").split("\\")),
        repetition_time=number_of(timing, "RepetitionTime"),
        echo_time=values["EchoTime"],
        inversion_time=values["InversionTime"],
        flip_angle=number_of(timing, "FlipAngle"),
        b_value=values["DiffusionBValue"],
        contrast=bool(agent) and str(agent).strip().casefold() not in _NO_AGENT,
        reference=text_of(dataset, "FrameOfReferenceUID"),
        colours=not text_of(dataset, "PhotometricInterpretation").startswith("MONOCHROME"),
        burned_in=text_of(dataset, "BurnedInAnnotation") == "YES",
        lossy=text_of(dataset, "LossyImageCompression") == "01",
    )  # fmt: skip


_MOST_SERIES = 100_000
"""Some programs number series by date and time."""
_NO_AGENT = {"", "no", "none", "without", "n", "0"}


def _of_first_frame(dataset: Any, name: str) -> Any:
    groups = [item[0] for key in reversed(_GROUPS) if (item := dataset.get(key))]
    return _group(groups, name)


def _first_number(text: str) -> float | None:
    return number_of({"value": text}, "value") if text else None


def _short(date: str) -> set[str]:
    """Return the ways in which people write a date in digits alone."""
    year, month, day = date[:4], date[4:6], date[6:8]
    orders = ((year, month, day), (day, month, year), (month, day, year))
    return {"".join(order) for order in orders} | {"".join(part[-2:] for part in order) for order in orders} - {""}


def _identity(dataset: Any) -> Identity:
    number, issuer = text_of(dataset, "PatientID"), text_of(dataset, "IssuerOfPatientID")
    name, birth = text_of(dataset, "PatientName"), text_of(dataset, "PatientBirthDate")
    people = [text_of(dataset, person) for person in _PEOPLE]
    numbers = [text_of(dataset, each) for each in _NUMBERS_OF_PATIENTS]
    study = text_of(dataset, "StudyInstanceUID")
    words = {word for text in people for word in text.replace("=", "^").replace("\\", "^").replace(" ", "^").split("^")}
    return Identity(
        patient=(number, issuer) if number else (f"{name}\n{birth}" if name else study, "no id"),
        name=name,
        birth=birth,
        study=study,
        date=text_of(dataset, "StudyDate") + text_of(dataset, "StudyTime"),
        accession=text_of(dataset, "AccessionNumber"),
        series=text_of(dataset, "SeriesInstanceUID"),
        words=frozenset(filter(None, (*words, *numbers, *_short(birth), *_short(text_of(dataset, "StudyDate"))))),
    )
