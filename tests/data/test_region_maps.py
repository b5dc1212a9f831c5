"""Atlases on other grids against a loop over voxels, and blocks that fill a mask."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.data.region_maps import blocks_of, read_atlas
from bdfm_nnunet.errors import InputError

FINE = np.array([[3.0, 0, 0, -20], [0, 3, 0, -26], [0, 0, 3, -14], [0, 0, 0, 1]])
COARSE, SHAPE = np.array([[4.5, 0, 0, -25], [0, 4.5, 0, -24], [0, 0, 4.5, -16], [0, 0, 0, 1]]), (11, 12, 8)


def _labels() -> np.ndarray:
    return np.random.default_rng(4).choice([0, 2, 5, 40], (14, 17, 10)).astype(np.int16)


def _save(path: Path, labels: np.ndarray, affine: np.ndarray = FINE) -> Path:
    nib.save(nib.Nifti1Image(labels, affine), path)
    return path


def _slow(labels: np.ndarray) -> np.ndarray:
    """The label of the nearest voxel in mm; of two at one distance that towards right, anterior, superior."""
    found = np.zeros(SHAPE, dtype=int)
    for place in np.ndindex(SHAPE):
        index = (np.linalg.inv(FINE) @ COARSE @ (*place, 1))[:3]
        nearest = np.floor(index + 0.5 + 1e-9).astype(int)
        if (nearest >= 0).all() and (nearest < labels.shape).all():
            found[place] = labels[tuple(nearest)]
    return found


def test_regions_are_those_of_the_nearest_voxel_in_any_orientation(tmp_path: Path) -> None:
    labels = _labels()
    atlas = read_atlas(_save(tmp_path / "a.nii.gz", labels))
    assert atlas.values == (2, 5, 40)
    values = np.array([0, *atlas.values])
    found = values[atlas.on(COARSE, SHAPE)]
    np.testing.assert_array_equal(found, _slow(labels))
    assert set(np.unique(found)) == {0, 2, 5, 40} and (found[0] == 0).all()  # the first plane lies outside
    turned = nib.as_closest_canonical(nib.load(tmp_path / "a.nii.gz")).as_reoriented([[1, -1], [0, 1], [2, -1]])
    nib.save(turned, tmp_path / "turned.nii.gz")
    np.testing.assert_array_equal(values[read_atlas(tmp_path / "turned.nii.gz").on(COARSE, SHAPE)], found)


def test_an_oblique_grid(tmp_path: Path) -> None:
    labels, angle = _labels(), 0.3
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    straight = read_atlas(_save(tmp_path / "a.nii", labels)).on(COARSE, SHAPE)
    turned = read_atlas(_save(tmp_path / "b.nii", labels, turn @ FINE)).on(turn @ COARSE, SHAPE)
    assert (straight == turned).mean() > 0.99  # but where two voxels are equally near
    assert (straight == read_atlas(tmp_path / "b.nii").on(COARSE, SHAPE)).mean() < 0.8


@pytest.mark.parametrize(
    ("labels", "fault"),
    [
        (np.ones((4, 4, 4), np.int16), "has 1 label values from 1 to 1, expected 0 around 2 to 2000"),
        (np.arange(-1, 63, dtype=np.int16).reshape(4, 4, 4), "from -1 to 62"),
        (np.full((4, 4, 4), 0.5, np.float32), "whole-number"),
        (np.ones((4, 4, 4, 3), np.int16), "one 3-D volume of numbers was"),
    ],
)
def test_bad_atlases_are_one_sentence(tmp_path: Path, labels: np.ndarray, fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        read_atlas(_save(tmp_path / "a.nii.gz", labels))
    with pytest.raises(InputError, match=r"none\.nii"):
        read_atlas(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_blocks_have_equal_sizes_and_hold_together(count: int) -> None:
    mask = np.linalg.norm(np.indices((16, 20, 12)) - np.array([7.5, 9.5, 5.5]).reshape(3, 1, 1, 1), axis=0) < 8
    regions = blocks_of(mask, count)
    sizes = np.bincount(regions[mask], minlength=count + 1)
    assert sizes[0] == 0 and (regions[~mask] == 0).all() and len(sizes) == count + 1
    assert np.ptp(sizes[1:]) <= np.log2(count) + 1
    boxes = [np.ptp(np.argwhere(regions == number), axis=0) + 1 for number in range(1, count + 1)]
    assert max(np.prod(box) for box in boxes) < 3.5 * mask.sum() / count + 30
    np.testing.assert_array_equal(regions, blocks_of(mask, count))


def test_more_blocks_than_voxels_are_refused() -> None:
    with pytest.raises(InputError, match="8 voxels has no 9 blocks"):
        blocks_of(np.ones((2, 2, 2), dtype=bool), 9)
