"""Preprocessed runs under the names that nnU-Net's trainers use, and damage that is found when a run is first read."""

import inspect
import pickle
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.checksums import checksums_path, write_checksums
from bdfm_nnunet.data.sequence_dataset import SequenceDataset
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import SequenceHeader, write_frames, write_header, write_mask

SHAPE = (6, 5, 4, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "sequences"
    folder.mkdir()
    rng = np.random.default_rng(0)
    header = SequenceHeader(
        shape=SHAPE, spacing=(2.0, 2.0, 2.0), repetition_time=0.8, affine=np.eye(4).tolist(), brain_box=[[0, 4]] * 3,
        brain_voxels=1, mask="given", background=-1.0, mean=0.0, std=1.0, source_repetition_time=0.8, source_frames=7,
    )  # fmt: skip
    for case in ("b", "a"):
        write_frames(folder / f"{case}.b2nd", [rng.normal(size=SHAPE)], SHAPE, np.float16)
        write_mask(folder / f"{case}_mask.b2nd", rng.random(SHAPE[:3]) < 0.5)
        write_header(folder / f"{case}.json", header)
    write_checksums(folder, {}, workers=1)
    return folder


def test_it_speaks_as_data_sets_of_nnunet_do(folder: Path) -> None:
    assert SequenceDataset.get_identifiers(str(folder)) == ["a", "b"]
    found = SequenceDataset(str(folder), identifiers=None, folder_with_segs_from_previous_stage=None)
    assert found.identifiers == ["a", "b"] and found.source_folder == str(folder)
    assert SequenceDataset(str(folder), ["b"]).identifiers == ["b"]
    SequenceDataset.unpack_dataset(str(folder), overwrite_existing=False, num_processes=1, verify=True)
    with pytest.raises(InputError, match="has no run c"):
        SequenceDataset(str(folder), ["c"])
    with pytest.raises(InputError, match="has no folder"):
        SequenceDataset(str(folder.parent))


def test_its_constructor_is_called_as_nnunet_calls_it() -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

    names = list(inspect.signature(nnUNetBaseDataset.__init__).parameters)
    assert list(inspect.signature(SequenceDataset.__init__).parameters) == names


def test_it_reads_what_the_runs_hold(folder: Path) -> None:
    found = pickle.loads(pickle.dumps(SequenceDataset(str(folder))))
    clip, box = found.clip("a", 2, 3), [[1, 3], [0, 5], [2, 4]]
    np.testing.assert_array_equal(clip, found.cases.clip("a", 2, 3))
    np.testing.assert_array_equal(found.clip("a", 2, 3, box), clip[1:3, :, 2:])
    assert found.header("b").shape == SHAPE and found.mask("b", box).shape == (2, 5, 2)
    assert not np.array_equal(clip, found.clip("b", 2, 3))


@pytest.mark.parametrize(("ending", "touches"), [(".b2nd", "clip"), ("_mask.b2nd", "mask"), (".json", "header")])
def test_damage_is_found_when_a_run_is_first_read(ending: str, touches: str, folder: Path) -> None:
    path = folder / f"a{ending}"
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    read = {
        "clip": lambda data: data.clip("a", 0, 2),
        "mask": lambda data: data.mask("a"),
        "header": lambda data: data.header("a"),
    }[touches]
    with pytest.raises(InputError, match=rf"a{ending} is not as it was preprocessed .*bdfm plan"):
        read(SequenceDataset(str(folder)))
    SequenceDataset(str(folder)).clip("b", 0, 2)
    checksums_path(folder).unlink()
    data = SequenceDataset(str(folder))
    try:
        read(data)
    except InputError as error:
        assert "is not as it was preprocessed" not in str(error)
