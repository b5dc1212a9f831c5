"""`bdfm convert fmri-... --legacy`: runs as the public code prepares them, through conversion and back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion.run_settings import RunSettings
from bdfm_nnunet.dataset_conversion.writing.case_record import REFUSED
from bdfm_nnunet.dataset_conversion.writing.published_preparation import published_affine, published_preparation
from bdfm_nnunet.errors import InputError
from tests.dataset_conversion.writing.test_run_conversion import Folder

SHAPE, ZOOM, TR = (9, 8, 52), 4.0, 1.6
AFFINE = np.array([[-ZOOM, 0, 0, 30], [0, ZOOM, 0, -20], [0, 0, ZOOM, -60], [0, 0, 0, 1]])
DEFAULTS: dict[str, Any] = {"spacing": 2.0, "time_step": 0.8, "size": 96, "min_frames": 4, "legacy": True}


@pytest.fixture
def folder(tmp_path: Path, raw: Path) -> Folder:
    return Folder(tmp_path / "download")


def _values(frames: int = 21) -> np.ndarray:
    values = np.random.default_rng(0).integers(-50, 900, (*SHAPE, frames)).astype(np.int16)
    values[:2] = 0
    return values


@pytest.mark.parametrize("masked", [True, False])
def test_what_comes_back_is_the_published_preparation(masked: bool, folder: Folder) -> None:
    values, mask = _values(), np.zeros(SHAPE, bool)
    mask[2:8, 1:7, 10:40] = True
    folder.write(values, affine=AFFINE, tr=TR)
    if masked:
        folder.mask(mask, affine=AFFINE)
    record = folder.convert(template=False, **DEFAULTS)
    assert record.reason == "" and any("prepared as published" in note for note in record.notes)
    clip, brain, header = folder.stored()
    expected, scale = published_preparation(values.astype(np.float32), (ZOOM,) * 3, TR, mask if masked else None)
    np.testing.assert_array_equal(np.rint(clip / scale).astype(int), expected)
    assert header.shape == (18, 16, 96, 42) and (header.store, header.scale) == ("int8", pytest.approx(scale))
    assert header.spacing == (2.0,) * 3 and header.repetition_time == 0.8 and 0 < header.largest_error <= scale
    np.testing.assert_allclose(clip[~brain], header.background, atol=1e-6)
    assert brain.any() and not brain.all() and header.brain_voxels == brain.sum()


def test_stored_voxels_lie_where_those_of_the_file_do(folder: Folder) -> None:
    """A bright voxel of the file, in mm, is where the stored frames are brightest."""
    values = np.full((*SHAPE, 6), 100, np.int16) + np.arange(6, dtype=np.int16)
    place = (5, 3, 30)
    values[place] = 900
    folder.write(values, affine=AFFINE, tr=TR)
    folder.convert(template=False, **DEFAULTS)
    clip, _, header = folder.stored()
    brightest = np.argwhere(clip.mean(3) == clip.mean(3).max()).mean(0)
    np.testing.assert_allclose((np.array(header.affine) @ [*brightest, 1])[:3], (AFFINE @ [*place, 1])[:3], atol=1e-4)
    np.testing.assert_allclose(published_affine(np.eye(4), (96,), (2.0,))[0], [1, 0, 0, 0])


def test_frames_are_dropped_by_the_option_alone(folder: Folder) -> None:
    values = _values()
    folder.write(values, affine=AFFINE, tr=TR)
    folder.convert(template=False, **DEFAULTS, drop=19)
    expected, scale = published_preparation(values[..., 19:].astype(np.float32), (ZOOM,) * 3, TR)
    clip, _, header = folder.stored()
    assert header.frames_dropped == 19
    np.testing.assert_array_equal(np.rint(clip / scale).astype(int), expected)


@pytest.mark.parametrize("value", [0, 7])
def test_runs_without_contrast_are_refused(value: int, folder: Folder) -> None:
    folder.write(np.full((*SHAPE, 6), value, np.int16), affine=AFFINE, tr=TR)
    record = folder.convert(template=False, **DEFAULTS)
    assert record.status == REFUSED and "no brain whose values differ" in record.reason
    assert not list((folder.raw / "Dataset700_FMRI").rglob("*.b2nd"))


@pytest.mark.parametrize(
    ("option", "value"), [("spacing", 3.0), ("time_step", 2.0), ("size", 0), ("grid", "own"), ("store", "int16")]
)
def test_settings_that_the_published_code_does_not_have_are_refused(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} cannot go with --legacy"):
        RunSettings(legacy=True, **{option: value})
