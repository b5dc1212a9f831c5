"""Search for rules for small components on cross-validation predictions, for one metric version.

From the innermost region outwards, each region may get a rule for its total and one for its components. Threshold and
new label are those with the best mean score while all other rules are fixed; rounds are repeated until nothing
improves. The objective is the metric version's primary measure (a Dice), averaged over regions and cases.

The gain on the cases that chose the rules is too optimistic. The whole search is therefore repeated with a part of the
patients held out, and the rules found without them are scored on them: this is the gain to expect on new patients.
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
"""A rule that improves the mean by no more than this is left out."""
MOST_ROUNDS = 3
_OBJECTIVES = {"panoptic-2026": "pq_dsc"}
"""Score to improve, if the first measure of the metric version does not notice false lesions."""
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
    """Find the rules that improve a metric version most, and estimate their gain on held-out patients.

    Args:
        reference: folder of reference label maps.
        prediction: folder of cross-validation predictions of the same cases.
        regions: region name -> its label values.
        release: name of the release or data set; it chooses the rules of the metric version.
        metrics: metric version, a key of `METRICS`.
        ignore: label value of reference voxels that are not scored.
        task: use the rules of this task instead of the release's.
        out: rules file to write.
        patient_of: function from a case id to its patient; all cases of a patient are held out together.
        thresholds: volumes in mm3 to try.
        folds: number of parts that are held out in turn.
        workers: number of processes; 0 works in this process.
        seed: seed of the parts and of the bootstrap interval.
        progress: whether to show a progress bar; by default only on a terminal.

    Raises:
        InputError: the metric version is unknown, the folders do not fit each other, or a file cannot be used.

    Example:
        >>> regions = {"WT": (1, 2, 3), "ET": (3,)}
        >>> tuned = tune("labels", "predictions", regions=regions, release="brats2023-gli", metrics="lesionwise-2023")
        >>> print(tuned.summary())
        1 rules for brats2023-gli, tuned for lesionwise-2023
          ET: components below 10 mm3 become label 0
        mean lw_dice of the cases that chose: 0.7847 before, 0.9514 after
        gain on held-out patients: ...
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
    """Return the name of the score that rules for a metric version improve, a Dice.

    Example:
        >>> objective("lesionwise-2023"), objective("panoptic-2026")
        ('lw_dice', 'pq_dsc')
    """
    return _OBJECTIVES.get(metrics) or next(iter(METRICS[metrics].measures))


# ----------------------------------------------------------------------------------------------------------- search


@dataclass(frozen=True)
class _Gains:
    """The score of every case without rules and with them.

    Attributes:
        before: scores without rules.
        after: scores with the rules that all cases have chosen.
        held_out: (2, cases): without rules, and with the rules that other patients have chosen; NaN with one patient.
    """

    before: Scores
    after: Scores
    held_out: Scores


def _choose(
    scorer: "_Scorer", steps: Sequence[list[Rule]], parts: Sequence[NDArray[np.int64]], *, cases: int
) -> tuple[Rules, _Gains]:
    """Return the best rules for all cases, and the gains on the cases that chose them and on held-out ones."""
    everyone = np.arange(cases)
    chosen = _search(scorer, steps, everyone)
    held_out = np.full((2, cases), np.nan)
    for part in parts:
        rules = _search(scorer, steps, np.setdiff1d(everyone, part))
        held_out[:, part] = np.array(scorer.of([(), rules]))[:, part]
    return chosen, _Gains(scorer.of([()])[0], scorer.of([chosen])[0], held_out)


def _steps(regions: Mapping[str, tuple[int, ...]], thresholds: Sequence[float]) -> Iterator[list[Rule]]:
    """Yield lists of rules of which at most one is chosen, in the order in which rules are applied."""
    for name in sorted(regions, key=lambda region: (len(regions[region]), region)):
        values = regions[name]
        for what in ("total", "components"):
            yield [
                Rule(name, values, what, float(threshold), becomes)
                for becomes in _replacements(values, regions)
                for threshold in thresholds
            ]


def _replacements(values: tuple[int, ...], regions: Mapping[str, tuple[int, ...]]) -> list[int]:
    """Return the labels that small parts of a region may get: background, or a tissue of the next larger region."""
    around = [set(other) for other in regions.values() if set(other) > set(values)]
    parent = min(around, key=len) - set(values) if around else set()
    return [0, *sorted(parent)]


def _search(scorer: "_Scorer", steps: Sequence[list[Rule]], cases: NDArray[np.int64]) -> Rules:
    """Return the best rules for some of the cases, one step after the other until a round changes nothing."""
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
    """Split cases into as many parts as there are folds, patients whole; no parts with a single patient."""
    names = sorted(set(patients))
    random.Random(seed).shuffle(names)
    folds = min(folds, len(names))
    part_of = {name: index % folds for index, name in enumerate(names)}
    numbers = np.array([part_of[patient] for patient in patients])
    return [np.flatnonzero(numbers == index) for index in range(folds)] if folds > 1 else []


# ---------------------------------------------------------------------------------------------------------- scoring


@dataclass(frozen=True)
class _Rules:
    """Settings by which cases are scored."""

    regions: dict[str, tuple[int, ...]]
    release: str
    metrics: str
    task: str | None
    ignore: int | None


@dataclass(frozen=True)
class _Work:
    """One case and the settings by which it is scored."""

    reference: Path
    prediction: Path
    by: _Rules


class _Scorer:
    """Scores of every case under sets of rules; each is computed once."""

    def __init__(self, works: Sequence[_Work], run: Callable[..., Any], progress: bool | None) -> None:
        self._works = works
        self._run = run
        self._progress = progress
        self._known: dict[Rules, Scores] = {}

    def of(self, rule_sets: Sequence[Rules]) -> list[Scores]:
        """Return the mean over regions of every case, one array per set of rules."""
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
    """Return one score per set of rules; equal label maps are scored once."""
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
