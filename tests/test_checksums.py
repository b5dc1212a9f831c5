import os
import pickle
import zlib
from pathlib import Path

import pytest

from bdfm_nnunet import checksums
from bdfm_nnunet.checksums import Checksums, checksums_path, size_and_crc, write_checksums
from bdfm_nnunet.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of preprocessed data and the labels that they were made from."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in (("a.b2nd", b"images" * 300_000), ("a.pkl", b"properties")):
        (folder / name).write_bytes(content)
    for case in ("a", "b"):
        (tmp_path / f"{case}.nii").write_bytes(case.encode() * 50)
    write_checksums(folder, _labels(tmp_path), workers=2)
    return folder


def _labels(root: Path) -> dict[str, Path]:
    return {case: root / f"{case}.nii" for case in ("a", "b")}


def _of(folder: Path) -> Checksums:
    found = Checksums.of(folder)
    assert found is not None
    return found


def test_size_and_crc(folder: Path) -> None:
    assert size_and_crc(folder / "a.b2nd") == (1_800_000, zlib.crc32(b"images" * 300_000))


@pytest.mark.parametrize("damage", ["flip", "cut", "longer"])
def test_damage_is_found(folder: Path, damage: str) -> None:
    path = folder / "a.b2nd"
    found, content = _of(folder), bytearray(path.read_bytes())
    assert found.sizes_fit()
    content[1_234_567] ^= 1
    path.write_bytes(
        {"flip": bytes(content), "cut": path.read_bytes()[:-1], "longer": path.read_bytes() + b"x"}[damage]
    )
    found.verify("a.pkl")
    with pytest.raises(
        InputError, match=r"a\.b2nd is not as it was preprocessed .*`bdfm plan`, or delete .*data_checks"
    ):
        found.verify("a.b2nd")
    assert found.sizes_fit() is (damage == "flip")


def test_a_file_is_read_once_by_whichever_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = _of(folder)
    if (child := os.fork()) == 0:
        found.verify("a.b2nd")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    read: list[Path] = []

    def counting(path: Path) -> tuple[int, int]:
        read.append(path)
        return size_and_crc(path)

    monkeypatch.setattr(checksums, "size_and_crc", counting)
    for _ in range(2):
        for name in ("a.b2nd", "a.pkl", "unknown.pkl"):
            found.verify(name)
    assert read == [folder / "a.pkl"]
    pickle.loads(pickle.dumps(found)).verify("a.b2nd")  # where processes are not forked
    assert read == [folder / "a.pkl", folder / "a.b2nd"]


def test_labels_that_were_replaced(folder: Path, tmp_path: Path) -> None:
    found, labels = _of(folder), _labels(tmp_path)
    assert not list(found.replaced_labels(labels))
    os.utime(labels["a"], ns=(0, 0))  # copied without its time
    assert not list(found.replaced_labels(labels))
    labels["b"].write_bytes(b"c" * 50)
    assert list(found.replaced_labels(labels)) == ["b"]
    assert not list(found.replaced_labels({"b": tmp_path / "gone.nii"}))


@pytest.mark.parametrize("content", ["[]", '{"files": {"a.pkl": [1]}, "labels": {}}', '{"files": {}}', "{"])
def test_a_damaged_file_of_checksums(folder: Path, content: str) -> None:
    checksums_path(folder).write_text(content)
    with pytest.raises(InputError, match=r"data_checksums\.json"):
        Checksums.of(folder)


def test_data_without_checksums(tmp_path: Path) -> None:
    assert Checksums.of(tmp_path / "data") is None
