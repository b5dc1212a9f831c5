"""The images of a case in formats other than NIfTI, checked as nnU-Net's own reader gives them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.images.foreign_headers import AGAIN, cannot_be_read, check_header
from bdfm_nnunet.images.grids import Grid, difference, distance_mm
from bdfm_nnunet.prediction.images_wanted import ImagesWanted

_TIFF = (".tif", ".tiff")
_CHANNEL = len("_0000")


@dataclass(frozen=True)
class _Image:
    """A file as nnU-Net's reader gives it: values (C, z, y, x) and properties."""

    file: str
    values: Any
    properties: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along z, y, x."""
        return tuple(self.values.shape[1:])

    @property
    def grid(self) -> Grid | None:
        """The grid that SimpleITK has found, for flat images in the plane; None with other readers."""
        place = self.properties.get("sitk_stuff")
        if place is None:
            return None
        direction, axes = np.eye(3), len(place["spacing"])
        direction[:axes, :axes] = np.reshape(place["direction"], (axes, axes))
        missing = 3 - axes
        return Grid(
            self.size[::-1], (*place["spacing"], *[1.0] * missing), (*place["origin"], *[0.0] * missing),
            tuple(direction.ravel()),
        )  # fmt: skip


def check_by_reader(
    files: Sequence[str], previous: str | None, wanted: ImagesWanted
) -> tuple[Sequence[int], Sequence[float]]:
    """Read the images of a case and return its size in voxels and in mm a voxel, along z, y, x.

    Args:
        files: of the channels, in their order.
        previous: segmentation of a cascade's stage before.
        wanted: by the model.

    Raises:
        InputError: one cannot be read, lies elsewhere than the first, has values that are no numbers or no contrast, or
            all of them have not the channels of the model.
    """
    if wanted.ending.lower() in _TIFF:
        _check_spacing_file(Path(files[0][: -len(wanted.ending) - _CHANNEL] + ".json"))
    channels = 0
    first: _Image | None = None
    for file in files:
        image = _read(file, wanted)
        first = first or image
        _check_same_place(image, first)
        _check_values(image)
        channels += len(image.values)
    assert first is not None
    if channels != len(wanted.channels):
        raise InputError(
            f"{first.file} and its like hold {channels} channels, the model needs {len(wanted.channels)} "
            f"({', '.join(wanted.channels)}): give it the images that it was trained for"
        )
    if previous is not None:
        _check_same_place(_read(previous, wanted, segmentation=True), first)
    return first.size, [float(step) for step in first.properties["spacing"]]


def _read(file: str, wanted: ImagesWanted, *, segmentation: bool = False) -> _Image:
    check_header(Path(file))
    reader = wanted.reader()
    try:
        values, properties = reader.read_seg(file) if segmentation else reader.read_images([file])
    except Exception as error:  # every library behind nnU-Net's readers has errors of its own
        raise cannot_be_read(file, error) from error
    return _Image(file, values, properties)


def _check_spacing_file(path: Path) -> None:
    """Check the voxel size in the file beside TIFF files; without that file nnU-Net says that it takes 1 mm."""
    if not (path.exists() or path.is_symlink()):
        return
    spacing = read_json(path, {"spacing": [float]})["spacing"]
    if len(spacing) != 3 or min(spacing) <= 0:
        raise InputError(
            f"{path} has the spacing {spacing}, expected three numbers above 0, the mm of a voxel along z, y and x: "
            "correct it, or remove the file for voxels of 1 mm"
        )


def _check_values(image: _Image) -> None:
    if bad := int(np.count_nonzero(~np.isfinite(image.values))):
        raise InputError(f"{image.file} has {bad} voxels that are NaN or infinite: repair it or remove the case")
    if image.values.min() == image.values.max():  # one colour of a picture may be the same everywhere
        value = image.values.flat[0]
        raise InputError(f"{image.file} is empty (every voxel is {value:g}): {AGAIN} or remove the case")


def _check_same_place(image: _Image, first: _Image) -> None:
    if image.size != first.size:
        sizes = " and ".join(" x ".join(map(str, each.size)) for each in (image, first))
        raise InputError(
            f"{image.file} has another shape than {first.file} ({sizes} voxels): resample the images of a case to one "
            "grid"
        )
    here, there = image.grid, first.grid
    if here is not None and there is not None and (what := difference(here, there)):
        raise InputError(
            f"{image.file} lies up to {distance_mm(here, there):.3g} mm from {Path(first.file).name} (another "
            f"{'voxel size' if what == 'spacing' else 'affine'}): register the files, or remove the case"
        )
