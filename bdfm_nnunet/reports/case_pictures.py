"""One case as a page shows it: cut, made small, as pictures and as volumes for the viewer."""

import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.folder_scores import without_ignored
from bdfm_nnunet.evaluation.nearest import box_of
from bdfm_nnunet.images.case_channels import check_grid, read_whole
from bdfm_nnunet.images.label_values import whole_numbers
from bdfm_nnunet.images.volumes import Volume
from bdfm_nnunet.reports.figures import window_of
from bdfm_nnunet.reports.reported_runs import ReportedRun

AGREED, MISSED, EXTRA, OTHER = 1, 2, 3, 4
DISAGREEMENT = {MISSED: "missed: in the reference only", EXTRA: "extra: in the prediction only",
                OTHER: "another label than the reference"}  # fmt: skip
DISAGREEMENT_COLOURS = {AGREED: "#0072B2", MISSED: "#F0E442", EXTRA: "#D55E00", OTHER: "#CC79A7"}
LABEL_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_MARGIN_MM = 20.0
_PICTURE = 128
_MOST_LABEL = 255
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Labels = NDArray[np.uint8]


def colour_of(label: int) -> str:
    """Return the colour of a label value from 1 on."""
    return LABEL_COLOURS[(label - 1) % len(LABEL_COLOURS)]


@dataclass(frozen=True)
class CaseImages:
    """Image, reference and predictions of a case on one grid, (x, y, z).

    Attributes:
        case: its name.
        image: grey values from 1 to 255, 0 where the background is.
        reference: label values.
        predictions: run -> label values.
        affine: from voxel to mm in axes RAS.
        whole: shape of the volume before it was cut.
        step: every so many voxels are shown along each axis.
    """

    case: str
    image: NDArray[np.uint8]
    reference: Labels
    predictions: Mapping[str, Labels]
    affine: NDArray[np.float64]
    whole: tuple[int, ...]
    step: int = 1

    @property
    def told(self) -> str:
        """What is shown of the volume, in words; empty where that is all."""
        size, whole = (" x ".join(map(str, shape)) for shape in (self.image.shape, self.whole))
        if self.step > 1:
            return f"{size} voxels of {whole}, every {_ORDINAL.get(self.step, f'{self.step}th')} along each axis"
        return f"a part of {size} voxels of {whole}" if self.image.shape != self.whole else ""

    def disagreement(self, run: str) -> Labels:
        """Return where reference and prediction of a run differ, as `DISAGREEMENT`, and where both have the label."""
        reference, prediction = self.reference, self.predictions[run]
        here, there = reference > 0, prediction > 0
        found = np.zeros(reference.shape, dtype=np.uint8)
        found[here & (reference == prediction)] = AGREED
        found[here & there & (reference != prediction)] = OTHER
        found[here & ~there], found[there & ~here] = MISSED, EXTRA
        return found

    def volume(self, kind: str, run: str = "") -> bytes:
        """Return a volume as a compressed NIfTI file.

        Args:
            kind: "image", "reference", "prediction" or "disagreement".
            run: of the last two.
        """
        if kind == "disagreement":
            shown = self.disagreement(run)
            array = np.where(shown == AGREED, 0, shown).astype(np.uint8)
        else:
            array = self.predictions[run] if kind == "prediction" else getattr(self, kind)
        content = nibabel.Nifti1Image(array, self.affine).to_bytes()
        return gzip.compress(content, 9, mtime=0)

    def smaller(self, most: int) -> "CaseImages":
        """Return the case with at most so many voxels: every voxel of the part around the labels, or every nth.

        Args:
            most: voxels.
        """
        found = self if self.image.size <= most else self._around_labels()
        while (step := found.step) and found.image.size > most:
            found = self._around_labels()._every(step + 1)
        return found

    def _around_labels(self) -> "CaseImages":
        labelled = np.logical_or.reduce([self.reference > 0, *(each > 0 for each in self.predictions.values())])
        if not labelled.any():
            return self
        spacing = float(np.linalg.norm(self.affine[:3, :3], axis=0).min())
        return self.cut(box_of(labelled, round(_MARGIN_MM / spacing)))

    def cut(self, box: tuple[slice, ...]) -> "CaseImages":
        """Return the part of the case in a box."""
        shift = np.eye(4)
        shift[:3, 3] = [side.start for side in box]
        return self._taken(box, self.affine @ shift, self.step)

    def _every(self, step: int) -> "CaseImages":
        box = (slice(None, None, step),) * 3
        return self._taken(box, self.affine @ np.diag([step, step, step, 1.0]), step)

    def _taken(self, box: tuple[slice, ...], affine: NDArray[np.float64], step: int) -> "CaseImages":
        image, reference = self.image[box], self.reference[box]
        predictions = {run: each[box] for run, each in self.predictions.items()}
        return CaseImages(self.case, image, reference, predictions, affine, self.whole, step)

    # ------------------------------------------------------------------------------------------------- pictures

    @property
    def slice_shown(self) -> int:
        """The slice with the largest area in the reference, or else in the predictions, or the central one."""
        for labels in (self.reference, *self.predictions.values()):
            areas = (labels > 0).sum(axis=(0, 1))
            if areas.any():
                return int(areas.argmax())
        return self.image.shape[2] // 2

    def picture(self, run: str | None) -> tuple[bytes, str]:
        """Return a small picture of one slice, and what it shows in words.

        Args:
            run: whose prediction is held against the reference; None for the reference alone.
        """
        z = self.slice_shown
        labels = self.reference[..., z] if run is None else self.disagreement(run)[..., z]
        if run is None:
            told = f"reference, the slice with most of it: {int((labels > 0).sum())} voxels labelled"
        else:
            counts = [int((labels == kind).sum()) for kind in (AGREED, MISSED, EXTRA, OTHER)]
            told = "{} voxels of the slice agree, {} missed, {} extra, {} with another label".format(*counts)
        colours = DISAGREEMENT_COLOURS if run else {int(v): colour_of(int(v)) for v in np.unique(labels) if v}
        return _png(_coloured(self.image[..., z], labels, colours)), told


_ORDINAL = {2: "second", 3: "third"}


def _coloured(grey: NDArray[np.uint8], labels: Labels, colours: Mapping[int, str]) -> NDArray[np.uint8]:
    """Return a slice (x, y) as a picture (y, x, 3) with labels in colour, the patient's left on the right."""
    picture = np.repeat(grey[..., None], 3, axis=-1).astype(np.float32)
    for value, colour in colours.items():
        inside = labels == value
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float32)
        picture[inside] = 0.4 * picture[inside] + 0.6 * rgb
    return picture.transpose(1, 0, 2).astype(np.uint8)


def _png(picture: NDArray[np.uint8]) -> bytes:
    """Return a picture as a PNG of few colours, enlarged or reduced to about `_PICTURE` pixels."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    factor = _PICTURE / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    small = image.resize(size, Image.Resampling.BILINEAR).quantize(64)
    target = io.BytesIO()
    small.save(target, "PNG", optimize=True)
    return target.getvalue()


# -------------------------------------------------------------------------------------------------------- reading


def read_case(case: str, runs: list[ReportedRun], *, channel: int = 0) -> CaseImages:
    """Read a case, cut to what the image shows.

    Args:
        case: its name.
        runs: whose predictions are read; images and reference are those of the first run that has them.
        channel: number of the image.

    Raises:
        InputError: a file is missing, cannot be read, or lies on another grid.
    """
    image = _read(next(filter(None, (run.folders.image(case, channel) for run in runs)), None), case, "image")
    reference = _labels(next(filter(None, (run.folders.labels(case) for run in runs)), None), case, image, "reference")
    predictions = {
        run.name: _labels(run.folders.predicted(case), case, image, f"prediction of {run.name}") for run in runs
    }
    ignore = next((run.ignored for run in runs if run.ignored is not None), None)
    predictions = {run: without_ignored(reference, each, ignore)[1] for run, each in predictions.items()}
    reference, _ = without_ignored(reference, reference, ignore)
    array = np.nan_to_num(image.array.astype(np.float32))
    shown = array != array.min()
    whole = _upright(case, _grey(array, shown), reference, predictions, image.grid.affine)
    return whole.cut(box_of(whole.image > 0, 1)) if shown.any() else whole


def _upright(
    case: str, image: Labels, reference: Labels, predictions: Mapping[str, Labels], affine: NDArray[np.float64]
) -> CaseImages:
    """Return a case whose axes lead to about left, posterior and superior, whatever those of its files do."""
    turned = nibabel.orientations.io_orientation(affine)  # affine is in axes LPS already

    def turn(array: Labels) -> Labels:
        return np.ascontiguousarray(nibabel.orientations.apply_orientation(array, turned))

    affine = _RAS @ affine @ nibabel.orientations.inv_ornt_aff(turned, image.shape)
    upright = turn(image)
    return CaseImages(
        case, upright, turn(reference), {run: turn(each) for run, each in predictions.items()}, affine, upright.shape
    )


def _read(path: Path | None, case: str, what: str) -> Volume:
    if path is None:
        raise InputError(f"no {what} of {case} was found")
    return read_whole(path, by_nibabel=True, flat=True, again="copy or write it again")


def _labels(path: Path | None, case: str, image: Volume, what: str) -> Labels:
    volume = _read(path, case, what)
    check_grid(volume, image)
    labels: NDArray[Any] = whole_numbers(volume)
    if int(labels.min()) < 0 or int(labels.max()) > _MOST_LABEL:
        raise InputError(f"{path} holds labels beyond 0 to {_MOST_LABEL}, which a page does not show")
    return labels.astype(np.uint8)


def _grey(array: NDArray[np.float32], shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    low, high = window_of(array[shown]) if shown.any() else (0.0, 1.0)
    grey = np.clip((array - low) / (high - low), 0, 1) * 254 + 1
    return np.where(shown, np.rint(grey), 0).astype(np.uint8)
