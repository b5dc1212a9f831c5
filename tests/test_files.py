import errno
import hashlib
import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from bdfm_nnunet import files
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import (
    new_folder,
    read_json,
    read_regular,
    sha256_of,
    sweep,
    unfinished,
    write_atomically,
    write_json,
)


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


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    for fails in (True, False):
        with pytest.raises(RuntimeError) if fails else nullcontext(), new_folder(tmp_path / "in" / "out") as temporary:
            (temporary / "a.txt").write_text("half")
            assert not (tmp_path / "in" / "out").exists()
            if fails:
                raise RuntimeError("interrupted")
        assert [path.name for path in (tmp_path / "in").rglob("*")] == ([] if fails else ["out", "a.txt"])
    with pytest.raises(InputError, match="exists already"), new_folder(tmp_path / "in" / "out"):
        pass
    assert (tmp_path / "in" / "out" / "a.txt").read_text() == "half"


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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_what_to_do_afterwards_is_said(tmp_path: Path, number: int) -> None:
    with (
        pytest.raises(InputError, match=r"and continue with --c$"),
        write_atomically(tmp_path / "a.txt", again="continue with --c"),
    ):
        raise OSError(number, "as the system says")


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


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"\xff\xfe{}", b"", b'{"a": 1', b"[]", b"5", b"null", b"{}"],
    ids=["deep", "digits", "no UTF-8", "empty", "half", "list", "number", "null", "no entries"],
)
def test_json_of_any_other_kind_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json is not .*: restore it"):
        read_json(path, {"labels": {str: int}})


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json", {"a": int}) == {"a": 1}


def test_nan_becomes_null_so_that_every_reader_takes_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [float("nan"), (float("inf"), 1.5)], "b": {"c": -float("inf")}})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "a": [None, [None, 1.5]],
        "b": {"c": None},
    }


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    for name, expected in {"pipe": "named pipe", "zero": "device", "gone": "datalad get", ".": "a folder"}.items():
        for read in (read_regular, sha256_of, read_json):
            with pytest.raises(InputError, match=expected):
                read(tmp_path / name)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 1 << 40)
    with pytest.raises(InputError, match="more than this machine has memory"):
        read_regular(tmp_path / "large")


def _pid_of_a_process_that_is_gone() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


def test_sweep_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    gone = _pid_of_a_process_that_is_gone()
    mine = unfinished(tmp_path / "checkpoint.pth").name
    left = {f".{gone}.partial.checkpoint.pth", f".{gone}.link.checkpoint.pth"}
    left.add(mine.replace(str(os.getpid()), str(gone)))
    foreign = f".{gone}.0123456789.partial.a"
    old = f".{gone}.0123456788.partial.a"
    kept = {mine, f".{os.getpid()}.partial.checkpoint.pth", "checkpoint.pth", f"x.{gone}.partial.a", foreign}
    for name in left | kept | {old}:
        (tmp_path / name).write_text("")
    os.utime(tmp_path / old, (time.time() - 2 * 86400,) * 2)
    folder = tmp_path / f".{gone}.partial.folder"
    (folder / "inside").mkdir(parents=True)
    assert set(sweep(tmp_path)) == left | {folder.name, old}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_two_writers_with_one_process_number_do_not_meet(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a") as first, write_atomically(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("limit", ["1073741824\n", "max\n"])
def test_the_limit_of_a_container_counts(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = files.memory_bytes()
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(files, "_LIMITS_OF_CONTAINERS", (tmp_path / "memory.max", tmp_path / "gone"))
    files.memory_bytes.cache_clear()
    try:
        assert files.memory_bytes() == (min(machine, 2**30) if limit.startswith("1") else machine)
    finally:
        files.memory_bytes.cache_clear()
