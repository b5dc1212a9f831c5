from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy

from bdfm_nnunet.checksums import write_checksums
from bdfm_nnunet.data.checked_cases import CheckedCases, checked
from bdfm_nnunet.data.crops import UnlabelledCrops
from bdfm_nnunet.data.plain_cases import PlainNumpyCases
from bdfm_nnunet.errors import InputError
from tests.data.conftest import PATCH, SHAPES, volume

ENDINGS = [".b2nd", "_seg.b2nd", ".pkl"]


def _flip(path: Path) -> None:
    """One bit in the middle, where the compressor may well not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture
def folder(preprocessed: Path, tmp_path: Path) -> Path:
    """Cases in a folder of their own with their checksums beside it."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in tmp_path.iterdir():
        if path.is_file():
            path.rename(folder / path.name)
    write_checksums(folder, {}, workers=1)
    return folder


def test_sound_cases_are_what_nnunet_reads(folder: Path) -> None:
    assert checked(nnUNetDatasetBlosc2) is CheckedCases and checked(nnUNetDatasetNumpy) is PlainNumpyCases
    cases = CheckedCases(str(folder))
    images, labels, _, properties = cases.load_case("case_1")
    np.testing.assert_array_equal(images[...], volume("case_1"))
    assert labels[...].sum() == 1000 and list(properties["class_locations"]) == [1]
    cases.check_last()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_flipped_bit_is_named_by_whoever_opens_it(folder: Path, ending: str) -> None:
    for key in SHAPES:
        _flip(folder / f"{key}{ending}")
    with pytest.raises(InputError, match=rf"case_0{ending} is not as it was preprocessed"):
        CheckedCases(str(folder)).load_case("case_0")
    source = UnlabelledCrops(CheckedCases(str(folder)), batch_size=1, patch_size=PATCH, oversample_foreground=1)
    if ending == "_seg.b2nd":
        source.generate_train_batch()  # pre-training does not read labels
    else:
        with pytest.raises(InputError, match=rf"case_.{ending} is not as it was preprocessed"):
            source.generate_train_batch()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x05", b"\x80\x04\x8c\x02\xff\xfe.", b"\x80\x04K\x01.", b"cnowhere\nx\n."]
)
@pytest.mark.parametrize("kind", [CheckedCases, nnUNetDatasetBlosc2])
def test_damaged_properties_name_their_case(preprocessed: Path, content: bytes, kind: Any) -> None:
    """Data that another program has preprocessed has no checksums."""
    for path in preprocessed.glob("*.pkl"):
        path.write_bytes(content)
    source = UnlabelledCrops(kind(str(preprocessed)), batch_size=1, patch_size=PATCH, oversample_foreground=1)
    with pytest.raises(InputError, match=r"case case_. in .* cannot be read .*`bdfm plan`"):
        source.generate_train_batch()


def test_damaged_arrays_without_checksums(preprocessed: Path) -> None:
    cases = CheckedCases(str(preprocessed))
    cases.load_case("case_0")
    path = preprocessed / "case_0.b2nd"
    content = bytearray(path.read_bytes())
    content[2000:-2000] = bytes(len(content) - 4000)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"case case_0 in .* cannot be read"):
        cases.check_last()
