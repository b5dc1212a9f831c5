"""The images of a case under plain names as a model reads them, and its result on the grid of the case.

What a reader would stumble over is mended in a copy: compression, endings, single voxels that are no numbers, another
orientation than that of the training, and channels that a case may lack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.reading.geometry import check_geometry
from bdfm_nnunet.dataset_conversion.writing.file_placement import place_file, write_values, write_volume
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.intensities import LARGEST, fault_of_intensities
from bdfm_nnunet.images.nifti_bytes import packed_values
from bdfm_nnunet.images.volumes import Volume, header_of_one, read_volumes

MOST_BAD = 0.5
"""Share of an image's voxels that may be no numbers; they become 0."""
SMALLEST_MM, LARGEST_MM = 0.2, 2000.0
"""Sides that images of heads, or of parts of them, may have."""
_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class StagedCase:
    """The images of a case, ready for a model.

    Attributes:
        files: one for each channel, in the model's order.
        first: the first image as it came, whose grid the result gets.
        turn: orientation of the staged images relative to `first` as nibabel has it, (3, 2); None: the same.
        notes: what was mended; sentences without full stops.
    """

    files: tuple[Path, ...]
    first: Volume
    turn: NDArray[Any] | None = None
    notes: tuple[str, ...] = ()

    def packed(self, values: NDArray[Any]) -> bytes:
        """Return the bytes of a `.nii.gz` file with label values on the grid of the case.

        Args:
            values: (x, y, z) on the grid of the staged images.
        """
        if self.turn is not None:
            places = np.argsort(self.turn[:, 0])
            values = apply_orientation(values, np.stack([places, self.turn[places, 1]], axis=1))
        assert values.shape == self.first.stored.shape
        return packed_values(np.ascontiguousarray(values), like=self.first.header)


@dataclass(frozen=True)
class Staging:
    """How cases become what a model reads.

    Attributes:
        channels: of the model, in its order.
        optional: channels that a case may lack; zeros take their place.
        orientation: of all images of the training, `LPS` say; empty: images stay as they lie.
        by_nibabel: whether the model's reader takes what SimpleITK refuses.
    """

    channels: tuple[str, ...]
    optional: tuple[str, ...] = ()
    orientation: str = ""
    by_nibabel: bool = False

    def stage(self, files: Mapping[str, Path], folder: Path) -> StagedCase:
        """Put the images of a case into a folder as case_0000.nii.gz and so on.

        Args:
            files: channel to its file.
            folder: an empty one.

        Raises:
            InputError: an image cannot be used, or lies on another grid than the first.
        """
        notes: list[str] = []
        volumes = {
            channel: self._usable(channel, files[channel], notes) for channel in self.channels if channel in files
        }
        present = {channel: each for channel, each in volumes.items() if each is not None}
        if not present:
            raise Refusal(f"none of its images ({', '.join(path.name for path in files.values())}) has any contrast")
        first = next(iter(present.values()))
        _check_extent(first)
        for volume in present.values():
            check_geometry(volume, first)
        turn = self._turn(first, notes)
        staged = []
        for number, channel in enumerate(self.channels):
            target = folder / f"case_{number:04d}.nii.gz"
            if channel in present:
                self._write(present[channel], files[channel], target, turn)
            else:
                notes.append(f"{channel} is missing or empty: zeros take its place")
                zeros = np.zeros(first.stored.shape, np.uint8)
                _write_turned(zeros, first, target, turn)
            staged.append(target)
        return StagedCase(tuple(staged), first, turn, tuple(notes))

    def _usable(self, channel: str, path: Path, notes: list[str]) -> Volume | None:
        """Return an image with usable values; None for one without contrast that may be missing."""
        volume = read_volumes(path, path.name, [None], plain=True, by_nibabel=self.by_nibabel)[0]
        if volume.plain:
            notes.append(f"{path.name} is not compressed in spite of its name")
        if volume.note:
            notes.append(volume.note)
        fault = fault_of_intensities(volume)
        if fault.startswith("is empty"):
            if channel in self.optional:
                return None
            raise Refusal(f"{path.name} {fault}")
        if fault:
            good = volume.array[np.abs(volume.array) <= LARGEST]
            if good.size < (1 - MOST_BAD) * volume.array.size:
                raise Refusal(f"{path.name} {fault}, more than half of all")
            if good.min() == good.max():
                raise Refusal(f"{path.name} {fault} and no contrast in the others")
            notes.append(f"{path.name} {fault}: they become 0")
        return volume

    def _turn(self, first: Volume, notes: list[str]) -> NDArray[Any] | None:
        if not self.orientation or first.grid.orientation == self.orientation:
            return None
        own, wanted = io_orientation(_RAS @ first.grid.affine), axcodes2ornt(tuple(self.orientation))
        notes.append(
            f"its images lie {first.grid.orientation}, those of the training {self.orientation}: they were turned, and "
            "the result turned back"
        )
        return np.asarray(ornt_transform(own, wanted))

    def _write(self, volume: Volume, source: Path, target: Path, turn: NDArray[Any] | None) -> None:
        good = np.abs(volume.array) <= LARGEST
        if turn is not None or not good.all():
            _write_turned(np.where(good, volume.array, 0).astype(np.float32), volume, target, turn)
        elif volume.as_it_is and not volume.plain and source.name.endswith(".nii.gz"):
            place_file(source, target, link="sym")
        else:
            write_volume(volume.header, volume.stored, target)


def _check_extent(volume: Volume) -> None:
    """Refuse an image whose voxel size cannot be right."""
    sides = [size * step for size, step in zip(volume.shape, volume.spacing, strict=True)]
    if not SMALLEST_MM <= min(sides) <= max(sides) <= LARGEST_MM:
        told = " x ".join(f"{side:.3g}" for side in sides)
        raise Refusal(f"{volume.name} is {told} mm large: correct the voxel size in its header")


def _write_turned(values: NDArray[Any], volume: Volume, target: Path, turn: NDArray[Any] | None) -> None:
    """Write values (x, y, z) on the grid of a volume, turned."""
    if turn is None:
        write_values(values, target, like=volume.header)
        return
    affine = _RAS @ volume.grid.affine @ inv_ornt_aff(turn, values.shape)
    image = nib.Nifti1Image(np.ascontiguousarray(apply_orientation(values, turn)), affine)
    write_values(np.asanyarray(image.dataobj), target, like=header_of_one(image.header, image.shape))
