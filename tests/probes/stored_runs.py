"""Tiny stored runs of known values, written as `bdfm convert fmri-...` stores them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.files import write_json
from bdfm_nnunet.images.sequence_files import FOLDER, SequenceHeader, write_frames, write_header, write_mask

STEP = 2.0
AFFINE = np.array([[8.0, 0, 0, -36], [0, 8, 0, -60], [0, 0, 8, -30], [0, 0, 0, 1]])


def ball(shape: tuple[int, ...] = (9, 10, 8)) -> np.ndarray:
    middle = (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2
    return np.asarray((((np.indices(shape) - middle) / middle) ** 2).sum(axis=0) < 1)


def store(folder: Path, case: str, frames: np.ndarray, mask: np.ndarray | None = None, **more: Any) -> None:
    """Writes a run; `frames` (x, y, z, t)."""
    mask = ball(frames.shape[:3]) if mask is None else mask
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    write_frames(folder / FOLDER / f"{case}.b2nd", [frames.astype(np.float16)], frames.shape, np.float16)
    write_mask(folder / FOLDER / f"{case}_mask.b2nd", mask)
    corners = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    known = {
        "spacing": (8.0,) * 3, "repetition_time": STEP, "affine": AFFINE.tolist(), "mask": "made up",
        "background": -3.0, "mean": 0.0, "std": 1.0, "source_repetition_time": STEP, "source_frames": frames.shape[3],
    }  # fmt: skip
    header = SequenceHeader(
        shape=frames.shape, brain_box=[[int(line[0]), int(line[-1]) + 1] for line in corners],
        brain_voxels=int(mask.sum()), **{**known, **more},
    )  # fmt: skip
    write_header(folder / FOLDER / f"{case}.json", header)


def data_set(root: Path, number: int, runs: Mapping[str, np.ndarray]) -> Path:
    """Writes a raw data set of runs and its manifest; the subject of a run is what stands before `_`."""
    folder = root / "nnUNet_raw" / f"Dataset{number:03d}_Runs"
    for case, frames in runs.items():
        store(folder, case, frames)
    rows = [{"case": case, "patient": case.partition("_")[0], "part": "train"} for case in runs]
    write_json(folder / "manifest.json", {"release": "fmri-folder", "source": "made up", "cases": rows})
    write_json(
        folder / "dataset.json",
        {"channel_names": {"0": "bold"}, "labels": {"background": 0, "brain": 1}, "numTraining": len(runs),
         "file_ending": ".b2nd", "sequences": {"spacing": 8.0, "repetition_time": STEP}},
    )  # fmt: skip
    return folder
