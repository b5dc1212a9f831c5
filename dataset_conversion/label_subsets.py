"""The parts of a data set for a study: test cases, validation cases and nested label fractions, whole patients each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdfm_nnunet.dataset_conversion.splits import facts_of
from bdfm_nnunet.dataset_conversion.stratification import Strata
from bdfm_nnunet.dataset_conversion.target_strata import TargetStrata
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import CaseList


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Case ids, sorted, of which no patient is on two sides.

    Attributes:
        test: held-out cases, which nothing is trained or chosen on; empty where the test cases are another data set's.
        validation: cases by which settings are chosen.
        train: all other cases.
    """

    test: list[str]
    validation: list[str]
    train: list[str]


@dataclass(frozen=True, kw_only=True)
class Parts(Sides):
    """Case ids of a study, sorted.

    Attributes:
        test: as in `Sides`; where each seed holds out other patients, the cases of all of them.
        validation: as in `Sides`; empty where each seed holds out other patients.
        train: as `validation`.
        subsets: per seed, per fraction the training cases whose labels are used.
        patients: case -> its patient.
        turns: per seed its sides, where each holds out other patients; else empty.
    """

    subsets: list[list[list[str]]]
    patients: dict[str, str]
    turns: list[Sides] = field(default_factory=list)

    def sides(self, seed: int) -> Sides:
        """Return the sides of a seed."""
        return self.turns[seed] if self.turns else self

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Parts":
        """Return what `dataclasses.asdict` made a table of."""
        return cls(**{**content, "turns": [Sides(**turn) for turn in content.get("turns", ())]})


def divide(
    cases: CaseList,
    labels: Mapping[str, Any],
    *,
    hold_out: float,
    validation: float,
    fractions: Sequence[float],
    seeds: int,
    seed: int,
    rotate: bool = False,
    by_target: TargetStrata | None = None,
) -> Parts:
    """Deal patients out to test, validation and training, and draw label fractions of the training cases.

    Parts and subsets are stratified as those of `make_splits`. The cases of a smaller fraction are among those of every
    larger one of the same seed; the subsets of a seed do not depend on how many seeds there are.

    Args:
        cases: of the data set.
        labels: as in dataset.json.
        hold_out: share of all patients that are test cases, from 0 to below 1.
        validation: share of the others that are validation cases, from 0 to below 1.
        fractions: of the training cases, above 0 and up to 1.
        seeds: number of seeds.
        seed: of the order in which patients are dealt out.
        rotate: whether each seed holds out the next share of the patients, and begins anew after the last one. With as
            many parts as patients, that is leave one out.
        by_target: strata of the targets that are learnt. Cases of which none is known are in no part, and every
            fraction has a patient of each class.

    Raises:
        InputError: there are too few patients.

    Example:
        >>> cases = CaseList("D", "D", [{"case": f"case_{i}", "part": "train"} for i in range(10)])
        >>> parts = divide(cases, {}, hold_out=0.2, validation=0.25, fractions=[0.5], seeds=1, seed=0)
        >>> len(parts.test), len(parts.validation), len(parts.train), len(parts.subsets[0][0])
        (2, 2, 6, 3)
    """
    facts = (by_target or TargetStrata()).kept(facts_of(cases, labels, sites={}))
    strata = Strata(facts)
    needed = 1 + bool(validation) + bool(hold_out)
    if len(strata.names) < needed:
        raise InputError(f"{cases.name} has {len(strata.names)} patients, a study needs at least {needed}: add some")
    members: dict[str, list[str]] = {name: [] for name in strata.names}
    for fact in facts:
        members[fact.group].append(fact.case)

    def named(chosen: Sequence[int]) -> list[str]:
        return sorted(case for group in chosen for case in members[strata.names[group]])

    everyone = list(range(len(strata.names)))
    dealt = [_dealt(strata, everyone, hold_out, f"{seed} test")]
    if rotate:
        dealt = _rotated(strata, hold_out, seeds, seed)
    turns, trains = [], []
    for number, (test, rest) in enumerate(dealt):
        name = f"{seed} validation {number}" if rotate else f"{seed} validation"
        held, train = _dealt(strata, rest, validation, name)
        turns.append(Sides(test=named(test), validation=named(held), train=named(train)))
        trains.append(train)
    subsets = [[named(part) for part in _subsets(strata, trains[number * rotate], fractions, f"{seed} {number}")]
               for number in range(seeds)]  # fmt: skip
    patients = {fact.case: fact.group for fact in facts}
    all_of_it = Sides(test=named(everyone), validation=[], train=[]) if rotate else turns[0]
    return Parts(**vars(all_of_it), subsets=subsets, patients=patients, turns=turns if rotate else [])


def _rotated(strata: Strata, share: float, seeds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return the groups that each seed holds out, and the rest."""
    count = max(2, round(1 / share))
    parts = strata.deal(range(len(strata.names)), (1 / count,) * count, seed=f"{seed} test")
    if not all(parts):
        raise InputError(
            f"{len(strata.names)} patients cannot be held out in {count} parts: hold out {100 / len(strata.names):g} "
            "percent or more"
        )
    held_out = [parts[number % count] for number in range(seeds)]
    return [(held, [group for part in parts if part is not held for group in part]) for held in held_out]


def _dealt(strata: Strata, chosen: Sequence[int], share: float, seed: str) -> tuple[list[int], list[int]]:
    """Return a share of some groups, at least one unless it is 0, and the rest, at least one."""
    if not share:
        return [], list(chosen)
    first, rest = strata.deal(chosen, (share, 1 - share), seed=seed)
    if not first:
        first, rest = rest[:1], rest[1:]
    return (first, rest) if rest else (first[:-1], first[-1:])


def _subsets(strata: Strata, train: Sequence[int], fractions: Sequence[float], seed: str) -> list[list[int]]:
    whole, kept = strata.cases(train), list(train)
    found: dict[float, list[int]] = {}
    for fraction in sorted(set(fractions), reverse=True):
        if fraction < 1:
            kept = strata.subset(kept, min(1.0, fraction * whole / strata.cases(kept)), seed=f"{seed} {fraction!r}")
        found[fraction] = kept
    return [found[fraction] for fraction in fractions]
