"""Writes tiny downloads and keeps a record of what must come of them."""

import csv
import gzip
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl

SHAPE = (9, 8, 7)
AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
OK, REPAIRED, REFUSED = "ok", "repaired", "refused"


@dataclass
class Planted:
    """What a tree holds.

    Attributes:
        statuses: case id to the status that its conversion must have.
        test: cases published without segmentation.
        labels: case id to its label as published, known strays already read as what they are.
        masks: case id to structure to mask, for releases with masks of their own.
        patients: case id to patient key, where it is worth a test.
        aliases: case id to ids of the same patient elsewhere.
        sites: case id to site.
        notes: case id to a part of a note that its row must have.
        junk: number of files and folders that are none of the data.
        unlabelled: whether the release can only be converted with `unlabelled`.
    """

    statuses: dict[str, str] = field(default_factory=dict)
    test: set[str] = field(default_factory=set)
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    junk: int = 0
    unlabelled: bool = False


class Planter:
    """Writes the files of one tree."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = np.random.default_rng(seed)
        self.planted = Planted()
        root.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, values: np.ndarray, *, slope: float | None = None, plain: bool = False) -> Path:
        """A NIfTI file, or an Analyze pair where the path ends so; `plain` writes no gzip under any name."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".img"):
            nib.save(nib.Spm2AnalyzeImage(values, np.diag([-1.0, 1, 1, 1]), _big_endian()), target)
            return target
        image = nib.Nifti1Image(values, AFFINE)
        if slope is not None:
            image.header.set_slope_inter(slope, 0)
        content = image.to_bytes()
        target.write_bytes(gzip.compress(content, 1) if path.endswith(".gz") and not plain else content)
        return target

    def image(
        self, path: str, *, shape: tuple[int, ...] = SHAPE, slope: float | None = None, plain: bool = False
    ) -> Path:
        """A brain of noise with nothing around it."""
        values = np.zeros(shape, np.int16)
        inside = (slice(1, -1),) * 3
        values[inside] = self.random.integers(10, 900, values[inside].shape)
        return self.write(path, values, slope=slope, plain=plain)

    def label(self, path: str, values: Iterable[int], *, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
        """A label file that has each of the values and no other but 0."""
        chosen = np.array([0, *values])
        label = self.random.choice(chosen, shape).astype(np.int16 if path.endswith(".img") else np.uint8)
        label.flat[: len(chosen)] = chosen
        self.write(path, label)
        return label

    def case(self, case: str, status: str = OK, *, label: np.ndarray | None = None, test: bool = False) -> None:
        """Notes what must come of a case."""
        self.planted.statuses[case] = status
        if label is not None and status != REFUSED:
            self.planted.labels[case] = label
        if test:
            self.planted.test.add(case)

    def brats(
        self, folder: str, case: str, names: Iterable[str], values: Iterable[int] | None, *,
        ending: str = ".nii.gz", joint: str = "-", seg: str = "seg", status: str = OK,
        shape: tuple[int, ...] = SHAPE,
    ) -> np.ndarray | None:  # fmt: skip
        """A case of BraTS in `folder`; `values` None: published without segmentation."""
        stem = f"{folder}/{case}/{case}{joint}"
        for name in names:
            self.image(f"{stem}{name}{ending}", shape=shape)
        label = None if values is None else self.label(f"{stem}{seg}{ending}", values, shape=shape)
        self.case(case, status, label=label, test=values is None)
        return label

    def junk(self, folder: str = "") -> None:
        """What systems leave behind, named like data."""
        for path in (f"{folder}._hidden.nii.gz", f"{folder}.DS_Store", f"{folder}__MACOSX/._BRATS_001.nii.gz"):
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(b"junk")
        self.planted.junk += 3

    def table(self, path: str, rows: list[dict[str, str]]) -> None:
        """A CSV file with a byte-order mark, or a workbook."""
        if path.endswith(".xlsx"):
            book = openpyxl.Workbook()
            for row in [list(rows[0]), *(list(row.values()) for row in rows)]:
                book.active.append(row)
            book.save(self.root / path)
            return
        with (self.root / path).open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)


def _big_endian() -> nib.Spm2AnalyzeImage:
    return nib.Spm2AnalyzeImage.header_class(endianness=">")
