"""Gzip by ISA-L gives what the standard library gives, good or bad."""

import gzip
import random
from pathlib import Path

import pytest

from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.gzip_files import pack, read_bytes, unpack

PLAIN = bytes(random.Random(0).choices(b"\0\0\0\1\2\3", k=30_000))
PACKED = gzip.compress(PLAIN, mtime=0)


def _standard(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, gzip.zlib.error):
        return None


def _ours(content: bytes) -> bytes | None:
    try:
        return unpack(content, "a.nii.gz")
    except Refusal as refusal:
        assert str(refusal).startswith("a.nii.gz is ")
        return None


@pytest.mark.parametrize(
    "content",
    [PACKED, gzip.compress(PLAIN, 1, mtime=0), PACKED + PACKED, PACKED + bytes(7), gzip.compress(b"", mtime=0),
     PACKED + gzip.compress(b"", mtime=0), PACKED[:-1], PACKED[:-9], PACKED[:500], PACKED[:5], PACKED[:1],
     PACKED[:-8] + bytes(8), PACKED[:-4] + bytes(4), PACKED[:-4] + b"\xff" * 4, PACKED + b"junk", b"junk", PLAIN,
     PACKED[:2] + b"\x09" + PACKED[3:]],
)  # fmt: skip
def test_as_the_standard_library(content: bytes) -> None:
    assert _ours(content) == _standard(content)


def test_random_damage() -> None:
    dice = random.Random(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(PACKED)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        expected = _standard(bytes(damaged))
        assert _ours(bytes(damaged)) == expected
        refused += expected is None
    assert refused > 250  # a flip in the header's time stamp or name does no harm


def test_packed_content_comes_back_and_is_the_same_every_time() -> None:
    assert gzip.decompress(pack(PLAIN)) == PLAIN
    assert pack(PLAIN) == pack(PLAIN)
    assert len(pack(PLAIN)) < len(PLAIN) / 2


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (b"/annex/objects/MD5E-s1888--e5efe2fa.nii.gz\n", "datalad get"),
        (b"../../.git/annex/objects/4a/4b/MD5E-s1--0.nii.gz/MD5E-s1--0.nii.gz", "datalad get"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    ],
)
def test_a_pointer_in_the_place_of_a_file_says_how_to_fetch_it(content: bytes, command: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(Refusal, match=f"sub-01/a is a pointer of .* not there: fetch it with `{command}`"):
        read_bytes(tmp_path / "a.nii.gz", "sub-01/a")
