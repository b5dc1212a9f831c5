"""Data sets of 4-D runs as `bdfm convert fmri-...` leaves them, of a few voxels."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.files import write_json
from bdfm_nnunet.images.sequence_files import FOLDER, SequenceHeader, write_frames, write_header, write_mask

DATASET: dict[str, Any] = {
    "channel_names": {"0": "bold"}, "labels": {"background": 0, "brain": 1}, "file_ending": ".b2nd",
    "overwrite_image_reader_writer": None,
    "sequences": {"spacing": 6.0, "repetition_time": 0.8, "store": "float16", "shapes": [], "frames": []},
}  # fmt: skip


def write_run(
    folder: Path,
    case: str,
    shape: tuple[int, int, int, int],
    *,
    spacing: float = 6.0,
    repetition_time: float = 0.8,
    standardised: str = "run",
) -> None:
    """Write the three files of a run of random values."""
    rng = np.random.default_rng(len(case))
    folder.mkdir(parents=True, exist_ok=True)
    header = SequenceHeader(
        shape=shape, spacing=(spacing,) * 3, repetition_time=repetition_time, affine=np.eye(4).tolist(),
        brain_box=[[0, size] for size in shape[:3]], brain_voxels=1, mask="given", background=-1.0, mean=0.0, std=1.0,
        source_repetition_time=repetition_time, source_frames=shape[3], standardised=standardised,
    )  # fmt: skip
    for ending in (".b2nd", "_mask.b2nd"):
        (folder / f"{case}{ending}").unlink(missing_ok=True)
    write_frames(folder / f"{case}.b2nd", [rng.normal(size=shape)], shape, np.float16)
    write_mask(folder / f"{case}_mask.b2nd", rng.random(shape[:3]) < 0.5)
    write_header(folder / f"{case}.json", header)


def make_runs(
    root: Path, shape: tuple[int, int, int, int] = (8, 8, 8, 6), cases: str = "abcd", **options: Any
) -> tuple[Path, Path]:
    """Write data set 700 under `root`; return its folders in nnUNet_raw and nnUNet_preprocessed."""
    raw = root / "nnUNet_raw" / "Dataset700_Runs"
    for case in cases:
        write_run(raw / FOLDER, case, shape, **options)
    write_json(raw / "dataset.json", DATASET | {"numTraining": len(cases)})
    manifest = {
        "release": "own",
        "dataset_name": "Runs",
        "cases": [{"case": case, "patient": case, "part": "train"} for case in cases],
    }
    write_json(raw / "manifest.json", manifest)
    half = len(cases) // 2
    splits = [{"train": list(cases[:half]), "val": list(cases[half:])}]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    return raw, root / "nnUNet_preprocessed" / raw.name
