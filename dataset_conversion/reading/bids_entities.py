"""Which mask belongs to which image in BIDS: the one whose entities the mask's name holds."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

_ENTITY = re.compile(r"(?:^|_)([a-z]+)-([A-Za-z0-9+]+)")
_INDICES = {"run", "echo", "inv", "split", "flip", "chunk"}
"""Entities whose values are numbers: run-1 is run-01."""


def entities_of(name: str) -> frozenset[tuple[str, str]]:
    """Return the entities of a file's name or path, or of a case id.

    >>> sorted(entities_of("anat/sub-01_run-02_T1w"))
    [('run', '2'), ('sub', '01')]
    """
    pairs = _ENTITY.findall(name.rpartition("/")[2])
    return frozenset((key, value.lstrip("0") or "0" if key in _INDICES else value) for key, value in pairs)


def match_masks(masks: Iterable[str], cases: Iterable[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Find the case of every mask: the one whose entities are all among the mask's.

    Where these are several, it is the one that has all entities of the others: `sub-01_run-1` before `sub-01`.

    Args:
        masks: paths.
        cases: ids, which begin with the subject: `sub-01_ses-1_acq-mprage`.

    Returns:
        Mask to case; masks that fit no image or several of their session; masks of sessions without any image.
    """
    known: dict[str, dict[str, frozenset[tuple[str, str]]]] = defaultdict(dict)
    for case in cases:
        known[session_of(case)][case] = entities_of(case)
    found: dict[str, str] = {}
    doubtful: list[str] = []
    alone: list[str] = []
    for mask in masks:
        there = known.get(session_of(mask)) or {}
        chosen = _largest(entities_of(mask), there)
        if chosen is not None:
            found[mask] = chosen
        else:
            (doubtful if there else alone).append(mask)
    return found, doubtful, alone


def session_of(name: str) -> str:
    """Return subject and session of a name, as an id of a case.

    >>> session_of("derivatives/sub-01/sub-01_ses-2_run-1_T1w")
    'sub-01_ses-2'
    """
    entities = dict(entities_of(name))
    return "_".join(f"{key}-{entities[key]}" for key in ("sub", "ses") if key in entities)


def _largest(mask: frozenset[tuple[str, str]], cases: Mapping[str, frozenset[tuple[str, str]]]) -> str | None:
    fits: Sequence[str] = [case for case, entities in cases.items() if entities <= mask]
    whole = frozenset().union(*(cases[case] for case in fits))
    return next((case for case in fits if cases[case] == whole), None)
