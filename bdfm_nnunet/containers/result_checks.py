"""Checks of single results of a container: the form that the challenge wants, and agreement of two results."""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bdfm_nnunet.containers.container_settings import ContainerSettings

AGREEMENT = 0.999
"""Share of the voxels in which two segmentations of the same values agree: processors may round otherwise."""


def fault_of_result(path: Path, settings: ContainerSettings, image: Path | None) -> str:
    """Return why a result is none that the challenge takes; empty if it is.

    Args:
        path: the file.
        settings: of the container.
        image: whose grid a segmentation has.
    """
    kind = settings.form.result
    try:
        if kind == "segmentation":
            return _fault_of_labels(path, settings, image)
        if kind == "embedding":
            return _fault_of_vector(np.load(path, allow_pickle=False))
        value = float(path.read_text(encoding="ascii"))
    except Exception as error:  # of any reader, on a file that may hold anything
        return f"the result cannot be read ({type(error).__name__})"
    if not math.isfinite(value) or (kind == "probability" and not 0 <= value <= 1):
        return f"the result is {value}"
    return ""


def _fault_of_labels(path: Path, settings: ContainerSettings, image: Path | None) -> str:
    label: Any = nib.load(path)
    values = np.asanyarray(label.dataobj)
    unknown = sorted(set(np.unique(values).tolist()) - {0, *settings.labels.values()})
    if unknown:
        return f"the result has the label {unknown[0]}"
    if values.dtype.kind not in "iu":
        return f"the result has values of type {values.dtype}"
    if image is None:
        return "the image of the case was not found"
    like: Any = _loaded(image)
    if label.shape != like.shape[:3]:
        return f"the result has {label.shape} voxels and the image {like.shape}"
    if not np.allclose(label.affine, like.affine, atol=1e-3):
        return "the result lies elsewhere than the image"
    return ""


def _loaded(path: Path) -> Any:
    """Return an image by its content, whatever its ending."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        import gzip

        content = gzip.decompress(content)
    return nib.Nifti1Image.from_bytes(content)


def _fault_of_vector(vector: np.ndarray) -> str:
    if vector.ndim != 1 or vector.dtype != np.float32 or not vector.size:
        return f"the result is of shape {vector.shape} and type {vector.dtype}"
    return "" if np.isfinite(vector).all() else "the result has numbers that are not finite"


def told_result(path: Path) -> str:
    """Return a result in words: how much is labelled, the number, or how long the vector is."""
    if path.suffix == ".npy":
        return f"{np.load(path).size} numbers"
    if path.suffix == ".txt":
        return path.read_text(encoding="ascii").strip()
    label: Any = nib.load(path)
    return f"{np.count_nonzero(np.asanyarray(label.dataobj)):,} of {int(np.prod(label.shape)):,} voxels labelled"


def same_result(path: Path, other: Path, *, turned: Path | None = None) -> bool:
    """Return whether two results agree; segmentations in the world, if one lies otherwise.

    Args:
        path: a result.
        other: another of the same kind.
        turned: given for segmentations.
    """
    if path.suffix == ".npy":
        return bool(np.allclose(np.load(path), np.load(other), rtol=1e-2, atol=1e-3))
    if path.suffix == ".txt":
        return abs(float(path.read_text()) - float(other.read_text())) <= 1e-3 * max(1.0, abs(float(other.read_text())))
    here, there = (nib.as_closest_canonical(nib.load(each)) for each in (path, other))
    if here.shape[:3] != there.shape[:3]:
        return False
    equal = np.asanyarray(here.dataobj).reshape(there.shape) == np.asanyarray(there.dataobj)
    return bool(equal.mean() >= AGREEMENT)
