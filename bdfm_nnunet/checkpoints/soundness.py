"""Whether what a file holds can be used as it stands: checked before anything of it is copied or computed with."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WHOLE = (torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64)
_INDEX = re.compile(
    r"(^|[._])(num_batches_tracked|initialised|mask|step|queue\.(owners|count)|\w*_(index|ids|ptr|mask|step))$"
)
"""Names of buffers that count, point at something or say yes or no."""
DEEPEST, MOST_VIEWS = 64, 8


def fault_of_structure(content: Any, size: int) -> str:
    """Return why an unpickled content cannot be worked with; empty where it can.

    A pickle may hold itself, hold one list a billion times over (which is as long to walk through), and hold tensors
    that show more elements than there is memory for.

    Args:
        content: what was unpickled.
        size: bytes of the file, or of what its archive unpacks to.

    Example:
        >>> content = {}
        >>> content["me"] = content
        >>> fault_of_structure(content, 1000)
        'a dict in it holds itself'
    """
    lengths: dict[int, int] = {}
    open_ones: list[tuple[Any, Iterator[Any]]] = [(content, _parts(content))]
    on_the_way = {id(content)}
    storages: dict[int, int] = {}
    while open_ones:
        owner, parts = open_ones[-1]
        part = next(parts, _END)
        if part is _END:
            open_ones.pop()
            on_the_way.discard(id(owner))
            lengths[id(owner)] = 1 + sum(lengths.get(id(each), _length(each)) for each in _parts(owner))
        elif isinstance(part, Tensor):
            if fault := _fault_of_storage(part, storages):
                return fault
        elif isinstance(part, (Mapping, list, tuple, set, frozenset)) and id(part) not in lengths:
            if id(part) in on_the_way:
                return f"a {type(part).__name__} in it holds itself"
            if len(open_ones) > DEEPEST:
                return f"it is nested deeper than {DEEPEST} levels"
            open_ones.append((part, _parts(part)))
            on_the_way.add(id(part))
    if lengths[id(content)] > 64 * size + 1_000_000:
        return "it holds the same list over and over"
    return "its tensors are larger than the file" if sum(storages.values()) > size else ""


_END = object()


def _parts(owner: Any) -> Iterator[Any]:
    if isinstance(owner, Mapping):
        for key, value in owner.items():
            yield key
            yield value
    elif isinstance(owner, (list, tuple, set, frozenset)):
        yield from owner
    elif isinstance(owner, Tensor):
        yield owner  # alone in the file


def _length(part: Any) -> int:
    return 1 + (len(part) if isinstance(part, (str, bytes)) else 0)


def _fault_of_storage(tensor: Tensor, storages: dict[int, int]) -> str:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or tensor.is_nested:
        return ""  # no weight, see `fault_of_weight`
    storage = tensor.untyped_storage()
    storages[storage.data_ptr()] = storage.nbytes()
    if tensor.numel() * tensor.element_size() > storage.nbytes():
        return f"a tensor of shape {tuple(tensor.shape)} shows more elements than it has"
    return ""


def fault_of_weights(weights: Mapping[Any, Tensor]) -> str:
    """Return why named tensors are no weights of a network; empty where they are.

    Weights are real, finite, dense and floating; whole numbers and truth values are only taken for buffers whose names
    say that they count or point at something.

    Example:
        >>> fault_of_weights({"weight": torch.zeros(2), "num_batches_tracked": torch.tensor(3)})
        ''
        >>> fault_of_weights({"weight": torch.tensor([1.0, float("nan")])})
        'weight holds values that are not finite (NaN or infinity)'
    """
    seen: set[tuple[Any, ...]] = set()
    storages: dict[int, int] = {}
    views = 0
    for name, tensor in weights.items():
        if not (isinstance(name, str) and name.isprintable() and len(name) < 1000):
            return f"a tensor has the name {ascii(name)[:60]}, expected a text"
        if fault := _fault_of_kind(name, tensor):
            return fault
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if place in seen:
            continue
        seen.add(place)
        views += tensor.numel() * tensor.element_size()
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        if views > MOST_VIEWS * sum(storages.values()):
            return f"its tensors show the same memory more than {MOST_VIEWS} times over"
        # beyond single precision is infinite too, since that is what networks have
        if not torch.isfinite(tensor.float() if tensor.dtype is torch.float64 else tensor).all():
            return f"{name} holds values that are not finite (NaN or infinity)"
    return ""


def _fault_of_kind(name: str, tensor: Tensor) -> str:
    if tensor.layout is not torch.strided or tensor.is_nested:
        return f"{name} is sparse, expected a dense tensor"
    if tensor.is_quantized:
        return f"{name} is quantised, expected floating numbers"
    if tensor.device.type != "cpu":
        return f"{name} has no values (device {tensor.device.type})"
    if tensor.dtype in FLOATING or (tensor.dtype in _WHOLE and _INDEX.search(name)):
        return ""
    return f"{name} is of type {str(tensor.dtype).removeprefix('torch.')}, expected floating numbers"


def incomplete(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Return what weights lack of a network, have too much, or have in another shape; empty where they are its own.

    Example:
        >>> incomplete({"bias": torch.zeros(2)}, {"bias": torch.zeros(3)})
        'bias has the shape (3,), expected (2,)'
    """
    missing, extra = [key for key in expected if key not in weights], [key for key in weights if key not in expected]
    for keys, what in ((missing, "lacks"), (extra, "also holds")):
        if keys:
            return f"it {what} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
    for key, tensor in expected.items():
        if weights[key].shape != tensor.shape:
            return f"{key} has the shape {tuple(weights[key].shape)}, expected {tuple(tensor.shape)}"
    return ""
