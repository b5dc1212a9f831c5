"""Names that become paths."""

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.safe_names import LONGEST, check_name, fault_of_name

GOOD = ["BraTS-GLI-00000-000", "case 1", "=HYPERLINK(x)", "--help", "Müller_0001", "脳", "a.b", "x" * LONGEST]
BAD = ["", " ", " a", ".", "..", ".hidden", "../x", "a/b", "a\\b", "C:x", "a\0b", "a\nb", "\x1b[2J", "\udcff",
       "é" * 101, 5, None, ["a"]]  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_name_of_any_language_is_taken(name: str) -> None:
    assert check_name(name, "case id of manifest.json") == name


@pytest.mark.parametrize("name", BAD)
def test_what_leaves_its_folder_or_cannot_be_written_is_refused(name: object) -> None:
    assert fault_of_name(name)
    with pytest.raises(InputError, match=r"^case id of manifest\.json .* is no usable name \(.*\): ") as caught:
        check_name(name, "case id of manifest.json")
    assert len(str(caught.value)) < 300
