"""Made-up subjects on real anatomy: draw the parameters of a subject, then render it on any grid.

The anatomy is the symmetric ICBM 152 (2009a) template that nilearn ships: T1 and the fractions of grey and white
matter at 1 mm. Everything else is invented, the lesions above all. Coordinates are millimetres from the centre of the
template's brain with axes towards the left, the back and the top (LPS, as BraTS stores its volumes); arrays are
indexed (x, y, z). `draw_subject` holds all randomness, `render` is arithmetic, so a subject can be replayed at another
spacing or with one parameter changed.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from bdfm_nnunet.errors import InputError

Field = NDArray[np.float32]

CHANNELS = ("t1n", "t1c", "t2w", "t2f")
NECROSIS, OEDEMA, ENHANCING = 1, 2, 3
FIELD_OF_VIEW = (240.0, 240.0, 155.0)

# Brightness relative to white matter in T1, per tissue: white, grey, fluid, necrosis, oedema, enhancing; the last
# number is the share of the template's own T1 detail that the contrast shows.
CONTRASTS: dict[str, tuple[float, ...]] = {
    "t1n": (1.00, 0.72, 0.28, 0.42, 0.68, 0.62, 1.0),
    "t1c": (0.98, 0.75, 0.30, 0.40, 0.66, 1.55, 0.8),
    "t2w": (0.55, 0.80, 1.60, 1.35, 1.20, 0.90, -0.6),
    "t2f": (0.70, 0.88, 0.22, 0.55, 1.40, 1.05, -0.3),
}
_T1_LEVELS = (223.0, 165.0, 65.0)
_WARP_STEP, _BIAS_STEP, _TEXTURE_STEP = 32.0, 80.0, 9.0


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes:
        position: where in the list of eligible white-matter voxels its centre lies, from 0 to 1.
        core_mm: mean radius of the tumour core.
        rim_mm: thickness of the enhancing rim; 0 for a core that does not enhance, at least `core_mm` for a core
            without necrosis.
        oedema_mm: how far the oedema reaches beyond the core.
        axes: relative lengths of the half axes, product 1.
        rotation: 3x3 rotation of these axes.
        outline: two lattices of cubic B-spline weights that make core and oedema irregular.
    """

    position: float
    core_mm: float
    rim_mm: float
    oedema_mm: float
    axes: Field
    rotation: Field
    outline: Field


@dataclass(frozen=True)
class Subject:
    """The random parameters of one scan.

    Attributes:
        linear: 3x3 matrix and `shift` (mm) that lead from the subject to the template.
        shift: see `linear`.
        warp: (3, ...) lattice of cubic B-spline weights in mm, bounded so that the warp does not fold.
        levels: channel -> brightness per tissue, in the order of the tissues above, already jittered.
        gain: channel -> scanner units of white matter in T1.
        bias: (4, ...) lattices of the logarithm of the intensity non-uniformity.
        texture: (4, ...) lattices of the lesions' inner texture.
        lesions: the lesions.
        noise: standard deviation of the noise relative to white matter in T1.
        noise_seed: seed of the noise, which is the one thing drawn while rendering.
    """

    linear: Field
    shift: Field
    warp: Field
    levels: Mapping[str, tuple[float, ...]]
    gain: Mapping[str, float]
    bias: Field
    texture: Field
    lesions: tuple[Lesion, ...]
    noise: float
    noise_seed: int


@dataclass(frozen=True)
class Grid:
    """A voxel grid centred on the brain: shape and spacing in mm, both (x, y, z)."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def axes(self) -> list[Field]:
        """Return the coordinates of the voxel centres along each axis, in mm from the centre."""
        return [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(self.shape, self.spacing)]


def lattice_shape(step: float, extents: Sequence[float] = FIELD_OF_VIEW) -> tuple[int, ...]:
    """Return the number of spline knots per axis, `step` mm apart, that a field over these extents (mm) needs."""
    return tuple(int(np.ceil(extent / step)) + 3 for extent in extents)


def rotation(angles: NDArray[np.float64]) -> Field:
    """Return the 3x3 rotation by three angles (radians) about x, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return (about_z @ about_y @ about_x).astype(np.float32)


def draw_lesion(rng: np.random.Generator) -> Lesion:
    """Draw one lesion: seven in ten with necrosis and rim, the others without the one or the other."""
    core = float(rng.uniform(9.0, 20.0))
    kind = rng.choice(["rim", "no enhancement", "no necrosis"], p=[0.7, 0.15, 0.15])
    rim = {"rim": float(rng.uniform(0.25, 0.5)) * core, "no enhancement": 0.0, "no necrosis": core}[str(kind)]
    axes = np.exp(rng.normal(0, 0.15, 3))
    return Lesion(
        position=float(rng.uniform()),
        core_mm=core,
        rim_mm=rim,
        oedema_mm=float(rng.uniform(7.0, 18.0)),
        axes=(axes / axes.prod() ** (1 / 3)).astype(np.float32),
        rotation=rotation(rng.uniform(0, np.pi, 3)),
        outline=rng.normal(0, 1, (2, *lattice_shape(_TEXTURE_STEP))).astype(np.float32),
    )


def draw_subject(rng: np.random.Generator) -> Subject:
    """Draw one subject with one or two lesions."""
    scales = np.diag(rng.uniform(0.94, 1.05, 3))
    warp = np.clip(rng.normal(0, 4.5, (3, *lattice_shape(_WARP_STEP))), -0.4 * _WARP_STEP, 0.4 * _WARP_STEP)
    levels = {
        name: tuple(level * np.exp(rng.normal(0, 0.05)) for level in row[:-1]) + row[-1:]
        for name, row in CONTRASTS.items()
    }
    return Subject(
        linear=rotation(rng.normal(0, 0.05, 3)) @ scales.astype(np.float32),
        shift=rng.normal(0, 2.0, 3).astype(np.float32),
        warp=warp.astype(np.float32),
        levels=levels,
        gain={name: float(rng.uniform(300, 900)) for name in CHANNELS},
        bias=rng.normal(0, 0.25, (len(CHANNELS), *lattice_shape(_BIAS_STEP))).astype(np.float32),
        texture=rng.normal(0, 0.35, (len(CHANNELS), *lattice_shape(_TEXTURE_STEP))).astype(np.float32),
        lesions=tuple(draw_lesion(rng) for _ in range(rng.choice([1, 2], p=[0.7, 0.3]))),
        noise=float(rng.uniform(0.02, 0.04)),
        noise_seed=int(rng.integers(2**63)),
    )


@lru_cache(maxsize=1)
def _template() -> Field:
    """Load T1, white, grey and fluid fractions of the template, (4, 197, 233, 189), 1 mm, axes to left, back, top."""
    package = importlib.util.find_spec("nilearn")
    if package is None or not package.submodule_search_locations:
        raise InputError("nilearn is not installed but its brain template is needed: run `pip install nilearn`")
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    volumes = []
    for name in ("t1", "wm", "gm"):
        path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise InputError(f"{path} is missing from nilearn: install it again with `pip install nilearn==0.14.1`")
        # SimpleITK gives (z, y, x); the file's x and y point to the right and the front.
        volumes.append(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T[::-1, ::-1].astype(np.float32))
    brain = volumes[0] > 0
    white, grey = (fraction / 255 * brain for fraction in volumes[1:])
    maps: Field = np.stack([volumes[0], white, grey, np.clip(brain - white - grey, 0, 1)]).astype(np.float32)
    return maps


@lru_cache(maxsize=2)
def smoothed_template(spacing: tuple[float, float, float]) -> Field:
    """Return the template without what a grid of this spacing cannot show."""
    sigma = [0.4 * step if step > 1 else 0.0 for step in spacing]
    return np.stack([ndimage.gaussian_filter(volume, sigma) for volume in _template()])


def _spline_basis(coordinates: Field, step: float, extent: float, count: int) -> Field:
    """Return (len(coordinates), count) weights of uniform cubic B-splines with knots every `step` mm."""
    position = np.clip((coordinates + extent / 2) / step, 0, count - 3.001) + 1
    distance = np.abs(position[:, None] - np.arange(count)[None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, np.where(distance < 2, far, 0)).astype(np.float32)


def smooth_field(lattice: Field, step: float, axes: Sequence[Field], extents: Sequence[float] = FIELD_OF_VIEW) -> Field:
    """Evaluate a lattice of spline weights (x, y, z) at all voxels of a grid.

    Args:
        lattice: weights of cubic B-splines, of the shape that `lattice_shape` gives.
        step: distance of the knots, mm.
        axes: coordinates of the voxels along each axis, mm from the centre.
        extents: of the field, mm; beyond them it goes on as it ends.
    """
    weights = [_spline_basis(a, step, e, n) for a, e, n in zip(axes, extents, lattice.shape)]
    field: Field = np.einsum("ijk,ai,bj,ck->abc", lattice, *weights, optimize=True)
    return field


def _anatomy(subject: Subject, grid: Grid) -> Field:
    """Return T1 and tissue fractions of the subject's healthy brain on the grid, (4, x, y, z)."""
    axes = grid.axes()
    points = np.stack(np.meshgrid(*axes, indexing="ij"))
    points = np.tensordot(subject.linear, points, axes=1) + subject.shift[:, None, None, None]
    points += np.stack([smooth_field(lattice, _WARP_STEP, axes) for lattice in subject.warp])
    template = smoothed_template(grid.spacing)
    centre = np.array([98.0, 115.0, 77.0], dtype=np.float32)
    points += centre[:, None, None, None]
    return np.stack([ndimage.map_coordinates(volume, points, order=1) for volume in template])


def lesion_centre(lesion: Lesion, tissue: Field, grid: Grid) -> Field:
    """Return the centre of a lesion in mm: in white matter, if possible a core's radius away from the brain's edge."""
    brain = tissue[1:].sum(axis=0) > 0.5
    depth = ndimage.distance_transform_edt(brain, sampling=grid.spacing)
    deep = depth > min(lesion.core_mm, 0.6 * depth.max())
    eligible = np.argwhere(deep & (tissue[1] > 0.5))
    if not len(eligible):
        eligible = np.argwhere(deep)
    voxel = eligible[min(int(lesion.position * len(eligible)), len(eligible) - 1)]
    return np.array([axis[i] for axis, i in zip(grid.axes(), voxel)], dtype=np.float32)


def paint_lesion(lesion: Lesion, centre: Field, tissue: Field, grid: Grid) -> NDArray[np.uint8]:
    """Paint one lesion on the grid: oedema follows white matter and spares fluid, the core does neither.

    Args:
        lesion: the lesion.
        centre: its centre, mm.
        tissue: T1 (not used), white, grey and fluid fractions, (4, x, y, z).
        grid: the grid.

    Returns:
        Labels: 1 necrosis, 2 oedema, 3 enhancing tumour.
    """
    axes = grid.axes()
    offsets = np.stack(np.meshgrid(*[axis - c for axis, c in zip(axes, centre)], indexing="ij"))
    turned = np.tensordot(lesion.rotation, offsets, axes=1)
    radius = np.sqrt(((turned / lesion.axes[:, None, None, None]) ** 2).sum(axis=0))
    core_noise, oedema_noise = (smooth_field(lattice, _TEXTURE_STEP, axes) for lattice in lesion.outline)
    core = radius + 0.8 * lesion.core_mm * core_noise
    hollow = core + 0.8 * lesion.rim_mm * oedema_noise
    oedema = radius + 0.9 * lesion.oedema_mm * oedema_noise
    brain = tissue[1:].sum(axis=0) > 0.5
    reach = lesion.core_mm + lesion.oedema_mm * (0.3 + 0.7 * tissue[1])
    labels = np.zeros(grid.shape, dtype=np.uint8)
    labels[(oedema < reach) & (tissue[3] < 0.4)] = OEDEMA
    labels[core < lesion.core_mm] = ENHANCING if lesion.rim_mm else NECROSIS
    if lesion.rim_mm < lesion.core_mm:
        labels[(core < lesion.core_mm) & (hollow < lesion.core_mm - lesion.rim_mm)] = NECROSIS
    labels[~brain] = 0
    return labels


def paint_lesions(subject: Subject, tissue: Field, grid: Grid) -> NDArray[np.uint8]:
    """Paint all lesions of a subject; where two meet, enhancing wins over necrosis, necrosis over oedema."""
    rank = np.array([0, 2, 1, 3], dtype=np.uint8)
    labels = np.zeros(grid.shape, dtype=np.uint8)
    for lesion in subject.lesions:
        painted = paint_lesion(lesion, lesion_centre(lesion, tissue, grid), tissue, grid)
        labels = np.where(rank[painted] > rank[labels], painted, labels)
    return labels


def _tissue_weights(tissue: Field, labels: NDArray[np.uint8]) -> Field:
    """Return shares of white, grey, fluid, necrosis, oedema, enhancing tissue: (6, x, y, z), sum 1 in the brain."""
    total = np.maximum(tissue[1:].sum(axis=0), 1e-3)
    lesions = np.stack(
        [ndimage.gaussian_filter((labels == value).astype(np.float32), 0.5) for value in (NECROSIS, OEDEMA, ENHANCING)]
    )
    healthy = 1 - lesions.sum(axis=0)
    return np.concatenate([tissue[1:] / total * healthy, lesions])


def render(subject: Subject, grid: Grid) -> tuple[dict[str, NDArray[np.int16]], NDArray[np.uint8]]:
    """Render a subject.

    Returns:
        The four contrasts, int16 with a background of exactly 0 and a brain of at least 1, and the labels (1 necrosis,
        2 oedema, 3 enhancing tumour).
    """
    axes = grid.axes()
    tissue = _anatomy(subject, grid)
    labels = paint_lesions(subject, tissue, grid)
    brain = tissue[1:].sum(axis=0) > 0.5
    weights = _tissue_weights(tissue, labels)
    detail = (tissue[0] - np.tensordot(np.array(_T1_LEVELS), tissue[1:], axes=1)) / _T1_LEVELS[0]
    detail = detail * weights[:3].sum(axis=0)
    rng = np.random.default_rng(subject.noise_seed)
    images = {}
    for number, name in enumerate(CHANNELS):
        *levels, share = subject.levels[name]
        texture = 1 + smooth_field(subject.texture[number], _TEXTURE_STEP, axes) * weights[3:].sum(axis=0)
        signal = (np.tensordot(np.array(levels), weights, axes=1) + share * detail) * texture
        signal = signal * np.exp(smooth_field(subject.bias[number], _BIAS_STEP, axes))
        real, imaginary = rng.normal(0, subject.noise, (2, *grid.shape))
        measured = subject.gain[name] * np.hypot(signal + real, imaginary)
        images[name] = (np.clip(np.rint(measured), 1, 32767) * brain).astype(np.int16)
    return images, labels
