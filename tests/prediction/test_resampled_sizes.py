"""Images whose voxel size is wrong: refused before anything is resampled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.prediction import resampled_sizes
from bdfm_nnunet.prediction.case_images import check_cases
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.resampled_sizes import check_resampled_size

VOLUMES = ImagesWanted(["c"], 4, ".nii.gz", SimpleITKIO, False, (1.0, 1.0, 2.0), (0, 1, 2), False)
SLICES = replace(VOLUMES, spacing=(1.0, 2.0), flat=True)


@pytest.mark.parametrize("wanted", [VOLUMES, SLICES, replace(VOLUMES, transpose=(2, 0, 1))])
@pytest.mark.parametrize(
    ("size", "spacing"), [((20, 240, 240), (5, 1, 1)), ((2, 2, 3), (1, 1, 2)), ((160, 9, 9), (1.0, 1.4, 1.6))]
)
def test_usual_images_are_taken(wanted: ImagesWanted, size: Any, spacing: Any) -> None:
    check_resampled_size("a.nii.gz", size, spacing, wanted)


@pytest.mark.parametrize(
    ("size", "spacing", "sentence"),
    [
        ((240, 240, 155), (0.001,) * 3, "has 240 voxels of 0.001 mm along an axis, which would be 0 at the 1 mm"),
        ((240, 240, 155), (1, 1, 0.01), "has 155 voxels of 0.01 mm along an axis, which would be 1 at the 2 mm"),
        ((8, 240, 240), (0.1, 1, 1), "has 8 voxels of 0.1 mm along an axis, which would be 1 at the 1 mm"),
        ((1, 240, 240), (0.4, 1, 1), "has 1 voxels of 0.4 mm along an axis, which would be 0 at the 1 mm"),
        ((240, 240, 155), (1000, 1000, 1000), "would have 240000 x 240000 x 77500 voxels"),
        ((240, 240, 155), (1e30, 1, 1), "GiB are needed"),
    ],
)  # fmt: skip
def test_nothing_and_enormous(size: Any, spacing: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=r"a\.nii\.gz") as caught:
        check_resampled_size("a.nii.gz", size, spacing, VOLUMES)
    assert sentence in str(caught.value) and "voxel size in its header" in str(caught.value)


def test_slices_of_a_flat_model_are_not_resampled_between() -> None:
    for step in (0.001, 1000):
        check_resampled_size("a", (10, 200, 200), (step, 1, 1), SLICES)
    with pytest.raises(InputError, match="would be 0 at the 2 mm"):
        check_resampled_size("a", (10, 200, 200), (1, 1, 0.001), SLICES)


def test_sizes_are_those_of_nnunet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampled_sizes, "memory_bytes", lambda: 1)
    for seed in range(20):
        random = np.random.default_rng(seed)
        size, spacing = random.integers(2, 300, 3), random.uniform(1, 9, 3)
        shape = " x ".join(str(count) for count in compute_new_shape(size, spacing, VOLUMES.spacing))
        with pytest.raises(InputError, match=f"would have {shape} voxels"):
            check_resampled_size("a", size.tolist(), spacing.tolist(), VOLUMES)


def test_the_limit_is_the_memory_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = 100 * 100 * 50 * (4 * 1 + 2 * 4)  # of image and logits at the model's spacing
    for enough in (False, True):
        monkeypatch.setattr(resampled_sizes, "memory_bytes", lambda enough=enough: needed - 1 + enough)
        if enough:
            check_resampled_size("a", (10, 10, 10), (10, 10, 10), VOLUMES)
        else:
            with pytest.raises(InputError, match=r"more than the 0 GiB of this machine"):
                check_resampled_size("a", (10, 10, 10), (10, 10, 10), VOLUMES)


@pytest.mark.parametrize("step", [0.001, 1000.0])
def test_a_wrong_header_stops_all_cases_before_memory_is_taken(step: float, tmp_path: Path) -> None:
    path = tmp_path / "a_0000.nii.gz"
    values = np.random.default_rng(0).normal(size=(90, 90, 90)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.diag([step, step, step, 1])), path)
    with pytest.raises(InputError, match=r"a_0000\.nii\.gz .*voxel size in its header.*nothing was predicted"):
        check_cases([[str(path)]], [None], VOLUMES, workers=1)
