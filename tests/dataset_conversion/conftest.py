"""A generator of tiny downloads in the layout of BraTS 2023, with faults planted where a test asks for them."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import point_to

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
SUFFIXES = ("t1n", "t1c", "t2w", "t2f")
SHAPE = (14, 13, 12)


class Tree:
    """A download folder to which cases are added; `root` is what a user would name as SOURCE."""

    def __init__(self, root: Path, *, task: str = "GLI", seed: int = 0) -> None:
        self.root = root
        self.task = task
        self.random = np.random.default_rng(seed)
        root.mkdir(parents=True, exist_ok=True)

    def case_id(self, patient: int, scan: int = 0) -> str:
        return f"BraTS-{self.task}-{patient:05d}-{scan:03d}"

    def file(self, case: str, suffix: str, *, ending: str = ".nii.gz", under: str = "") -> Path:
        return self.root / under / case / f"{case}-{suffix}{ending}"

    def add(
        self, patient: int, scan: int = 0, *, under: str = "", ending: str = ".nii.gz", labelled: bool = True
    ) -> str:
        """Writes one whole case and returns its id."""
        case = self.case_id(patient, scan)
        brain = np.zeros(SHAPE, bool)
        brain[2:-2, 2:-2, 2:-2] = True
        for suffix in SUFFIXES:
            image = np.where(brain, self.random.integers(100, 900, SHAPE), 0).astype(np.int16)
            self.write(self.file(case, suffix, ending=ending, under=under), image)
        if labelled:
            label = np.zeros(SHAPE, np.uint8)
            label[4:9, 4:9, 4:9], label[5:8, 5:8, 5:8], label[6, 6, 6] = 2, 3, 1
            self.write(self.file(case, "seg", ending=ending, under=under), label)
        return case

    @staticmethod
    def write(path: Path, values: np.ndarray, *, affine: np.ndarray = AFFINE, slope: float | None = None) -> None:
        image = nib.Nifti1Image(values, affine)
        if slope is not None:
            image.header.set_slope_inter(slope, 0)
        content = image.to_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "download")


@pytest.fixture
def new_tree(tmp_path: Path) -> Callable[..., Tree]:
    """Makes further downloads, for instance of another task."""
    return lambda name, **settings: Tree(tmp_path / name, **settings)


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty nnUNet_raw; the other two variables point beside it."""
    return point_to(tmp_path, monkeypatch) / "nnUNet_raw"


@pytest.fixture
def pacs(tmp_path: Path) -> Path:
    """An empty folder of DICOM files, whose own name is a patient's."""
    folder = tmp_path / "export Jane"
    folder.mkdir()
    return folder
