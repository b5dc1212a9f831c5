"""Preprocessed cases read as data: nnU-Net keeps their properties in pickles, which it would run."""

import os
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plain_pickles import read_plain_pickle


def read_properties(folder: str | os.PathLike[str], case: str) -> dict[str, Any]:
    """Return the properties of a preprocessed case, without running anything that their file may hold.

    Raises:
        InputError: the file is missing, damaged, or holds other things than numbers, texts and arrays.
    """
    path = Path(folder) / f"{case}.pkl"
    try:
        properties = read_plain_pickle(path)
        fault = "" if _are_properties(properties) else f"{path.name} does not hold the properties of a case"
    except InputError as error:
        fault = str(error).rpartition(": ")[0]
    if fault:
        raise InputError(
            f"case {case} in {folder} cannot be read ({fault}): delete its files there and preprocess the data set "
            "again with `bdfm plan`"
        )
    return dict(properties)


def _are_properties(properties: Any) -> bool:
    return isinstance(properties, dict) and _are_locations(properties.get("class_locations"))


def _are_locations(locations: Any) -> bool:
    """Return whether these are voxels per class, (N, 1 + axes) each, or there are none."""
    if locations is None:
        return True
    return isinstance(locations, dict) and all(
        voxels == []
        if isinstance(voxels, list)
        else isinstance(voxels, np.ndarray) and voxels.ndim == 2 and voxels.dtype.kind in "iu"
        for voxels in locations.values()
    )


class PlainBlosc2Cases(nnUNetDatasetBlosc2):
    """nnU-Net's data set of compressed arrays, read as data."""

    def load_case(self, identifier: str) -> Any:
        """Open a case: images, labels, labels of the previous stage, properties.

        Raises:
            InputError: its properties are damaged.
        """
        folder, stage = self.source_folder, self.folder_with_segs_from_previous_stage
        arrays = [self.open_array(folder, identifier), self.open_array(folder, f"{identifier}_seg")]
        return (
            *arrays,
            None if stage is None else self.open_array(stage, identifier),
            read_properties(folder, identifier),
        )

    def open_array(self, folder: str, name: str) -> Any:
        """Open an array (C, *spatial) without reading it."""
        path = os.path.join(folder, f"{name}.b2nd")
        # one thread: the other cores have workers of their own
        return blosc2.open(urlpath=path, mode="r", dparams={"nthreads": 1}, **self.mmap_kwargs)


class PlainNumpyCases(nnUNetDatasetNumpy):
    """nnU-Net's data set of NumPy archives, read as data."""

    def load_case(self, identifier: str) -> Any:
        """Load a case: images, labels, labels of the previous stage, properties.

        Raises:
            InputError: its properties are damaged.
        """
        folder, stage = self.source_folder, self.folder_with_segs_from_previous_stage
        arrays = [_unpacked(folder, identifier, "data"), _unpacked(folder, identifier, "seg")]
        previous = None if stage is None else _unpacked(stage, identifier, "seg", ending="")
        return *arrays, previous, read_properties(folder, identifier)


def _unpacked(folder: str, case: str, name: str, ending: str | None = None) -> Any:
    """Return the array of an archive, or of the file that nnU-Net has unpacked it to."""
    ending = ("_seg" if name == "seg" else "") if ending is None else ending
    unpacked = os.path.join(folder, f"{case}{ending}.npy")
    if os.path.isfile(unpacked):
        return np.load(unpacked, mmap_mode="r")
    return np.load(os.path.join(folder, f"{case}.npz"))[name]


def as_data(kind: type[nnUNetBaseDataset]) -> type[nnUNetBaseDataset]:
    """Return the class that reads as data what one of nnU-Net's classes reads."""
    return {nnUNetDatasetBlosc2: PlainBlosc2Cases, nnUNetDatasetNumpy: PlainNumpyCases}.get(kind, kind)
