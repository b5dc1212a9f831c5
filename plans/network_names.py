"""The networks that `bdfm plan --network` knows, by name. Imports no nnU-Net."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from bdfm_nnunet.presets import PRIMUS_SIZES

_VERSIONS = (1, 2, 3)


def _name_of(size: str, version: int) -> str:
    return f"primus-{size}" if version == 1 else f"primus-v{version}-{size}"


PRIMUS_KINDS = {_name_of(size, version): (size, version) for version, size in product(_VERSIONS, PRIMUS_SIZES)}
"""Name of a Primus -> its size and version."""
IMAGE_NETWORKS = ("swin", "resenc", "plain", "resnet18", *PRIMUS_KINDS)
RUN_NETWORKS = ("neurostorm",)
"""Networks of 4-D runs."""
NETWORKS = (*IMAGE_NETWORKS, *RUN_NETWORKS)


def primus_name(arch_kwargs: Mapping[str, Any]) -> str:
    """Return the name of the Primus with these arguments; "primus" for one of another size.

    Example:
        >>> primus_name({"embed_dim": 864, "eva_depth": 16, "eva_numheads": 12, "version": 3})
        'primus-v3-m'
    """
    sizes = tuple(arch_kwargs.get(key) for key in ("embed_dim", "eva_depth", "eva_numheads"))
    version = arch_kwargs.get("version", 1)
    return next((_name_of(size, version) for size, known in PRIMUS_SIZES.items() if known == sizes), "primus")
