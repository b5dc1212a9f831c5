"""Leaving out of a cohort what the rules of a challenge forbid weights to have seen."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bdfm_nnunet.dataset_conversion.cohort_sources import Origin
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import image_hashes
from bdfm_nnunet.source_names import stands_for_any
from bdfm_nnunet.weight_rules import Judgement, WeightRules

Row = dict[str, Any]


def keep_allowed(rows: Sequence[Row], origins: Sequence[Origin], rules: WeightRules) -> tuple[list[Row], list[str]]:
    """Return the rows that rules do not forbid, and sentences on the others.

    An image of an allowed source that is, voxel for voxel, one of a forbidden source is left out, too.

    Args:
        rows: of all sources, see `cohort_rows`.
        origins: the sources.
        rules: of the challenge.

    Raises:
        InputError: everything is forbidden.
    """
    judged = {(origin.folder.name, release): found for origin in origins for release, found in _judged(origin, rules)}
    forbidden = {key for key, found in judged.items() if found.answer == "forbidden"}
    places = [(row["dataset"], row["release"]) for row in rows]
    gone = {digest for row, place in zip(rows, places) if place in forbidden for digest in image_hashes(row).values()}
    kept: list[Row] = []
    doubles: Counter[str] = Counter()
    for row, place in zip(rows, places):
        if place in forbidden:
            continue
        if gone & set(image_hashes(row).values()):
            doubles[row["dataset"]] += 1
        else:
            kept.append(row)
    if not kept:
        raise InputError(
            f"{rules.name} forbids every case of {', '.join(origin.folder.name for origin in origins)}: name other "
            f"sources, or see `bdfm rules {rules.name}`"
        )
    counts = Counter(places)
    notes = [
        f"{counts[dataset, release]} cases of {dataset} left out, which {rules.name} forbids ({release}: {found.why})"
        for (dataset, release), found in judged.items()
        if found.answer == "forbidden" and counts[dataset, release]
    ]
    notes += [
        f"{count} cases of {dataset} left out: images of a forbidden source under another name"
        for dataset, count in doubles.items()
    ]
    notes += [
        f"{dataset} takes part, but {rules.name} does not tell whether it may ({release}: {found.why}), so `bdfm "
        "exposure` will answer unknown"
        for (dataset, release), found in judged.items()
        if found.answer == "unknown" and counts[dataset, release]
    ]
    return kept, notes


def _judged(origin: Origin, rules: WeightRules) -> list[tuple[str, Judgement]]:
    """Return what rules say of each release in a source."""
    found = []
    releases = origin.cases.releases
    for release in dict.fromkeys(row.get("release") or origin.cases.scope for row in origin.cases.rows):
        judgement = rules.judge(release, releases.get(release, {}).get("overlaps", ()))
        if judgement.answer == "unknown" and stands_for_any(release):
            mine = [row for row in origin.cases.rows if (row.get("release") or origin.cases.scope) == release]
            ids = [str(row.get(name) or "") for row in mine for name in ("case", "patient")]
            guesses = [each for _, each in rules.recognise(origin.folder.name, ids)]
            judgement = next((each for each in guesses if each.answer == "forbidden"), judgement)
        found.append((release, judgement))
    return found
