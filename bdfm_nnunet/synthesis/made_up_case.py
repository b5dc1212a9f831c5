"""One made-up case: its images and its label, drawn from a label map."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.data.phantom import Field, Grid
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.synthesis.deformation import deformed, draw_deformation, extents_of
from bdfm_nnunet.synthesis.drawn_images import draw_contrast, draw_noise, draw_signal, draw_slices, resampled
from bdfm_nnunet.synthesis.drawn_lesions import draw_growths, with_lesions
from bdfm_nnunet.synthesis.head_maps import HeadMap
from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings
from bdfm_nnunet.synthesis.tissue_tables import BRAIN, LESION_PARTS, PARENCHYMA, modality_levels

_MARGIN = 12.0
_CLOSING = 5.0
_HALF = 0.5 - 1e-6
_MOST = 32767
_OF_LESIONS = 1
"""Lesions have a stream of random numbers of their own: without them, the same heads and contrasts are drawn."""


@dataclass(frozen=True)
class MadeUpCase:
    """Images and label on one grid, (x, y, z), axes towards left, back and top.

    Attributes:
        images: int16, one per channel; 0 outside of a brain without its skull.
        label: classes, or 1 for the brain or head.
        spacing: mm.
        affine: 4x4, from voxels to mm (LPS).
    """

    images: list[NDArray[np.int16]]
    label: NDArray[np.uint8]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]


def draw_case(head: HeadMap, settings: SynthesisSettings, number: int) -> MadeUpCase:
    """Draw case `number` of a cohort; it depends on the map, the settings and the number alone.

    Example:
        >>> codes = np.zeros((12, 12, 12), np.uint8)
        >>> codes[2:10, 2:10, 2:10] = 1
        >>> head = HeadMap("head", codes, (0, 41), (1.0, 1.0, 1.0), np.eye(4))
        >>> case = draw_case(head, SynthesisSettings(channels=("mri",), spacing=2.0), 0)
        >>> case.images[0].shape, case.spacing, np.unique(case.label).tolist()
        ((6, 6, 6), (2.0, 2.0, 2.0), [0, 1])
    """
    rng = np.random.default_rng([settings.seed, number])
    tissues = [*head.tissue_of(settings.tissues), *LESION_PARTS]
    head = _part_wanted(head, settings)
    codes = deformed(head.codes, head.grid, draw_deformation(rng, head.grid, warp=settings.warp))
    of_lesions = np.random.default_rng([settings.seed, number, _OF_LESIONS])
    growths = draw_growths(of_lesions, lesions=settings.lesions, cavities=settings.cavities)
    codes = with_lesions(codes, head.grid, tissues, growths)
    target = _target_grid(head.grid, settings.spacing)
    scene = _Scene(codes, head.grid, target, tissues)
    mask = scene.brain() if settings.skull_strip else ndimage.binary_fill_holes(scene.where(bool))
    images = [_image(rng, scene, settings, name) for name in settings.channels]
    whole = [_as_stored(image, mask if settings.skull_strip else None, rng.uniform(300, 900)) for image in images]
    label = scene.classes(_class_of_code(head, settings)) * mask if settings.class_values else mask
    return MadeUpCase(whole, label.astype(np.uint8), target.spacing, _affine(head, target))


@dataclass(frozen=True)
class _Scene:
    """A label map as it is to be shown, and the grid of the images."""

    codes: NDArray[np.uint8]
    grid: Grid
    target: Grid
    tissues: Sequence[str]

    def where(self, wanted: Callable[[str], bool]) -> NDArray[np.bool_]:
        """Return where at least half of a voxel of the image is of the wanted tissues."""
        return self._share(np.array([wanted(tissue) for tissue in self.tissues])) >= _HALF

    def classes(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the class of code -> class that has most of each voxel of the image."""
        shares = [self._share(values == value) for value in range(int(values.max()) + 1)]
        return np.argmax(shares, axis=0).astype(np.uint8)

    def brain(self) -> NDArray[np.bool_]:
        """Return the brain as programs that strip skulls leave it: ventricles and sulci are in it, the skull is not."""
        solid = _largest_piece(self.where(lambda tissue: tissue in (*PARENCHYMA, *LESION_PARTS)))
        near = ndimage.distance_transform_edt(~solid, sampling=self.target.spacing) <= _CLOSING
        closed = ndimage.distance_transform_edt(near, sampling=self.target.spacing) > _CLOSING
        allowed = self.where(lambda tissue: tissue in (*BRAIN, *LESION_PARTS, "vessel"))
        filled: NDArray[np.bool_] = ndimage.binary_fill_holes(_largest_piece(solid | (closed & allowed)))
        return filled

    def _share(self, wanted: NDArray[np.bool_]) -> Field:
        return resampled(wanted[self.codes].astype(np.float32), self.grid, self.target)


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = pieces == sizes.argmax()
    return largest


def _part_wanted(head: HeadMap, settings: SynthesisSettings) -> HeadMap:
    """Return the part of the map that the images show.

    Raises:
        InputError: the table of tissues is not that of the map.
    """
    tissues = head.tissue_of(settings.tissues)
    wanted = [tissue in BRAIN if settings.skull_strip else bool(tissue) for tissue in tissues]
    if not any(wanted) or (settings.tissues and not {*tissues} & {*settings.tissues.values()}):
        what = "brain" if settings.skull_strip else "tissue"
        raise InputError(
            f"{head.name} holds no label that the table of tissues calls {what}: give the table of its maps"
        )
    return head.box(np.array(wanted)[head.codes], _MARGIN)


def _target_grid(grid: Grid, spacing: float) -> Grid:
    if not spacing:
        return grid
    x, y, z = (int(np.ceil(extent / spacing)) for extent in extents_of(grid))
    return Grid((x, y, z), (spacing, spacing, spacing))


def _image(rng: np.random.Generator, scene: _Scene, settings: SynthesisSettings, channel: str) -> Field:
    levels = modality_levels(channel) if settings.contrasts == "named" else None
    contrast = draw_contrast(rng, scene.tissues, levels)
    signal = draw_signal(rng, scene.codes, scene.grid, contrast, bias=settings.bias)
    ratios = [0.4 * new / old if new > old else 0.0 for new, old in zip(scene.target.spacing, scene.grid.spacing)]
    signal = resampled(ndimage.gaussian_filter(signal, ratios), scene.grid, scene.target)
    signal = draw_slices(rng, signal, scene.target, thickest=settings.thickest_slice)
    return draw_noise(rng, signal, largest=settings.noise)


def _as_stored(image: Field, mask: NDArray[np.bool_] | None, gain: float) -> NDArray[np.int16]:
    """Return whole numbers; inside a mask at least 1, outside 0."""
    low = 0 if mask is None else 1
    stored = np.clip(np.rint(gain * image), low, _MOST).astype(np.int16)
    return stored if mask is None else stored * mask


def _class_of_code(head: HeadMap, settings: SynthesisSettings) -> NDArray[np.uint8]:
    """Return the class of each code."""
    values = settings.class_values
    names = [settings.classes.get(label, "") for label in head.labels]
    names += LESION_PARTS if settings.label_lesions else [""] * len(LESION_PARTS)
    return np.array([values.get(name, 0) for name in names], dtype=np.uint8)


def _affine(head: HeadMap, target: Grid) -> NDArray[np.float64]:
    """Return the affine of a grid with the same centre as that of the map."""
    old, new = np.array(head.spacing), np.array(target.spacing)
    affine = head.affine.copy()
    affine[:3, :3] = affine[:3, :3] / old * new
    middle = head.affine[:3, :3] @ ((np.array(head.grid.shape) - 1) / 2) + head.affine[:3, 3]
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(target.shape) - 1) / 2)
    return affine
