"""Images of a made-up head for attacks on containers, and ways to write them that are legal, odd or broken."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

SHAPE = (22, 24, 20)
_RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Drawing:
    """The images of one made-up case.

    Attributes:
        channels: of the model.
        spacing: mm along x, y, z.
        shape: voxels along x, y, z.
        orientation: `LPS`, say.
    """

    channels: tuple[str, ...]
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    shape: tuple[int, ...] = SHAPE
    orientation: str = "LPS"

    @property
    def affine(self) -> NDArray[np.float64]:
        """Affine matrix in nibabel's axes."""
        affine = _RAS_OF_LPS @ np.diag([*self.spacing, 1.0])
        affine[:3, 3] = 30, 40, -20
        if self.orientation == "LPS":
            return affine
        own, wanted = nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(self.orientation))
        turn = nib.orientations.ornt_transform(own, wanted)
        return np.asarray(affine @ nib.orientations.inv_ornt_aff(turn, self.shape))

    def values(self, channel: str) -> NDArray[np.int16]:
        """Return even whole numbers from 0 to 250 (x, y, z), 0 outside of an ellipsoid."""
        number = self.channels.index(channel)
        axes = np.meshgrid(*(2.2 * (np.arange(size) + 0.5) / size - 1.1 for size in self.shape), indexing="ij")
        radius = sum(axis**2 for axis in axes)
        spot = sum((axis - 0.3) ** 2 for axis in axes) < 0.08
        noise = np.random.default_rng(number).integers(-8, 9, self.shape)
        inside = 40 + 10 * (number + 1) + 20 * np.cos(4 * axes[number % 3]) + noise + 30 * spot * (number % 2 + 1)
        return (2 * np.where(radius < 1, np.clip(inside, 1, 125), 0).astype(np.int16)).astype(np.int16)

    def write(self, folder: Path, before: str | None = None, **files: Any) -> None:
        """Write a case; `files` gives the whole name of a channel's file, or None to leave it out.

        Args:
            folder: of the case.
            before: begin of the names of its files; by default the name of the folder.
            files: channel to the name of its file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for channel in self.channels:
            name = files.get(channel, f"{folder.name if before is None else before}-{channel}.nii.gz")
            if name is not None:
                save(self.values(channel), self.affine, folder / name)


def save(values: NDArray[Any], affine: Any, path: Path, **header: Any) -> None:
    """Write a file of any name; compressed unless it ends in `.nii`."""
    image = nib.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    content = image.to_bytes()
    path.write_bytes(content if path.name.lower().endswith(".nii") else gzip.compress(content, 1))


def huge_file(path: Path, affine: Any, size: int = 30000) -> None:
    """Write a file whose header announces far more voxels than any memory holds."""
    header = nib.Nifti1Image(np.zeros((2, 2, 2), np.float32), affine).header
    header["dim"][1:4] = size
    header["vox_offset"] = header.single_vox_offset
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4096), 1))


def spoil(values: NDArray[Any], share: float) -> NDArray[np.float32]:
    """Return values of which the first share along x is NaN and infinite."""
    bad = values.astype(np.float32)
    count = max(1, round(share * len(bad)))
    bad[:count] = np.nan
    bad[:count, 0] = np.inf
    return bad
