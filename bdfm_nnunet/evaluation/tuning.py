"""Searches rules for small components on cross-validation predictions, for a named version of the metric.

From the innermost region outwards, each region may get a rule for its total and one for its components. The threshold
and what small parts become are those with the best mean score, all other rules held; rounds are repeated until nothing
improves. The objective is the version's primary measure (a Dice), averaged over regions and cases.

The same scores choose the rules and praise them, which flatters. So the whole search is repeated with a part of the
patients held out, and the rules found without them are measured on them: that is the gain to believe.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.evaluation.folder_scores import score_case, without_ignored
from bdfm_nnunet.evaluation.metric_versions import METRICS, choose
from bdfm_nnunet.evaluation.pairing import (
    check_all_known,
    check_all_predicted,
    check_same_grid,
    pair_cases,
    read_segmentation,
)
from bdfm_nnunet.evaluation.postprocessing import Rule, RuleSet, apply
from bdfm_nnunet.evaluation.score_summary import summarise_change
from bdfm_nnunet.worker_pools import worker_pool

THRESHOLDS_MM3 = (5.0, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000)
SMALLEST_GAIN = 1e-6
"""A rule that improves the mean by no more is left out."""
MOST_ROUNDS = 3
_OBJECTIVES = {"panoptic-2026": "pq_dsc"}
"""Score to improve, where the version's first would not notice false lesions."""
Rules = tuple[Rule, ...]
Scores = NDArray[np.float64]


def tune(
    reference: Path | str,
    prediction: Path | str,
    *,
    regions: Mapping[str, Sequence[int]],
    release: str,
    metrics: str,
    ignore: int | None = None,
    task: str | None = None,
    out: Path | str | None = None,
    patient_of: Callable[[str], str] = str,
    thresholds: Sequence[float] = THRESHOLDS_MM3,
    folds: int = 5,
    workers: int = 0,
    seed: int = 0,
    progress: bool | None = None,
) -> RuleSet:
    """Finds the rules that improve a metric version most, and what they gain on cases that did not choose them.

    Args:
        reference: folder of reference label maps.
        prediction: folder of cross-validation predictions of the same cases.
        regions: region to its label values.
        release: name of the release or data set; chooses the task's rules in lesion-wise versions.
        metrics: version of the metric.
        ignore: label value of reference voxels that count for nothing.
        task: takes the rules of this task instead of the release's.
        out: the rules file to write.
        patient_of: patient of a case id; all cases of a patient are held out together.
        thresholds: volumes in mm3 to try.
        folds: parts that are held out in turn for the honest estimate.
        workers: processes; 0 works in this one.
        seed: of the parts and of the bootstrap interval.
        progress: whether a progress bar is shown; by default on a terminal only.

    Raises:
        InputError: the version is unknown, the folders do not fit, or a file cannot be used.
    """
    choose(
        metrics, release=release, regions=regions, missing_distance=0, task=task
    )  # says what is wrong before anything is read
    wanted = {name: tuple(int(value) for value in values) for name, values in regions.items()}
    found = pair_cases(Path(reference), Path(prediction))
    check_all_known(found, Path(reference))
    check_all_predicted(found, Path(prediction))
    parts = _parts([patient_of(case) for case, _, _ in found.both], folds, seed)
    with _scorer(found.both, _Rules(wanted, release, metrics, task, ignore), workers, progress) as scorer:
        chosen, gains = _choose(scorer, list(_steps(wanted, thresholds)), parts, cases=len(found.both))
    evidence = _evidence(gains, metrics=metrics, folds=len(parts), seed=seed)
    labels = tuple(sorted({value for values in wanted.values() for value in values} | {0}))
    tuned = RuleSet(release, metrics, chosen, labels, {**evidence, "thresholds_mm3": list(thresholds)})
    if out is not None:
        tuned.write(Path(out))
    return tuned


def objective(metrics: str) -> str:
    """The score that rules for a metric version are to improve, a Dice."""
    return _OBJECTIVES.get(metrics) or next(iter(METRICS[metrics].measures))


# ----------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class _Gains:
    """The score of every case without rules and with them.

    Attributes:
        before, after: by the rules that all cases have chosen.
        held_out: (2, cases): without rules, and by the rules that other patients have chosen; NaN with one patient.
    """

    before: Scores
    after: Scores
    held_out: Scores


def _choose(
    scorer: "_Scorer", steps: Sequence[list[Rule]], parts: Sequence[NDArray[np.int64]], *, cases: int
) -> tuple[Rules, _Gains]:
    """The best rules for all cases, and what is gained by rules on the cases that chose them and on others."""
    everyone = np.arange(cases)
    chosen = _search(scorer, steps, everyone)
    held_out = np.full((2, cases), np.nan)
    for part in parts:
        rules = _search(scorer, steps, np.setdiff1d(everyone, part))
        held_out[:, part] = np.array(scorer.of([(), rules]))[:, part]
    return chosen, _Gains(scorer.of([()])[0], scorer.of([chosen])[0], held_out)


def _steps(regions: Mapping[str, tuple[int, ...]], thresholds: Sequence[float]) -> Iterator[list[Rule]]:
    """Lists of rules of which at most one is chosen, in the order in which rules are applied."""
    for name in sorted(regions, key=lambda region: (len(regions[region]), region)):
        values = regions[name]
        for what in ("total", "components"):
            yield [
                Rule(name, values, what, float(threshold), becomes)
                for becomes in _replacements(values, regions)
                for threshold in thresholds
            ]


def _replacements(values: tuple[int, ...], regions: Mapping[str, tuple[int, ...]]) -> list[int]:
    """What a region's small parts may become: nothing, or a tissue of the smallest region around it."""
    around = [set(other) for other in regions.values() if set(other) > set(values)]
    parent = min(around, key=len) - set(values) if around else set()
    return [0, *sorted(parent)]


def _search(scorer: "_Scorer", steps: Sequence[list[Rule]], cases: NDArray[np.int64]) -> Rules:
    """The best rules for some of the cases, one step after the other until a round changes nothing."""
    slots: list[Rule | None] = [None] * len(steps)
    for _ in range(MOST_ROUNDS):
        before = list(slots)
        for index, candidates in enumerate(steps):
            tried = [None, *candidates]
            rule_sets = [_joined(slots, index, rule) for rule in tried]
            means = [_mean(scores[cases]) for scores in scorer.of(rule_sets)]
            best = int(np.argmax(means))  # the first of equals: the smallest change
            slots[index] = tried[best] if means[best] > means[0] + SMALLEST_GAIN else None
        if slots == before:
            break
    return tuple(rule for rule in slots if rule is not None)


def _joined(slots: Sequence[Rule | None], index: int, rule: Rule | None) -> Rules:
    return tuple(kept for kept in (*slots[:index], rule, *slots[index + 1 :]) if kept is not None)


def _mean(scores: Scores) -> float:
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0


def _parts(patients: Sequence[str], folds: int, seed: int) -> list[NDArray[np.int64]]:
    """Cases in as many parts as there are folds, patients whole; none with a single patient."""
    names = sorted(set(patients))
    random.Random(seed).shuffle(names)
    folds = min(folds, len(names))
    part_of = {name: index % folds for index, name in enumerate(names)}
    numbers = np.array([part_of[patient] for patient in patients])
    return [np.flatnonzero(numbers == index) for index in range(folds)] if folds > 1 else []


# ---------------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class _Rules:
    """How cases are scored."""

    regions: dict[str, tuple[int, ...]]
    release: str
    metrics: str
    task: str | None
    ignore: int | None


@dataclass(frozen=True)
class _Work:
    """One case and how it is scored."""

    reference: Path
    prediction: Path
    by: _Rules


class _Scorer:
    """Scores of every case under sets of rules; none is computed twice."""

    def __init__(self, works: Sequence[_Work], run: Callable[..., Any], progress: bool | None) -> None:
        self._works = works
        self._run = run
        self._progress = progress
        self._known: dict[Rules, Scores] = {}

    def of(self, rule_sets: Sequence[Rules]) -> list[Scores]:
        """Mean over regions for every case, one array a set."""
        new = list(dict.fromkeys(rules for rules in rule_sets if rules not in self._known))
        if new:
            results = self._run(partial(_score, rule_sets=new), self._works)
            hidden = None if self._progress is None else not self._progress
            rows = list(tqdm(results, total=len(self._works), desc="tuning", unit="case", leave=False, disable=hidden))
            self._known.update(zip(new, np.array(rows, dtype=np.float64).T, strict=True))
        return [self._known[rules] for rules in rule_sets]


@contextmanager
def _scorer(
    pairs: Sequence[tuple[str, Path, Path]], by: _Rules, workers: int, progress: bool | None
) -> Iterator[_Scorer]:
    works = [_Work(reference, prediction, by) for _, reference, prediction in pairs]
    if workers <= 1:
        yield _Scorer(works, map, progress)
        return
    with worker_pool(workers) as pool:
        yield _Scorer(works, pool.map, progress)


def _score(work: _Work, *, rule_sets: Sequence[Rules]) -> list[float]:
    """One score a set of rules; equal label maps are scored once."""
    allowed, ignore = {0}.union(*work.by.regions.values()), work.by.ignore
    reference = read_segmentation(work.reference, allowed=allowed if ignore is None else allowed | {ignore})
    prediction = read_segmentation(work.prediction, allowed=allowed)
    check_same_grid(reference, prediction, work.prediction)
    box = _box((reference.labels != 0) | (prediction.labels != 0))
    known: dict[bytes, float] = {}
    scores = []
    for rules in rule_sets:
        changed = prediction.labels.copy()
        changed[box] = apply(rules, prediction.labels[box], spacing=prediction.spacing)
        key = changed[box].tobytes()
        if key not in known:
            known[key] = _primary(*without_ignored(reference.labels, changed, ignore), reference.spacing, work.by)
        scores.append(known[key])
    return scores


def _primary(reference: NDArray[Any], labels: NDArray[Any], spacing: Sequence[float], by: _Rules) -> float:
    regions = score_case(
        reference, labels, spacing=spacing, regions=by.regions, release=by.release, metrics=by.metrics, task=by.task
    )
    values = np.array([scores[objective(by.metrics)] for scores in regions.values()], dtype=np.float64)
    return _mean(values) if np.isfinite(values).any() else np.nan


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    if not mask.any():
        return (slice(0, 1),) * mask.ndim
    spans = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))) for axis in range(mask.ndim)
    ]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)


# --------------------------------------------------------------------------------------------------------- evidence


def _evidence(gains: _Gains, *, metrics: str, folds: int, seed: int) -> dict[str, Any]:
    before, after = gains.before, gains.after
    change = summarise_change(gains.held_out[0].tolist(), gains.held_out[1].tolist(), seed=seed)
    gain = change.as_dict() if change.cases else None
    recommended = gain is not None and gain["low"] > 0
    measure = objective(metrics)
    text = [f"mean {measure} of the cases that chose: {_mean(before):.4f} before, {_mean(after):.4f} after"]
    if gain is not None:
        text.append(f"gain on held-out patients: {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]")
    text.append("recommended" if recommended else "not recommended: the gain on held-out patients is not sure")
    return {
        "measure": measure,
        "cases": len(before),
        "before": _mean(before),
        "after_in_sample": _mean(after),
        "gain_held_out": gain,
        "held_out_folds": folds,
        "recommended": recommended,
        "text": text,
    }
