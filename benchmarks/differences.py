"""What differs between two folders of results: values, not bytes; times, places and versions are left out."""

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

LEFT_OUT = re.compile(
    r"(^|_)(time|times|timestamps?|seconds|date|created|made|version|versions|path|paths|folder|host|pid|commit|machine)"
    r"($|_)|^weights_sha256$|^(python|torch|numpy|nnunetv2|bdfm_nnunet)$",
    re.IGNORECASE,
)
"""Names of entries in which two runs of the same code differ."""

KINDS: dict[str, tuple[str, ...]] = {
    "manifests": ("nnUNet_raw/**/*.json", "nnUNet_raw/**/*.tsv", "nnUNet_raw/**/*.csv"),
    "images and labels": ("nnUNet_raw/**/*.nii.gz",),
    "plans": ("nnUNet_preprocessed/*/*.json",),
    "preprocessed cases": ("nnUNet_preprocessed/**/*.b2nd", "nnUNet_preprocessed/**/*.npy"),
    "checkpoints": ("nnUNet_results/**/checkpoint_*.pth",),
    "segmentations": ("predictions/*.nii.gz", "nnUNet_results/**/validation/*.nii.gz"),
    "scores": ("scores/*.json", "nnUNet_results/**/*.json"),
}
"""Kind of result to where it lies."""

RECORDS = ("debug.json", "bdfm_preparation.json", "_checksums.json")
"""Ends of names of files that hold no results: attributes of a trainer, bytes and times of other files."""

Change = tuple[str, str]
"""Where, and what differs there."""


def differences(first: Path, second: Path) -> dict[str, tuple[int, list[Change]]]:
    """Return for each kind how many files there are and what differs.

    Args:
        first: results of one commit.
        second: those of the other.
    """
    return {kind: _of_kind((first, second), patterns) for kind, patterns in KINDS.items()}


def _of_kind(roots: tuple[Path, Path], patterns: tuple[str, ...]) -> tuple[int, list[Change]]:
    found = [{name for pattern in patterns for name in _names(root, pattern)} for root in roots]
    changes = [(name, "is only in the first") for name in sorted(found[0] - found[1])]
    changes += [(name, "is only in the second") for name in sorted(found[1] - found[0])]
    for name in sorted(found[0] & found[1]):
        values = [_content(root / name, root) for root in roots]
        changes += [(f"{name}: {place}", what) for place, what in changed(values[0], values[1])]
    return len(found[0] | found[1]), changes


def _names(root: Path, pattern: str) -> Iterator[str]:
    for path in root.glob(pattern):
        if path.is_file() and not path.name.endswith(RECORDS):
            yield str(path.relative_to(root))


def changed(first: Any, second: Any, place: str = "") -> Iterator[Change]:
    """Yield where two values differ, entry by entry; tensors to the bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        for name in [*first, *(key for key in second if key not in first)]:
            if LEFT_OUT.search(str(name)) and not isinstance(first.get(name), torch.Tensor):
                continue
            where = f"{place}.{name}" if place else str(name)
            if name not in first or name not in second:
                yield where, f"is only in the {'second' if name not in first else 'first'}"
            else:
                yield from changed(first[name], second[name], where)
    elif isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        if len(first) != len(second):
            yield place, f"has {len(first)} entries, then {len(second)}"
        for number, (one, other) in enumerate(zip(first, second)):
            yield from changed(one, other, f"{place}[{number}]")
    elif isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        if first.shape != second.shape or first.dtype != second.dtype:
            yield place, f"{tuple(first.shape)} {first.dtype}, then {tuple(second.shape)} {second.dtype}"
        elif not torch.equal(torch.nan_to_num(first, nan=7e7), torch.nan_to_num(second, nan=7e7)):
            yield place, f"differs by up to {float((first.double() - second.double()).abs().max()):.3g}"
    elif first != second and not (first != first and second != second):  # NaN is unlike itself
        yield place, f"{first!r:.60}, then {second!r:.60}"


def _content(path: Path, root: Path) -> Any:
    """Return the values of a file; where the results lie is no value."""
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    return _READERS.get(suffix, _read_text)(path, root)


def _read_text(path: Path, root: Path) -> Any:
    return path.read_text(encoding="utf-8").replace(str(root), "").splitlines()


def _read_json(path: Path, root: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8").replace(str(root), ""))


def _read_digest(path: Path, root: Path, opened: Callable[[Path], Any] = gzip.open) -> str:
    with opened(path) as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _read_blosc2(path: Path, root: Path) -> torch.Tensor:
    import blosc2

    return torch.from_numpy(blosc2.open(str(path), mode="r")[:])


def _read_checkpoint(path: Path, root: Path) -> Any:
    """Weights, state of the optimiser, curves and cases seen; the arguments are in the plans."""
    content = torch.load(path, map_location="cpu", weights_only=False)  # written a moment ago by this script
    content.pop("init_args", None)
    for run in (content.get("bdfm_exposure") or {}).get("runs", []):
        run.get("weights", {}).pop("sha256", None)  # of a file with times in it
    return content


_READERS: dict[str, Callable[[Path, Path], Any]] = {
    ".json": _read_json,
    ".nii.gz": _read_digest,
    ".b2nd": _read_blosc2,
    ".npy": partial(_read_digest, opened=partial(open, mode="rb")),
    ".pth": _read_checkpoint,
}
