"""Series that are no volume: each is refused in one sentence that names it, and the others are converted."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from tests.dataset_conversion.converted_dicom import convert
from tests.dicom_series import Patient, Series, Study, as_jpeg_lossless


def _twice(series: Series, pacs: Path) -> None:
    series.write(pacs / "a")
    series.write(pacs / "b", slices=[3])


def _echoes(series: Series, pacs: Path) -> None:
    series.write(pacs / "a")
    replace(series, echo=30.0).write(pacs / "b")


def _nearly(series: Series, pacs: Path) -> None:
    series.write(pacs / "a")
    x, y, z = series.origin
    replace(series, echo=30.0, origin=(x, y, z + 0.003)).write(pacs / "b")


def _frames(series: Series, pacs: Path) -> None:
    def double(dataset: Dataset) -> None:
        dataset.NumberOfFrames *= 2
        dataset.PixelData *= 2
        frames = dataset.PerFrameFunctionalGroupsSequence
        for n, frame in enumerate(list(frames)):
            frames.append(copy.deepcopy(frame))
            for m, each in ((1, frame), (2, frames[-1])):
                each.FrameContentSequence[0].TemporalPositionIndex = m
                each.FrameContentSequence[0].InStackPositionNumber = n + 1

    series.write_enhanced(pacs / "x", double)


def _planes(series: Series, pacs: Path) -> None:
    series.write(pacs / "a", slices=[0, 1, 2])
    replace(series, direction=np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])).write(pacs / "b", slices=[0, 1, 2])


def _tilt(series: Series, pacs: Path) -> None:
    def shift(dataset: Dataset, k: int) -> None:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, y + 0.5 * k, z]

    series.write(pacs, change=shift)


def _change(name: str, value: Any) -> Callable[[Series, Path], None]:
    def write(series: Series, pacs: Path) -> None:
        series.write(pacs, change=lambda dataset, k: setattr(dataset, name, value))

    return write


def _cut(series: Series, pacs: Path) -> None:
    path = series.write(pacs)[4]
    path.write_bytes(path.read_bytes()[:-40])


def _unknown(series: Series, pacs: Path) -> None:
    def encode(dataset: Dataset, k: int) -> None:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.HTJ2K
        dataset.PixelData = encapsulate([dataset.PixelData])

    series.write(pacs, change=encode)


def _torn(series: Series, pacs: Path) -> None:
    def encode(dataset: Dataset, k: int) -> None:
        as_jpeg_lossless(dataset)
        dataset.PixelData = encapsulate([b"\xff\xd8" + bytes(200)])

    series.write(pacs, change=encode)


FAULTS: dict[str, tuple[Callable[[Series, Path], Any], str]] = {
    "gap": (lambda series, pacs: series.write(pacs, slices=[0, 1, 2, 3, 6, 7, 8, 9]), "has a gap: after slice 4 of 8"),
    "duplicate": (_twice, "has duplicate slices: 11 images at 10 places"),
    "echoes": (_echoes, "mixes 2 volumes of 10 slices that differ in EchoTime"),
    "nearly": (_nearly, "mixes 2 volumes of 10 slices that differ in EchoTime"),
    "skewed": (_change("ImageOrientationPatient", [1, 0, 0, 0.1, 0.995, 0]), "are not at right angles"),
    "no direction": (_change("ImageOrientationPatient", [0, 0, 0, 0, 0, 0]), "are not at right angles"),
    "multi-frame": (_frames, "mixes 2 volumes of 10 slices that differ in TemporalPositionIdentifier"),
    "planes": (_planes, "mixes images of different direction (3 of 6 differ"),
    "sizes": (
        lambda series, pacs: [series.write(pacs / "a"), replace(series, shape=(9, 9, 2)).write(pacs / "b")],
        "mixes images of different size (10 of 12 x 14 and 2 of 9 x 9 pixels)",
    ),
    "tilt": (_tilt, "shifted by up to 4.5 mm against each other (a tilted gantry)"),
    "uneven": (
        lambda series, pacs: series.write(pacs, change=lambda dataset, k: setattr(
            dataset, "ImagePositionPatient", [*series.position(k)[:2], 2.0 * k + (0.5 if k == 4 else 0.0)])),
        "has slices at uneven distances (1.5 to 2.5 mm)",
    ),
    "no positions": (_change("ImagePositionPatient", None), "does not tell where 10 of its 10 images lie"),
    "burnt in": (_change("BurnedInAnnotation", "YES"), "annotations which tell the patient are burnt into its pixels"),
    "colours": (_change("PhotometricInterpretation", "PALETTE COLOR"), "holds colours, expected grey values"),
    "cut": (_cut, "is damaged ("),
    "no decoder": (_unknown, "compressed as High-Throughput JPEG 2000 Image Compression (1.2.840.10008.1.2.4.203)"),
    "torn JPEG": (_torn, "compressed as JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14"),
    "one slice": (lambda series, pacs: series.write(pacs, slices=[2]), "is a single image, expected the slices"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_volume_is_refused_in_one_sentence(
    name: str, pacs: Path, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write, sentence = FAULTS[name]
    write(Series(Study()), pacs)
    good = Series(Study(Patient("Roe^Richard", "8")))
    good.write(pacs / "good")
    assert convert(pacs, "--channels", "T1") == 3
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if "refused sub-" in line]
    assert sentence in line and "_ses-01_ser-003 (t1_mprage_sag)" in line
    assert len(list((raw / "Dataset070_DICOM" / "imagesTs").iterdir())) == 1
