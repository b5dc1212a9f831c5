"""A folder of preprocessed cases as nnU-Net writes it, with voxels that say where they are."""

import pickle
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

SHAPES = {"case_0": (4, 70, 66, 90), "case_1": (4, 80, 75, 70), "case_2": (4, 64, 97, 65)}
PATCH = (48, 48, 48)


def volume(key: str) -> Any:
    """The voxels of a case: every value occurs once in the whole folder, and float32 holds it."""
    shape, number = SHAPES[key], list(SHAPES).index(key)
    return (np.arange(np.prod(shape), dtype=np.float32) + 2**21 * number).reshape(shape)


@pytest.fixture(scope="session")
def _preprocessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preprocessed")
    for key in SHAPES:
        data = volume(key)
        seg = np.zeros((1, *data.shape[1:]), dtype=np.int16)
        seg[0, 20:30, 20:30, 20:30] = 1
        blocks, chunks = comp_blosc2_params(data.shape, PATCH, data.itemsize)
        properties = {"class_locations": {1: np.argwhere(seg == 1)}}
        nnUNetDatasetBlosc2.save_case(data, seg, properties, str(folder / key), chunks=chunks, blocks=blocks)
    return folder


@pytest.fixture
def preprocessed(_preprocessed: Path, tmp_path: Path) -> Path:
    """A copy for the test alone, which may damage it."""
    for path in _preprocessed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def dataset(_preprocessed: Path) -> nnUNetDatasetBlosc2:
    """Three cases of four channels. Read only."""
    return nnUNetDatasetBlosc2(str(_preprocessed))


def rewrite(folder: Path, key: str, **layout: Any) -> None:
    """Stores the images of a case with other chunks and blocks."""
    (folder / f"{key}.b2nd").unlink()
    blosc2.asarray(volume(key), urlpath=str(folder / f"{key}.b2nd"), **layout)


def without_labels(folder: Path) -> None:
    """Leaves no labelled voxel in any case."""
    for key in SHAPES:
        (folder / f"{key}.pkl").write_bytes(pickle.dumps({"class_locations": {1: []}}))
