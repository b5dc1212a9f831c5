"""The `.json` beside a BIDS table (participants.json beside participants.tsv): units and levels of its columns."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bdfm_nnunet.files import read_json
from bdfm_nnunet.targets.cell_values import known_unit
from bdfm_nnunet.targets.column_requests import ClassSpelling, ColumnRequest
from bdfm_nnunet.targets.target_types import TargetType


def read_sidecar(path: str | os.PathLike[str]) -> dict[str, Mapping[str, Any]]:
    """Return column to what the `.json` beside a `.tsv` says of it; nothing if there is none.

    Raises:
        InputError: it cannot be read.
    """
    beside = Path(path).with_suffix(".json")
    if Path(path).suffix.lower() != ".tsv" or not os.path.lexists(beside):
        return {}
    content = read_json(beside, dict)
    return {name: entry for name, entry in content.items() if isinstance(entry, Mapping)}


def with_sidecar(
    request: ColumnRequest, sidecar: Mapping[str, Mapping[str, Any]], kind: TargetType | None
) -> ColumnRequest:
    """Return a request with unit and order of classes as a sidecar tells, where the request does not say.

    Args:
        request: for one column.
        sidecar: as `read_sidecar` returns.
        kind: type that the cells suggest.
    """
    entry = sidecar.get(request.source or request.name, {})
    levels = list(entry.get("Levels") or {}) if isinstance(entry.get("Levels"), Mapping) else []
    unit = entry.get("Units")
    kind = request.type or (TargetType.BINARY if len(levels) == 2 else kind)
    if levels and kind is TargetType.CONTINUOUS:
        kind = request.type or TargetType.MULTICLASS
    classes = tuple(ClassSpelling(str(level), (str(level),)) for level in levels)
    fits = kind is not None and kind.has_classes and len(classes) >= 2
    return replace(
        request,
        type=kind,
        classes=request.classes or (classes if fits and kind is not TargetType.BINARY else ()),
        unit=request.unit or (known_unit(unit) if isinstance(unit, str) and kind is TargetType.CONTINUOUS else ""),
    )
