"""Segmentations as DICOM SEG objects on the frames of the series that they were made from."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet import __version__
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import check_writable, write_atomically
from bdfm_nnunet.images.case_folders import list_cases
from bdfm_nnunet.images.dicom_headers import Frame, pydicom_package, quietly, read_header
from bdfm_nnunet.images.dicom_key import DicomKey, KeySeries
from bdfm_nnunet.images.dicom_volumes import Stack, grid_of_stack, stack_of
from bdfm_nnunet.images.grids import Grid, difference, read_grid
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.nnunet_files import read_dataset_json

logger = logging.getLogger(__name__)

_OPTION = "--dicom-seg"
_LONGEST = 64
"""Letters of a label in DICOM."""
_MEANINGS = (
    ("edema", "Edema"), ("necro", "Necrosis"), ("hemorrhag", "Hemorrhage"), ("cyst", "Cyst"), ("abscess", "Abscess"),
    ("tumor", "Neoplasm"), ("glioma", "Neoplasm"), ("mening", "Neoplasm"), ("metasta", "Neoplasm"),
    ("enhancing", "Neoplasm"), ("lesion", "Lesion"), ("infarct", "Lesion"), ("stroke", "Lesion"),
    ("hippocamp", "Hippocampus"), ("ventric", "Ventricle"), ("brain", "Brain"), ("vessel", "Artery"),
    ("arter", "Artery"), ("vein", "Vein"),
)  # fmt: skip
"""Parts of names of labels, in American spelling, and what they mean in SNOMED CT; of several the first counts."""
_ANATOMY = {"Hippocampus", "Ventricle", "Brain", "Artery", "Vein"}


@dataclass(frozen=True)
class SourceSeries:
    """The series that a case was made from.

    Attributes:
        stack: its planes in order.
        channel: which channel of the case it is.
    """

    stack: Stack
    channel: str

    @property
    def frames(self) -> tuple[Frame, ...]:
        """Its planes, from slice to slice."""
        return self.stack.frames


class DicomSources:
    """The series on which the cases of a folder are to be written.

    Args:
        key: the key file of `bdfm convert dicom`.
        images: folder of the images that are predicted, `CASE_0000.nii.gz` ...
        out: folder of the DICOM SEG objects.

    Raises:
        InputError: highdicom is not installed, the key does not know a case, its series is not where it was, has
            changed, or has another grid than the image; or the folder cannot be written.
    """

    def __init__(self, key: Path, images: Path, out: Path) -> None:
        check_packages()
        known = DicomKey.read(key)
        self.out = out
        names = list_cases(images, what="images").files
        cases: dict[str, str] = {}
        for name in sorted(names):
            if match := re.fullmatch(r"(.+)_\d{4}", name, re.DOTALL):
                cases.setdefault(match[1], name)
        unknown = [case for case in cases if case not in known.cases]
        if unknown:
            raise InputError(
                f"{key} does not know {unknown[0]} of {images} ({len(unknown)} of {len(cases)} cases): pass the key "
                "that bdfm convert dicom wrote with these images"
            )
        self.series = {case: _source(case, known.cases[case], _grid(names[name]), key) for case, name in cases.items()}
        check_writable(out / "folder_is_writable.dcm")

    def write(self, predictions: Path, *, model: str = "") -> list[Path]:
        """Write the segmentations of a folder that are those of the cases, and return the files.

        Args:
            predictions: folder of `CASE.nii.gz` with dataset.json, as nnU-Net leaves it.
            model: name of the model, for the objects.

        Raises:
            InputError: a segmentation cannot be used, or an object cannot be written; the others are.
        """
        dataset = read_dataset_json(predictions / "dataset.json")
        written, faults = [], []
        for case, series in self.series.items():
            path, target = predictions / f"{case}{dataset['file_ending']}", self.out / f"{case}.dcm"
            if not path.is_file():
                continue
            try:
                write_segmentation(path, series, dataset["labels"], target, model=model)
                written.append(target)
            except InputError as fault:
                faults.append(fault)
        logger.info("%d DICOM segmentations are in %s; they name the patients", len(written), self.out)
        if faults:
            more = f" ({len(faults) - 1} others were not written either)" if len(faults) > 1 else ""
            raise InputError(f"{faults[0]}{more}; --continue_prediction writes what is missing")
        return written


def check_packages() -> None:
    """Check that what writes DICOM SEG is installed.

    Raises:
        InputError: it is not.
    """
    pydicom_package(_OPTION)
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise InputError(
            f'{_OPTION} needs the package highdicom, which is not installed: run `pip install "bdfm-nnunet[dicom]"`'
        ) from None


def _grid(path: Path) -> Grid:
    return read_grid(nib.load(path).header, str(path), path)


def _source(case: str, series: Sequence[KeySeries], grid: Grid, key: Path) -> SourceSeries:
    """Return the series of a case that has the grid of its images."""
    for each in series:
        stack = read_source(each, f"the series for {each.channel} of {case} in {key}")
        if not difference(grid_of_stack(stack), grid):
            return SourceSeries(stack, each.channel)
    raise InputError(
        f"no series of {case} in {key} has the grid of its images: convert it again with this key, without changing "
        "the images afterwards"
    )


def read_source(series: KeySeries, name: str) -> Stack:
    """Return the planes of a series of the key.

    Args:
        series: as the key has it.
        name: of the series in messages.

    Raises:
        InputError: a file is not there or belongs to another series, or DICOM SEG cannot refer to them.
    """
    frames: dict[tuple[str, int], Frame] = {}
    with quietly():
        for file in series.files:
            header = read_header(Path(file))
            if isinstance(header, str) or header[0].identity.series != series.series:
                raise InputError(
                    f"{name} is not where it was ({file}): bring its files back, or convert the folder again with "
                    "the same key",
                    entry="series-moved",
                )
            if not header[0].reference:
                raise InputError(f"{name} has no frame of reference, which DICOM SEG refers to: leave the case out")
            frames.update({(frame.instance, frame.number): frame for frame in header[1]})
    stack = stack_of(list(frames.values()), name)
    if 1 < len({frame.path for frame in stack.frames}) < len(stack.frames):
        raise InputError(f"{name} is spread over several multi-frame files, to which {_OPTION} cannot refer: join them")
    return stack


# -------------------------------------------------------------------------------------------------------- objects


def write_segmentation(
    path: Path, series: SourceSeries, labels: Mapping[str, Any], target: Path, *, model: str = ""
) -> None:
    """Write one segmentation as a DICOM SEG object with a segment for each label or region.

    Args:
        path: the NIfTI file.
        series: on whose frames it is written.
        labels: of dataset.json: name to value, or to the values of a region.
        target: the file to write.
        model: name of the model.

    Raises:
        InputError: the segmentation cannot be read or has another grid than the series, there is nothing to write, or
            the file cannot be written.
    """
    volume = read_volume(path, str(path), flat=True)
    if what := difference(volume.grid, grid_of_stack(series.stack)):
        raise InputError(f"{path} has another {what} than the series that it was made from: predict the case again")
    regions = {name: np.atleast_1d(value) for name, value in labels.items() if name != "ignore"}
    regions = {name: values for name, values in regions.items() if set(values.tolist()) != {0}}
    masks = np.stack([np.isin(volume.array, values) for values in regions.values()], axis=-1)
    planes = masks.transpose(2, 1, 0, 3)  # slices, rows, columns, segments
    try:
        content = _segmentation(series, planes, list(regions), model)
    except Exception as error:  # highdicom holds the source against the whole standard, with errors of all kinds
        raise InputError(
            f"{target} cannot be made, for the source does not keep to the standard ({type(error).__name__}: {error}): "
            "export the series again"
        ) from error
    with write_atomically(target) as temporary:
        content.save_as(temporary)


def _segmentation(series: SourceSeries, planes: NDArray[np.bool_], names: Sequence[str], model: str) -> Any:
    """Return the object.

    Args:
        series: the source.
        planes: (slices, rows, columns, segments).
        names: of the segments.
        model: name of the model.
    """
    import highdicom as hd
    import pydicom

    paths = list(dict.fromkeys(frame.path for frame in series.frames))
    with quietly():
        sources = [_completed(pydicom.dcmread(path, stop_before_pixels=True), series.stack) for path in paths]
        if len(paths) == 1:  # one multi-frame image, whose frames may lie in any order
            planes = planes[np.argsort([frame.number for frame in series.frames])]
        return hd.seg.Segmentation(
            source_images=sources,
            pixel_array=planes.astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(number, name, model) for number, name in enumerate(names, 1)],
            series_instance_uid=hd.UID(),
            series_number=1000 + int(sources[0].get("SeriesNumber") or 0) % 1000,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="bdfm_nnunet",
            manufacturer_model_name=(model or "nnU-Net")[:_LONGEST],
            software_versions=__version__,
            device_serial_number="0",
            content_description="segmentation by a neural network",
            series_description=f"segmentation {model}".strip()[:_LONGEST],
        )


def _completed(source: Any, stack: Stack) -> Any:
    """Return an image as highdicom expects it: with the attributes that every image should have and anonymisers remove.

    What is the same for all frames of a multi-frame image, as the stack knows, stands in the shared groups.
    """
    for name in _EXPECTED:
        if name not in source:
            setattr(source, name, "")
    if not source.get("SliceThickness"):
        source.SliceThickness = f"{stack.spacing[2]:.6g}"
    if frames := source.get("PerFrameFunctionalGroupsSequence"):
        (shared,) = source.SharedFunctionalGroupsSequence
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            if name not in shared and name in frames[0]:
                setattr(shared, name, frames[0][name].value)
    return source


_EXPECTED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def _described(number: int, name: str, model: str) -> Any:
    """Return the description of a segment."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    plain = re.sub(r"(?i)oedema", "edema", name.replace("tumour", "tumor").replace("haemo", "hemo")).casefold()
    meaning = next((meaning for part, meaning in _MEANINGS if part in plain), "")
    category = codes.SCT.AnatomicalStructure if meaning in _ANATOMY else codes.SCT.MorphologicallyAbnormalStructure
    concepts = codes.cid7159 if meaning == "Abscess" else codes.SCT
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name.replace("\\", " ")[:_LONGEST],
        segmented_property_category=category if meaning else codes.SCT.Tissue,
        segmented_property_type=getattr(concepts, meaning) if meaning else codes.SCT.Tissue,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=(model or "nnU-Net")[:_LONGEST], family=codes.cid7162.ArtificialIntelligence, version=__version__
        ),
    )
