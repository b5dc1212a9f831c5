"""Stored runs: what is written is read, whatever its size, and damage is one sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.images.sequence_files import (
    SequenceHeader,
    read_header,
    read_part,
    write_frames,
    write_header,
    write_mask,
)

HEADER = SequenceHeader(
    shape=(9, 8, 7, 11), spacing=(2.0, 2.0, 2.0), repetition_time=0.8, affine=np.diag([2.0, 2, 2, 1]).tolist(),
    brain_box=[[1, 8], [2, 7], [0, 7]], brain_voxels=90, mask="given", background=-1.5, mean=9.0, std=2.0,
    source_repetition_time=2.0, source_frames=5, source={"bold": "a/b.nii.gz"}, task="rest",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.int16, np.int8])
@pytest.mark.parametrize("shape", [(9, 8, 7, 11), (40, 17, 33, 4), (5, 5, 5, 3)])
def test_blocks_of_frames_are_read_back(shape: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(-100, 100, shape).astype(dtype)
    blocks = (frames[..., start : start + 8] for start in range(0, shape[3], 8))
    write_frames(tmp_path / "a.b2nd", blocks, shape, dtype)
    part = (slice(1, 4), slice(0, 5), slice(2, 3), slice(1, 3))
    found = read_part(tmp_path / "a.b2nd", part, shape)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, frames[part])


def test_a_mask_is_read_back(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).random((40, 9, 33)) > 0.5
    write_mask(tmp_path / "a_mask.b2nd", mask)
    found = read_part(tmp_path / "a_mask.b2nd", (slice(0, 40), slice(3, 9), slice(30, 33)), mask.shape)
    np.testing.assert_array_equal(found, mask[:, 3:9, 30:33])


def test_a_header_is_read_back(tmp_path: Path) -> None:
    for header in (HEADER, replace(HEADER, displacement=0.25, store="int8", scale=0.1)):
        write_header(tmp_path / "a.json", header)
        assert read_header(tmp_path / "a.json") == header


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"store": "float64"}, {"shape": [3, 4, 5]}, {"scale": "x"}, {"mean": None}]
)
def test_a_header_of_another_form_is_a_sentence(change: dict[str, object], tmp_path: Path) -> None:
    write_header(tmp_path / "a.json", HEADER)
    write_json(tmp_path / "a.json", read_json(tmp_path / "a.json") | change)
    with pytest.raises(InputError, match=r"a\.json is no(t| header)"):
        read_header(tmp_path / "a.json")


@pytest.mark.parametrize("damage", ["missing", "cut", "no array", "another shape"])
def test_damage_is_a_sentence(damage: str, tmp_path: Path) -> None:
    path, shape = tmp_path / "a.b2nd", (20, 20, 20, 8)
    write_frames(path, [np.random.default_rng(0).normal(size=shape)], shape, np.float16)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5000])
    elif damage == "no array":
        path.write_bytes(b"no array at all" * 100)
    with pytest.raises(InputError, match=r"a\.b2nd .*convert the run again"):
        read_part(path, (slice(0, 20),) * 3 + (slice(0, 8),), (20, 20, 20, 8 + (damage == "another shape")))
