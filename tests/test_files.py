import errno
import hashlib
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, sha256_of, write_atomically, write_json


def test_file_appears_whole_and_keeps_its_suffixes(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "image.nii.gz"
    with write_atomically(target) as temporary:
        assert temporary.name.endswith(".nii.gz") and not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), write_atomically(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("interrupted")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EISDIR, "name a file"),
        (errno.EACCES, "permission"),
        (errno.EROFS, "can be written"),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_with_a_remedy(tmp_path: Path, number: int, remedy: str) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(InputError, match=remedy) as caught, write_atomically(target) as temporary:
        temporary.write_text("half")
        raise OSError(number, "refused")
    assert str(target) in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="in the place of that file"):
        write_json(tmp_path / "taken" / "a.json", {})


def test_json_round_trip_and_bad_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, 2]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2]}
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "b.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_json(tmp_path / "b.json")


def test_digest(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
