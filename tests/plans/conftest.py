"""Data sets of which only dataset.json, the file names and the fingerprint exist: enough to plan."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import point_to

REGIONS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": 3}


class Skeleton:
    """Writes data set 501 with a made-up fingerprint under the folders that the environment variables name."""

    def __init__(self, root: Path) -> None:
        self.raw = root / "nnUNet_raw" / "Dataset501_Skeleton"
        self.preprocessed = root / "nnUNet_preprocessed" / "Dataset501_Skeleton"

    def write(
        self,
        shape: tuple[int, ...] = (140, 171, 136),
        spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
        *,
        channels: int = 4,
        cases: int = 1000,
    ) -> None:
        (self.raw / "imagesTr").mkdir(parents=True, exist_ok=True)
        (self.raw / "labelsTr").mkdir(exist_ok=True)
        self.preprocessed.mkdir(parents=True, exist_ok=True)
        for channel in range(channels):
            (self.raw / "imagesTr" / f"case_{channel:04d}.nii.gz").touch()
        (self.raw / "labelsTr" / "case.nii.gz").touch()
        intensities = dict.fromkeys(("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"), 1.0)
        dataset = {
            "channel_names": {str(channel): f"contrast{channel}" for channel in range(channels)},
            "labels": REGIONS,
            "regions_class_order": [2, 1, 3],
            "numTraining": cases,
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "SimpleITKIO",
        }
        fingerprint = {
            "spacings": [list(spacing)] * 3,
            "shapes_after_crop": [list(shape)] * 3,
            "foreground_intensity_properties_per_channel": {str(channel): intensities for channel in range(channels)},
            "median_relative_size_after_cropping": 0.3,
        }
        (self.raw / "dataset.json").write_text(json.dumps(dataset))
        (self.preprocessed / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


@pytest.fixture
def skeleton(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Skeleton]:
    """Writes data set 501; called with the shape and spacing of its images."""
    point_to(tmp_path, monkeypatch)

    def make(*args: object, **settings: object) -> Skeleton:
        made = Skeleton(tmp_path)
        made.write(*args, **settings)  # type: ignore[arg-type]
        return made

    return make
