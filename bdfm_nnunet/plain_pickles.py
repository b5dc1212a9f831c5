"""Pickles that hold plain data: numbers, texts, lists, tables and NumPy's values, rebuilt by nothing but this file.

NumPy's own constructors take a `dtype` with any flags, which is a way to memory that is not theirs. Here a dtype is a
letter, a size and a byte order, and an array has as many bytes as its shape says.
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
import numpy.typing as npt

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_regular

_CODE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16)|[SU]\d{1,9}|[?bBhHiIlLqQefdFD])")
_ORDERS = ("<", ">", "|", "=")
_WIDEST = 1 << 20


class PlainDtype:
    """Stands for a NumPy dtype while a pickle is read.

    Raises:
        ValueError: it is none of numbers, truth values or texts.
    """

    def __init__(self, code: Any = "", align: Any = False, copy: Any = False) -> None:
        if not (isinstance(code, str) and _CODE.fullmatch(code)):
            raise ValueError(f"arrays of {code!r} are no plain data")
        self.numpy = np.dtype(code)
        if self.numpy.itemsize > _WIDEST:
            raise ValueError(f"texts of {self.numpy.itemsize} bytes are no plain data")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order alone."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in _ORDERS and self.numpy.itemsize > 1:
            self.numpy = self.numpy.newbyteorder(state[1])


class PlainArray(npt.NDArray[Any]):
    """A NumPy array from a pickle; written again, it is an ordinary one."""

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and bytes, which must agree.

        Raises:
            ValueError: they do not.
        """
        _, shape, dtype, fortran, raw = state if len(state) == 5 else (1, *state)
        dtype, shape, raw = _numpy(dtype), _shape(shape), _bytes(raw)
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"an array of shape {shape} and type {dtype} has {len(raw)} bytes")
        agreed: Any = (1, shape, dtype, bool(fortran), raw)
        super().__setstate__(agreed)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """See `pickle`."""
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
    """Stands for `numpy.core.multiarray._reconstruct`."""
    return np.zeros(0, np.int8).view(PlainArray)


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> PlainArray:
    """Stands for `numpy.core.numeric._frombuffer`."""
    array = _array()
    array.__setstate__((1, shape, dtype, order == "F", buffer))
    return array


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """Stands for `numpy.core.multiarray.scalar`."""
    kind, raw = _numpy(dtype), _bytes(raw)
    if len(raw) != kind.itemsize:
        raise ValueError(f"a number of type {kind} has {len(raw)} bytes")
    return np.frombuffer(raw, kind)[0] if raw else kind.type()


def _latin_1(text: Any, encoding: Any = "latin1") -> bytes:
    """Stands for `_codecs.encode`, with which old pickles keep bytes."""
    return str(text).encode("latin-1")


class PlainKind:
    """Stands for the class `numpy.ndarray` where a pickle only names it."""


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
"""Full name in a pickle to what stands for it."""
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
    """Return the content of a pickle file that holds plain data; nothing that it names is located or run.

    Raises:
        InputError: it is missing, no regular file, damaged, or holds other objects.
    """
    content = read_regular(path)
    try:
        return _PlainUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # damaged bytes make the unpickler fail in any way
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{Path(path)} is no table of plain data ({reason}): restore it or make it anew") from None
