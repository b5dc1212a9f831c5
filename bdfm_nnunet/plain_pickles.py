"""Safe reading of pickles with plain data: numbers, texts, lists, tables and NumPy's values.

Only the code of this file rebuilds objects. NumPy's constructors accept a `dtype` with any flags, which can give access
to foreign memory. Here a dtype is a letter, a size and a byte order, and an array has as many bytes as its shape says.
"""

import io
import math
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_regular

_CODE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16)|[SU]\d{1,9}|[?bBhHiIlLqQefdFD])")
_ORDERS = ("<", ">", "|", "=")
_WIDEST = 1 << 20


class PlainDtype:
    """Replacement of a NumPy dtype while a pickle is read.

    Raises:
        ValueError: it is not a dtype of numbers, truth values or texts.
    """

    def __init__(self, code: Any = "", align: Any = False, copy: Any = False) -> None:
        if not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise ValueError(f"arrays of {code!r} are no plain data")
        self.numpy = np.dtype(code)
        if self.numpy.itemsize > _WIDEST:
            raise ValueError(f"texts of {self.numpy.itemsize} bytes are no plain data")

    def __setstate__(self, state: Any) -> None:
        """Set the byte order; ignore the rest."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in _ORDERS and self.numpy.itemsize > 1:
            self.numpy = self.numpy.newbyteorder(state[1])


class PlainArray(np.ndarray[Any, np.dtype[Any]]):
    """A NumPy array from a pickle; pickled again, it is an ordinary array."""

    def __setstate__(self, state: Any) -> None:
        """Set shape, type and bytes.

        Raises:
            ValueError: they do not agree.
        """
        _, shape, dtype, fortran, raw = state if len(state) == 5 else (1, *state)
        dtype, shape, raw = _numpy(dtype), _shape(shape), _bytes(raw)
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and type {dtype} has {len(raw)} bytes")
        agreed: Any = (1, shape, dtype, bool(fortran), raw)
        super().__setstate__(agreed)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Return what pickles the array as an ordinary one."""
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _numpy(dtype: Any) -> np.dtype[Any]:
    if isinstance(dtype, np.dtype) and not dtype.hasobject and dtype.fields is None:
        return dtype  # written by this process
    if not isinstance(dtype, PlainDtype):
        raise ValueError(f"an array has the type {type(dtype).__name__}")
    return dtype.numpy


def _shape(shape: Any) -> tuple[int, ...]:
    if not (isinstance(shape, tuple) and all(type(size) is int and 0 <= size < 1 << 48 for size in shape)):
        raise ValueError("the shape of an array is no list of sizes")
    return shape


def _bytes(raw: Any) -> bytes:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(raw, (bytes, bytearray)):
        raise ValueError(f"the values of an array are a {type(raw).__name__}")
    return bytes(raw)


def _array(kind: Any = None, shape: Any = (0,), code: Any = b"b") -> PlainArray:
    """Replace `numpy.core.multiarray._reconstruct`."""
    return np.zeros(0, np.int8).view(PlainArray)


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PlainArray:
    """Replace `numpy.core.numeric._frombuffer`."""
    array = _array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """Replace `numpy.core.multiarray.scalar`."""
    kind, raw = _numpy(dtype), _bytes(raw)
    if len(raw) != kind.itemsize:
        raise ValueError(f"a number of type {kind} has {len(raw)} bytes")
    return np.frombuffer(raw, kind)[0] if raw else kind.type()


def _latin_1(text: Any, encoding: Any = "latin1") -> bytes:
    """Replace `_codecs.encode`, by which old pickles store bytes."""
    return str(text).encode("latin-1")


class PlainKind:
    """Replacement of the class `numpy.ndarray` where a pickle only names it."""


NUMPY: dict[str, Any] = {
    "numpy.dtype": PlainDtype,
    "numpy.ndarray": PlainKind,
    **{
        f"numpy.{core}.{name}": replacement
        for core in ("core", "_core")  # NumPy 1 and 2
        for name, replacement in (
            ("multiarray.scalar", _scalar),
            ("multiarray._reconstruct", _array),
            ("numeric._frombuffer", _array_of_buffer),
        )
    },
    "bdfm_nnunet.plain_pickles.PlainArray": PlainArray,
}
"""Full name in a pickle -> its replacement."""
_BUILTINS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _latin_1,
    **{f"builtins.{kind.__name__}": kind for kind in (set, frozenset, complex, bytes, bytearray)},
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.")
        try:
            return _BUILTINS.get(full) or NUMPY[full]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {full!r}, which is no plain data") from None

    def persistent_load(self, number: Any) -> Any:
        raise pickle.UnpicklingError("it refers to something outside")


def read_plain_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle file of plain data; nothing that it names is imported or run.

    Raises:
        InputError: the file is missing, not a regular file or damaged, or holds other objects.

    Example:
        >>> _ = Path("case_1.pkl").write_bytes(pickle.dumps({"spacing": np.float64(1.5)}))
        >>> float(read_plain_pickle("case_1.pkl")["spacing"])
        1.5
    """
    content = read_regular(path)
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{Path(path)} is no table of plain data ({reason}): restore it or make it anew") from None
