"""A made-up release with two channels and a label, and downloads for it."""

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from bdfm_nnunet.dataset_conversion import convert_release
from bdfm_nnunet.dataset_conversion.release import Release, Source
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord

SHAPE = (7, 6, 5)
OBLIQUE = np.array([[0.8, -0.6, 0, 4], [0.6, 0.8, 0, -3], [0, 0, 2.5, 7], [0, 0, 0, 1.0]])
ENTRY = Release(
    name="made-up", title="made up", dataset_name="MadeUp", case_pattern=r"c\d+", patient_pattern=r"(c\d+)",
    channels={"a": Source("{case}_a"), "b": Source("{case}_b")}, label=(Source("{case}_seg"),),
    labels={1: "core", 4: "rim"}, label_map={4: 2}, regions={"core": (1,), "rim": (2,)},
)  # fmt: skip
IN_ONE = replace(ENTRY, channels={"a": Source("{case}_all", volume=2), "b": Source("{case}_all", volume=0)})
MASKS = replace(
    ENTRY, label=(), labels={}, label_map={}, regions={"left": (1, 3), "right": (2, 3)}, regions_class_order=(1, 2),
    masks={"left": Source("{case}_left"), "right": Source("{case}_right")},
)  # fmt: skip


class Download:
    """A folder of random volumes; names are given without `.nii.gz`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.random = np.random.default_rng(0)
        root.mkdir()

    def image(self, name: str, shape: tuple[int, ...] = SHAPE, **settings: Any) -> np.ndarray:
        values = np.asfortranarray(self.random.integers(1, 99, shape).astype(np.int16))
        values[0] = 0
        self.write(name, values, **settings)
        return values

    def label(self, name: str, values: tuple[int, ...] = (0, 1, 4)) -> np.ndarray:
        label = self.random.choice(values, SHAPE).astype(np.uint8)
        self.write(name, label)
        return label

    def write(
        self, name: str, values: np.ndarray, *, slope: float = 1, intercept: float = 0, compress: bool = True
    ) -> None:
        image = nib.Nifti1Image(values, OBLIQUE)
        image.header.set_slope_inter(slope, intercept)
        content = image.to_bytes()
        (self.root / f"{name}.nii.gz").write_bytes(gzip.compress(content) if compress else content)

    def case(self, name: str = "c1") -> None:
        for role in ("a", "b"):
            self.image(f"{name}_{role}")
        self.label(f"{name}_seg")


def convert_first(entry: Release, download: Download, **settings: Any) -> tuple[CaseRecord, Path]:
    report = convert_release(entry, download.root, dataset_id=9, **settings)
    return report.records[0], report.folder


def read_volume(path: Path) -> np.ndarray:
    """As nnU-Net does, (x, y, z)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose()
