"""Label maps of heads, as images are made from them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.data.phantom import Grid
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.images.label_values import histogram, whole_numbers
from bdfm_nnunet.images.volume_endings import without_ending
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.leftovers import is_leftover
from bdfm_nnunet.safe_names import check_name

Codes = NDArray[np.uint8]
MOST_LABELS = 240


@dataclass(frozen=True)
class HeadMap:
    """A label map with axes towards left, back and top (LPS).

    Attributes:
        name: of its file, for messages.
        codes: position of each voxel's label in `labels`, (x, y, z).
        labels: the labels that there are, ascending, 0 first.
        spacing: mm.
        affine: 4x4, from voxels to mm (LPS).
    """

    name: str
    codes: Codes
    labels: tuple[int, ...]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """Its voxels."""
        return Grid(self.codes.shape, self.spacing)

    def box(self, inside: NDArray[np.bool_], margin: float) -> "HeadMap":
        """Return the part around some of the voxels, with a margin in mm where there is room."""
        found = ndimage.find_objects(inside.astype(np.uint8))[0]
        room = [int(np.ceil(margin / step)) for step in self.spacing]
        starts = [max(0, part.start - more) for part, more in zip(found, room)]
        slices = tuple(slice(start, part.stop + more) for start, part, more in zip(starts, found, room))
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ starts
        return replace(self, codes=np.ascontiguousarray(self.codes[slices]), affine=affine)

    def tissue_of(self, tissues: Mapping[int, str]) -> list[str]:
        """Return the tissue of each code; labels without one are their own."""
        return ["" if label == 0 else tissues.get(label, f"label {label}") for label in self.labels]


def find_maps(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Return name -> file of the label maps in a folder, sorted.

    Raises:
        InputError: there is none, two share a name, or a name cannot be part of that of a case.

    Example:
        >>> list(find_maps("labels"))[0]
        'BraTS-GLI-00001-000'
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is no folder: name the folder of the label maps")
    found: dict[str, Path] = {}
    for path in sorted(Path(folder).iterdir()):
        name = without_ending(path.name)
        if name is None or is_leftover(path.name) or path.suffix.lower() == ".img":
            continue
        if check_name(name, "label map") in found:
            raise InputError(f"{path} and {found[name]} have the same name: keep one of them")
        found[name] = path
    if not found:
        raise InputError(f"{folder} holds no label map: NIfTI files such as head_01.nii.gz were expected")
    return found


@lru_cache(maxsize=1)
def read_map(path: Path) -> HeadMap:
    """Read a label map.

    Raises:
        InputError: it is no label map of three dimensions, or holds no label, negative ones or too many.
    """
    try:
        volume = read_volume(path, str(path), by_nibabel=True)
        values = whole_numbers(volume)
    except Refusal as error:
        raise InputError(str(error)) from None
    labels = tuple(sorted({0, *histogram(values)}))
    if labels[0] < 0 or len(labels) > MOST_LABELS or labels == (0,):
        raise InputError(
            f"{path} holds {len(labels)} labels from {labels[0]} to {labels[-1]}, expected up to {MOST_LABELS} "
            "of 0 and above: take a label map, not an image"
        )
    affine = np.asarray(volume.grid.affine, dtype=np.float64)
    turned = nib.orientations.io_orientation(affine)
    codes = np.searchsorted(labels, nib.orientations.apply_orientation(values, turned)).astype(np.uint8)
    affine = affine @ nib.orientations.inv_ornt_aff(turned, values.shape)
    x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return HeadMap(str(path), np.ascontiguousarray(codes), labels, (x, y, z), affine)
