import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.synthesis.head_maps import find_maps, read_map
from tests.synthesis.tiny_heads import LABELS, tiny_head, tiny_labels


def test_maps_are_read_alike_whatever_their_orientation_and_type(tiny_maps: Path) -> None:
    found = find_maps(tiny_maps)
    assert list(found) == ["head_a", "head_b", "head_c"]
    for seed, path in enumerate(found.values()):
        head = read_map(path)
        assert head.labels == LABELS
        assert np.array_equal(np.array(head.labels)[head.codes], tiny_labels(seed)), path
        assert head.spacing == (1.0, 1.0, 1.0)
        assert np.allclose(head.affine[:3, :3], np.eye(3))


def test_the_box_lies_where_the_head_lies() -> None:
    head = tiny_head()
    inside = head.codes == LABELS.index(2)
    box = head.box(inside, 2.0)
    place = np.argwhere(inside)[7]
    inner = np.argwhere(box.codes == LABELS.index(2))[7]
    assert np.allclose(box.affine[:3, :3] @ inner + box.affine[:3, 3], place)
    assert min(np.argwhere(box.codes == LABELS.index(2)).min(axis=0)) == 2


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.zeros((5, 5, 5), np.uint8), "holds 1 labels"),
        (np.full((5, 5, 5), -3, np.int16), "from -3 to 0"),
        (np.arange(512, dtype=np.int16).reshape(8, 8, 8), "holds 512 labels"),
        (np.full((5, 5, 5), 0.5, np.float32), "whole-number labels were expected"),
        (np.zeros((5, 5, 5, 2), np.uint8), "4"),
    ],
)
def test_what_is_no_label_map_is_refused_by_name(values: np.ndarray, what: str, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "map.nii.gz")
    with pytest.raises(InputError, match=what) as error:
        read_map(tmp_path / "map.nii.gz")
    assert "map.nii.gz" in str(error.value)


def test_folders_without_maps_or_with_two_of_a_name_are_refused(tiny_maps: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        find_maps(tmp_path / "none")
    with pytest.raises(InputError, match="no label map"):
        find_maps(tmp_path)
    shutil.copy(tiny_maps / "head_c.nii", tmp_path / "head_c.nii")
    shutil.copy(tiny_maps / "head_a.nii.gz", tmp_path / "head_c.nii.gz")
    with pytest.raises(InputError, match="same name"):
        find_maps(tmp_path)
