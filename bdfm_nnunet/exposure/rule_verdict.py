"""The answer of a challenge's rules to weights, from the record of all trainings behind them."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.exposure.exposure_record import Exposure
from bdfm_nnunet.source_names import stands_for_any
from bdfm_nnunet.weight_rules import Answer, Judgement, WeightRules, known_rules


@dataclass(frozen=True)
class JudgedSource:
    """One source of the training data.

    Attributes:
        source: name of the release or cohort.
        seen: data sets of the trainings that it was in.
        answer: what the rules say of it.
        why: the reason, without a full stop.

    Example:
        >>> JudgedSource("ixi", "Dataset900_Cohort", "allowed", "not among the sources that these rules forbid").answer
        'allowed'
    """

    source: str
    seen: str
    answer: Answer
    why: str


@dataclass(frozen=True)
class Verdict:
    """Whether a challenge allows weights, as far as their record tells.

    Attributes:
        rules: of the challenge.
        answer: "forbidden" where one source is; else "unknown" where anything is not known; else "allowed".
        sources: of all trainings behind the weights.
        gaps: what is not known of the training data; sentences without full stops.

    Example:
        >>> from bdfm_nnunet.exposure import PUBLIC_BDFM
        >>> from bdfm_nnunet.weight_rules import find_rules
        >>> found = verdict(Exposure((PUBLIC_BDFM,)), find_rules("brats2026-met"))
        >>> found.answer, found.of("forbidden")[0].source
        ('forbidden', 'brats2023-gli')
    """

    rules: WeightRules
    answer: Answer
    sources: tuple[JudgedSource, ...]
    gaps: tuple[str, ...]

    def of(self, answer: Answer) -> list[JudgedSource]:
        """Return the sources with an answer."""
        return [each for each in self.sources if each.answer == answer]

    @property
    def why(self) -> str:
        """The reason in a line."""
        if self.answer == "unknown":
            return "; ".join([*self.gaps, *(f"{each.source}: {each.why}" for each in self.of("unknown"))])
        return "; ".join(f"{each.source}: {each.why}" for each in self.of(self.answer))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "name": self.rules.name,
            "title": self.rules.title,
            "rule": self.rules.rule,
            "source": dict(self.rules.source),
            "answer": self.answer,
            "why": self.why,
            "sources": [vars(each).copy() for each in self.sources],
            "gaps": list(self.gaps),
        }

    def summary(self, checkpoint: str) -> str:
        """Return lines for a terminal."""
        lines = [f"{checkpoint} under {self.rules.name}: {self.answer}"]
        for answer in ("forbidden", "unknown", "allowed"):
            lines += [f"  {answer}: {each.source}, in {each.seen} ({each.why})" for each in self.of(answer)]
        lines += [f"  not known: {gap}" for gap in self.gaps]
        lines += [f"  rule: {self.rules.rule}", f"  {self.rules.told_source}"]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.rules.notes)])


def verdict(exposure: Exposure, rules: WeightRules) -> Verdict:
    """Hold what weights have seen, in all trainings behind them, against rules.

    Example:
        >>> from bdfm_nnunet.weight_rules import find_rules
        >>> verdict(Exposure(note="a.pth says nothing"), find_rules("fomo26-open")).answer
        'unknown'
    """
    judged = tuple(_judged(exposure, rules))
    perhaps = {name for run in exposure.runs for name in run.get("perhaps", {})}
    harmless = {name for name in perhaps if rules.judge(name).answer == "allowed"}
    gaps = tuple(gaps_of(exposure, of_cases=False, harmless=harmless))
    answers = {each.answer for each in judged}
    unsure = gaps or "unknown" in answers or not judged
    answer: Answer = "forbidden" if "forbidden" in answers else "unknown" if unsure else "allowed"
    return Verdict(rules, answer, judged, gaps)


def verdicts(exposure: Exposure) -> list[Verdict]:
    """Return what each of the rules that are known says of weights that have seen this.

    Example:
        >>> run = {"dataset": "Dataset501_A", "releases": {"upenn-gbm": {"overlaps": ["brats2021"]}}, "train": {}}
        >>> [(each.rules.name, each.answer) for each in verdicts(Exposure((run,)))][0]
        ('brats2026-met', 'forbidden')
    """
    return [verdict(exposure, rules) for rules in known_rules().values()]


def _judged(exposure: Exposure, rules: WeightRules) -> Iterator[JudgedSource]:
    """Yield each source once, with the data sets that it was in."""
    seen: dict[str, dict[str, None]] = {}
    found: dict[str, Judgement] = {}
    for run in exposure.runs:
        for source, judgement in _sources_of(run, exposure, rules):
            seen.setdefault(source, {})[run.get("dataset", "a data set")] = None
            found.setdefault(source, judgement)
    for source, judgement in found.items():
        yield JudgedSource(source, ", ".join(seen[source]), judgement.answer, judgement.why)


def _sources_of(run: Mapping[str, Any], exposure: Exposure, rules: WeightRules) -> Iterator[tuple[str, Judgement]]:
    overlaps = exposure.releases
    columns = [run[part] for part in ("train", "val") if part in run]
    of_cases = {name for part in columns for name in part.get("release", ()) if name not in ("", run.get("dataset"))}
    named = dict.fromkeys([*run.get("releases", {}), *run.get("whole", {}), *sorted(of_cases)])
    for source in named:
        yield source, rules.judge(source, overlaps.get(source, ()))
    if not named or any(map(stands_for_any, named)):
        ids = [
            each.rpartition(":")[2] for part in columns for name in ("case", "patient") for each in part.get(name, ())
        ]
        yield from rules.recognise(run.get("dataset", ""), ids, set(named))


# ---------------------------------------------------------------------------------------------------------- the gaps


def gaps_of(exposure: Exposure, *, of_cases: bool = True, harmless: Collection[str] = ()) -> list[str]:
    """Return what is not known of the training data; sentences without full stops.

    Args:
        exposure: of the weights.
        of_cases: whether gaps count that concern single cases of known releases.
        harmless: sources that may have been seen without being a gap.

    Example:
        >>> gaps_of(Exposure(({"dataset": "Dataset501_Ward7", "releases": {}},)))
        ['Dataset501_Ward7 names no release']
    """
    found = [exposure.note] if exposure.note else []
    if not exposure.runs and not found:
        found.append("nothing is recorded")
    for number, run in enumerate(exposure.runs):
        known = bool(run.get("releases") or run.get("whole"))
        named = run.get("dataset", "a data set")
        found += [run["ancestors"]] if run.get("ancestors") else []
        if number == 0 and not run.get("ancestors") and (start := run.get("weights", {}).get("name")):
            found.append(f"the training on {named} started from {start}, of which nothing is recorded")
        found += [run["note"]] if run.get("note") and (of_cases or not known) else []
        found += [f"{name} may have been seen: {why}" for name, why in run.get("perhaps", {}).items()
                  if name not in harmless]  # fmt: skip
        if not known:
            found.append(f"{named} names no release")
    return list(dict.fromkeys(found))
