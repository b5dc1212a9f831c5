from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.inputs.case_features import CANONICAL, features_of
from bdfm_nnunet.inputs.coarse_images import AIR, CONSTANT, NOWHERE, SIDE, background_of, coarse, otsu, turned, turns
from tests.inputs.heads import head, save


def test_background_of_brains_heads_and_crops() -> None:
    brain, whole = head(1)["t1"], head(1, skull=True)["t1"]
    assert background_of(brain) == CONSTANT and background_of(whole) == AIR
    assert background_of(brain[10:20, 12:24, 9:17]) == NOWHERE


def test_otsu_parts_two_humps() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(1, 0.2, 500), rng.normal(5, 0.2, 500)]).astype(np.float32)
    assert 1.5 < otsu(values) < 4.5


def test_ranks_know_neither_scale_nor_field_of_view() -> None:
    image = head(2)["t1"]
    wide = np.pad(image, ((3, 5), (0, 4), (6, 1)))
    here, there = (coarse([each], CONSTANT) for each in (image, 7 * wide))
    assert here.ranks.shape == (1, SIDE, SIDE, SIDE) and here.ranks.max() == 1 and here.ranks.min() == 0
    assert np.abs(here.ranks - there.ranks).max() < 1e-5


def test_the_48_turns_differ_and_the_first_changes_nothing() -> None:
    cube = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    found = [turned(cube, turn) for turn in turns()]
    assert np.array_equal(found[0], cube) and len({each.tobytes() for each in found}) == 48
    assert np.array_equal(turned(cube, ((1, 0, 2), (2,))), cube.transpose(0, 2, 1, 3)[..., ::-1])


@pytest.mark.parametrize("canonical", [False, True])
def test_a_reader_that_reorients_sees_one_orientation(canonical: bool, tmp_path: Path) -> None:
    image = head(3)["t1"]
    save(tmp_path, "a", [image], affine=np.diag([1.0, 1, 2, 1]))
    other = np.array([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(image.transpose(1, 0, 2)[:, ::-1], other), tmp_path / "b_0000.nii.gz")
    one, two = (
        features_of([read_volume(tmp_path / f"{name}_0000.nii.gz", name)], background=CONSTANT, canonical=canonical)
        for name in "ab"
    )
    assert np.allclose(one.ranks, two.ranks) == canonical
    assert ({one.orientation, two.orientation} == {CANONICAL}) == canonical
    if canonical:
        assert np.allclose(one.geometry, two.geometry)
