"""Rules of challenges on pre-trained weights, applied to what a checkpoint has seen.

As the organisers' pages had them in April and May 2026; ask the organisers before you submit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.exposure import Exposure

Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Verdict:
    """Whether a challenge allows weights, as far as their record tells.

    Attributes:
        challenge: its name and track.
        rule: what it allows, a sentence without its full stop.
        allowed: "unknown" where the record of the training data has gaps.
        why: the reason, a sentence without its full stop.
    """

    challenge: str
    rule: str
    allowed: Answer
    why: str


@dataclass(frozen=True)
class _Rule:
    challenge: str
    sentence: str
    good: Callable[[str, frozenset[str]], bool]


def _no_brats(name: str, overlaps: frozenset[str]) -> bool:
    return not any(each.startswith("brats") for each in (name, *overlaps))


def _is_goat(name: str, _: frozenset[str]) -> bool:
    return name.startswith("brats") and name.endswith("-goat")


def _is_fomo300k(name: str, _: frozenset[str]) -> bool:
    return name.startswith("fomo300k")


RULES = (
    _Rule("BraTS 2026", "public weights that saw no BraTS data, and no data of another sub-challenge", _no_brats),
    _Rule("BraTS 2026 GoAT", "nothing but its own data", _is_goat),
    _Rule("FOMO26 methods track", "pre-training on FOMO300K alone", _is_fomo300k),
    _Rule("FOMO26 open track", "any weights", lambda *_: True),
)
"""The rules that are known."""


def verdicts(exposure: Exposure) -> list[Verdict]:
    """Return what each challenge says of weights that have seen this.

    Example:
        >>> run = {"dataset": "Dataset501_A", "releases": {"upenn-gbm": {"overlaps": ["brats2021"]}}, "train": {}}
        >>> [(each.challenge, each.allowed) for each in verdicts(Exposure((run,)))][0]
        ('BraTS 2026', 'no')
    """
    seen = {name: frozenset(overlaps) for name, overlaps in exposure.releases.items()}
    gaps = gaps_of(exposure, of_cases=False)
    return [_verdict(rule, seen, gaps) for rule in RULES]


def _verdict(rule: _Rule, seen: dict[str, frozenset[str]], gaps: list[str]) -> Verdict:
    against = [name for name, overlaps in sorted(seen.items()) if not rule.good(name, overlaps)]
    if against:
        why = ", ".join(_named(name, seen[name]) for name in against)
        return Verdict(rule.challenge, rule.sentence, "no", f"seen in training: {why}")
    if gaps and not rule.good("", frozenset(["brats"])):
        return Verdict(rule.challenge, rule.sentence, "unknown", gaps[0])
    return Verdict(rule.challenge, rule.sentence, "yes", f"seen in training: {', '.join(sorted(seen)) or 'nothing'}")


def _named(name: str, overlaps: frozenset[str]) -> str:
    shared = sorted(each for each in overlaps if each.startswith("brats"))
    return name if name.startswith("brats") or not shared else f"{name}, which shares scans with {shared[0]}"


def gaps_of(exposure: Exposure, *, of_cases: bool = True) -> list[str]:
    """Return what is not known of the training data; sentences without full stops.

    Args:
        exposure: of the weights.
        of_cases: whether gaps count that concern single cases of known releases.

    Example:
        >>> gaps_of(Exposure(({"dataset": "Dataset501_Ward7", "releases": {}},)))
        ['Dataset501_Ward7 names no release']
    """
    found = [exposure.note] if exposure.note else []
    if not exposure.runs and not found:
        found.append("nothing is recorded")
    for run in exposure.runs:
        known = bool(run.get("releases") or run.get("whole"))
        found += [run["ancestors"]] if run.get("ancestors") else []
        found += [run["note"]] if run.get("note") and (of_cases or not known) else []
        found += [f"{name} may have been seen: {why}" for name, why in run.get("perhaps", {}).items()]
        if not known:
            found.append(f"{run.get('dataset', 'a data set')} names no release")
    return list(dict.fromkeys(found))
