"""Names of parameters in a file, and how a table turns them into our names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bdfm_nnunet.errors import InputError

Table = tuple[tuple[str, str | None], ...]
"""Rows of a regular expression and its replacement, applied in turn; None for a tensor that is dropped on purpose."""

ALIASES: Table = ((r"^decoder\.encoder\.", None), (r"\.all_modules\.\d+\.", None))
"""Second names in dynamic-network-architectures: of the encoder inside the decoder, and of the layers of a block."""

# put in front of names by DDP and torch.compile
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Renamed:
    """Tensors under our names.

    Attributes:
        weights: parameters and buffers.
        dropped: names in the file that were left out on purpose, and why.
        optional: our names of parts that a network may lack without loss, and why.

    Example:
        >>> Renamed({}, {"index": "derived from other entries"}).dropped["index"]
        'derived from other entries'
    """

    weights: dict[str, Tensor]
    dropped: dict[str, str] = field(default_factory=dict)
    optional: dict[str, str] = field(default_factory=dict, repr=False)


def without_wrappers(name: str) -> str:
    """Return a name without the prefixes of DDP and torch.compile.

    >>> without_wrappers("module._orig_mod.encoder.weight")
    'encoder.weight'
    """
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod.", ".")


def rename(weights: Mapping[str, Tensor], table: Table) -> Renamed:
    r"""Rename tensors by a table.

    In a replacement, `\2+1` between dots stands for the second group plus one.

    Raises:
        InputError: two tensors get the same name.

    Example:
        >>> import torch
        >>> weights = {"layers.0.scale": torch.ones(1), "index": torch.ones(1)}
        >>> renamed = rename(weights, ((r"^index$", None), (r"^layers\.(\d+)\.", r"stages.\1+1.")))
        >>> list(renamed.weights), renamed.dropped
        (['stages.1.scale'], {'index': 'derived from other entries'})
    """
    renamed: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    sources: dict[str, str] = {}
    for name, tensor in weights.items():
        new = _new_name(name, table)
        if new is None:
            dropped[name] = "derived from other entries"
            continue
        if new in renamed:
            raise InputError(
                f"the weights {sources[new]} and {name} are both {new} here: give a checkpoint of one network"
            )
        renamed[new], sources[new] = tensor, name
    return Renamed(renamed, dropped)


def _new_name(name: str, table: Table) -> str | None:
    for pattern, replacement in table:
        if not re.search(pattern, name):
            continue
        if replacement is None:
            return None
        name = re.sub(pattern, replacement, name)
    return re.sub(r"\.(\d+)\+1\.", lambda found: f".{int(found[1]) + 1}.", name)
