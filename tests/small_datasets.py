"""Tiny data sets of any spacing, channels and labels in nnUNet_raw, planned and preprocessed for real."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

LABELS: dict[str, Any] = {"background": 0, "body": 1, "core": 2}
REGIONS: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": 2}


@dataclass(frozen=True, kw_only=True)
class SmallDataset:
    """Images of smooth noise with an ellipsoid in an ellipsoid, of two cases to learn from and one held out.

    Attributes:
        number: of the data set.
        shape: voxels (x, y, z), give or take one.
        spacing: mm (x, y, z).
        channels: images per case.
        labels: as dataset.json has them; regions where one of them is a list.
    """

    number: int
    shape: Sequence[int]
    spacing: Sequence[float]
    channels: int
    labels: dict[str, Any] = field(default_factory=lambda: dict(LABELS))

    @property
    def name(self) -> str:
        """Name of its folders."""
        return f"Dataset{self.number:03d}_Small"

    def write(self, raw: Path) -> Path:
        """Write it into nnUNet_raw."""
        folder = raw / self.name
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True)
        rng = np.random.default_rng(self.number)
        for case in range(3):
            shape = tuple(size + case - 1 for size in self.shape)
            label = _ellipsoids(shape, rng)
            self._save(folder / "labelsTr" / f"case_{case}.nii.gz", label)
            for channel in range(self.channels):
                image = gaussian_filter(rng.normal(size=shape), 1.0) + 0.5 * label * (channel + 1)
                self._save(folder / "imagesTr" / f"case_{case}_{channel:04d}.nii.gz", image.astype(np.float32))
        regions = any(isinstance(value, list) for value in self.labels.values())
        description = {
            "channel_names": {str(channel): f"contrast{channel}" for channel in range(self.channels)},
            "labels": self.labels,
            "numTraining": 3,
            "file_ending": ".nii.gz",
        } | ({"regions_class_order": [1, 2]} if regions else {})
        (folder / "dataset.json").write_text(json.dumps(description))
        split = [{"train": ["case_0", "case_1"], "val": ["case_2"]}]
        (folder / "splits_final.json").write_text(json.dumps(split))
        return folder

    def _save(self, path: Path, volume: Any) -> None:
        nib.save(nib.Nifti1Image(volume, np.diag([*self.spacing, 1.0])), path)


def _ellipsoids(shape: tuple[int, ...], rng: np.random.Generator) -> Any:
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
    centre = rng.uniform(-0.2, 0.2, size=3)
    radius = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
    return ((radius < 0.5).astype(np.uint8) + (radius < 0.15)).astype(np.uint8)
