import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plain_pickles import read_plain_pickle

CONTENT: dict[str, Any] = {
    "spacing": (1.0, np.float64(0.5), np.float32(2)),
    "count": np.int64(3),
    "yes": np.bool_(True),
    "word": np.str_("ab"),
    "nothing": np.str_(""),
    "class_locations": {1: np.arange(12).reshape(3, 4), (1, 2): np.zeros((0, 4), np.int64)},
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">i4"),
    "every second": np.arange(12).reshape(3, 4)[:, ::2],
    "texts": np.array(["a", "bcd"]),
    "single": np.array(3.0),
    "more": [None, {1, 2}, OrderedDict(a=1), b"bytes", bytearray(b"more"), 1 + 2j, 2**70, "é"],
}


def _saved(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "case.pkl"
    path.write_bytes(content)
    return path


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    return bool(type(a) is type(b) and a == b)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("numpy", [b"numpy.core.", b"numpy._core."])
def test_plain_data_of_every_protocol_and_both_numpys(tmp_path: Path, protocol: int, numpy: bytes) -> None:
    written = pickle.dumps(CONTENT, protocol)
    if protocol < 4:  # later ones count the letters
        written = written.replace(b"numpy._core.", numpy).replace(b"numpy.core.", numpy)
    content = read_plain_pickle(_saved(tmp_path, written))
    assert _same(CONTENT, content)
    content["class_locations"][1][0, 0] = 7  # not a view of read-only bytes


def test_names_of_the_other_numpy_in_protocol_4(tmp_path: Path) -> None:
    """NumPy 1 writes `numpy.core`, one letter less: the length byte in front says 21 or 22."""
    written = pickle.dumps({"a": np.arange(3), "b": np.float64(1.5)}, 4)
    here, there = b"numpy._core.multiarray", b"numpy.core.multiarray"
    if here not in written:
        here, there = there, here
    body = written[:2] + written[11:]  # without the frame, whose length would have to change too
    swapped = body.replace(bytes([len(here)]) + here, bytes([len(there)]) + there)
    assert swapped != body
    content = read_plain_pickle(_saved(tmp_path, swapped))
    assert content["b"] == 1.5 and content["a"].tolist() == [0, 1, 2]


def test_what_was_read_is_written_as_ordinary_arrays(tmp_path: Path) -> None:
    content = read_plain_pickle(_saved(tmp_path, pickle.dumps(CONTENT)))
    again = pickle.dumps(content)
    assert b"bdfm_nnunet" not in again
    assert type(pickle.loads(again)["fortran"]) is np.ndarray


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = function, arguments

    def __reduce__(self) -> tuple[Any, Any]:
        return self.reduced


def test_nothing_is_run_or_located(tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w')")
    bombs: list[bytes] = [
        pickle.dumps(_Runs(os.system, f"touch {marker}")),
        pickle.dumps({"a": [_Runs(open, str(marker), "w")]}),
        pickle.dumps(_Runs(eval, "1")),
        pickle.dumps(_Runs(np.load, "x")),
        b"cnumpy\nload\n(S'x'\ntR.",
        b"ctrap\nnothing\n.",
        b"\x80\x04P0\n.",
        pickle.dumps(np.array([_Runs(os.system, f"touch {marker}")], dtype=object)),
        pickle.dumps(np.zeros(2, dtype=[("a", "f4"), ("b", "O")])),
    ]
    for bomb in bombs:
        path = _saved(tmp_path, bomb)
        with pytest.raises(InputError) as caught:
            read_plain_pickle(path)
        assert (
            str(path) in str(caught.value)
            and str(caught.value).endswith("make it anew")
            and "\n" not in str(caught.value)
        )
    assert not marker.exists()


def test_a_dtype_cannot_claim_to_hold_objects(tmp_path: Path) -> None:
    """NumPy takes the flags of a dtype as they are: numbers would be followed as pointers."""
    dtype = b"cnumpy\ndtype\n(S'f8'\nI00\nI01\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt" + dtype
    path = _saved(tmp_path, array + b"I00\n(S'a'\nltb.")
    with pytest.raises(InputError):
        read_plain_pickle(path)
    path = _saved(tmp_path, array + b"I00\nS'abcdefgh'\ntb.")
    assert read_plain_pickle(path).shape == (1,)


@pytest.mark.parametrize("claim", [b"(I9\nt", b"(I-1\nt", b"(I4611686018427387904\nt", b"S'x'\n"])
def test_an_array_has_as_many_bytes_as_its_shape_says(tmp_path: Path, claim: bytes) -> None:
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
    path = _saved(tmp_path, array + claim + b"cnumpy\ndtype\n(S'u1'\ntRI00\nS'ab'\ntb.")
    with pytest.raises(InputError):
        read_plain_pickle(path)


def test_any_damage_is_a_sentence(tmp_path: Path) -> None:
    """Flipped bytes make an unpickler fail in any way: UnicodeDecodeError, KeyError, AttributeError ..."""
    random = np.random.default_rng(5)
    whole = pickle.dumps(CONTENT)
    refused = 0
    for number in range(400):
        content = bytearray(whole[: random.integers(len(whole))] if number % 4 == 0 else whole)
        if content:
            content[random.integers(len(content))] ^= 1 << int(random.integers(8))
        try:
            read_plain_pickle(_saved(tmp_path, bytes(content)))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(InputError):
            read_plain_pickle(tmp_path / name)
