import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from bdfm_nnunet.data.crops import UnlabelledCrops
from bdfm_nnunet.data.plain_cases import as_data, read_properties
from bdfm_nnunet.errors import InputError
from tests.data.conftest import PATCH, SHAPES


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, Any]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("stage", [False, True])
def test_compressed_cases_are_what_nnunet_reads(preprocessed: Path, stage: bool) -> None:
    previous = str(preprocessed) if stage else None
    kind: Any = as_data(nnUNetDatasetBlosc2)
    theirs = nnUNetDatasetBlosc2(str(preprocessed), list(SHAPES), previous).load_case("case_1")
    ours = kind(str(preprocessed), list(SHAPES), previous).load_case("case_1")
    assert (ours[2] is None) == (theirs[2] is None) == (not stage)
    for a, b in zip(ours[: 3 if stage else 2], theirs):
        np.testing.assert_array_equal(a[:, :8], b[:, :8])
    np.testing.assert_array_equal(ours[3]["class_locations"][1], theirs[3]["class_locations"][1])


@pytest.mark.parametrize("unpacked", [False, True])
def test_archives_are_what_nnunet_reads(tmp_path: Path, unpacked: bool) -> None:
    data, seg = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5), np.ones((1, 3, 4, 5), np.int16)
    nnUNetDatasetNumpy.save_case(data, seg, {"class_locations": {}}, str(tmp_path / "a"))
    if unpacked:
        np.save(tmp_path / "a.npy", data)
        np.save(tmp_path / "a_seg.npy", seg)
    kind: Any = as_data(nnUNetDatasetNumpy)
    theirs, ours = nnUNetDatasetNumpy(str(tmp_path)).load_case("a"), kind(str(tmp_path)).load_case("a")
    assert all(np.array_equal(a, b) for a, b in zip(ours[:2], theirs[:2])) and ours[2:] == theirs[2:]


def test_a_bomb_among_the_properties_is_not_run(preprocessed: Path) -> None:
    marker = preprocessed / "was_run"
    for key in SHAPES:
        (preprocessed / f"{key}.pkl").write_bytes(pickle.dumps(_Bomb(marker)))
    kind: Any = as_data(nnUNetDatasetBlosc2)
    dataset = kind(str(preprocessed), list(SHAPES))
    for read in (
        lambda: dataset.load_case("case_0"),
        UnlabelledCrops(dataset, batch_size=1, patch_size=PATCH, oversample_foreground=1).generate_train_batch,
    ):
        with pytest.raises(InputError, match=r"case case_\d in .* cannot be read .*system.*`bdfm plan`"):
            torch.manual_seed(1)
            read()
    assert not marker.exists()


def test_damaged_properties_are_named(preprocessed: Path) -> None:
    """Flipped bits raise whatever the unpickler meets: UnicodeDecodeError, KeyError, AttributeError."""
    path = preprocessed / "case_0.pkl"
    whole = path.read_bytes()
    random = np.random.default_rng(2)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        content[random.integers(min(len(whole), 200))] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        try:
            read_properties(preprocessed, "case_0")
        except InputError as error:
            refused += 1
            assert "case case_0 in" in str(error) and "\n" not in str(error)
    assert refused > 100
    odd = [1, {"class_locations": [1]}, {"class_locations": {1: 5}}, {"class_locations": {1: np.ones(3)}}]
    for content in odd:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(InputError, match="does not hold the properties"):
            read_properties(preprocessed, "case_0")
