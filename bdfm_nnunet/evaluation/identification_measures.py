"""Re-identification: is the most similar run of a fixed gallery another one of the same subject?

Every run asks once. Its candidates are the runs of the gallery without itself and, where sessions are given, without
the runs of its own session, so that what two runs share by the day of the scan does not count. Candidates are ranked by
the cosine of their features to those of the run that asks; an equal similarity counts against the subject.

Shapes: N runs, D features, Q runs that ask, R resamples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.evaluation.class_measures import weighted_mean
from bdfm_nnunet.evaluation.subject_bootstrap import Array, Measure, PatientDraws, estimate

_DECIMALS = 12  # of similarities: rounding of sums is no difference


@dataclass(frozen=True, kw_only=True)
class Identified:
    """What a gallery answered.

    Attributes:
        queries: places of the runs that asked, (Q,).
        subjects: subject of each, Q.
        first: rank of the first candidate of the same subject, from 1, (Q,).
        precision: average precision of the candidates in their order, (Q,).
        candidates: number of candidates, (Q,).
        right: number of those of the same subject, (Q,).
        left_out: number of runs that could not ask, since no other run of their subject is a candidate.

    Example:
        >>> found = identify(np.eye(3), ["a", "a", "b"])
        >>> found.queries.tolist(), found.candidates.tolist(), found.left_out
        ([0, 1], [2, 2], 1)
    """

    queries: NDArray[np.int64]
    subjects: tuple[str, ...]
    first: NDArray[np.int64]
    precision: Array
    candidates: NDArray[np.int64]
    right: NDArray[np.int64]
    left_out: int


def identify(
    features: NDArray[Any],
    subjects: Sequence[str],
    *,
    sessions: Sequence[str] | None = None,
    gallery: Sequence[int] | NDArray[np.int64] | None = None,
) -> Identified:
    """Rank the gallery for every run.

    Args:
        features: (N, D).
        subjects: of each run.
        sessions: of each run; with them only runs of other sessions are candidates for a run of the same subject.
        gallery: places of the runs in the gallery; by default all. Runs outside it ask, too.

    Raises:
        ValueError: features are not finite, or lengths differ.

    Example:
        >>> features = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.2]])
        >>> found = identify(features, ["a", "a", "b", "b"])
        >>> found.first.tolist(), found.precision.tolist()
        ([1, 1, 1, 1], [1.0, 1.0, 1.0, 1.0])
    """
    names, vectors = np.asarray(subjects, dtype=str), _directions(features)
    days = np.arange(len(names)) if sessions is None else np.asarray(sessions, dtype=str)
    if not len(vectors) == len(names) == len(days):
        raise ValueError(f"{len(vectors)} rows of features belong to {len(names)} subjects and {len(days)} sessions")
    shelf = np.arange(len(names)) if gallery is None else np.unique(np.asarray(gallery, dtype=np.int64))
    answers = []
    for query in range(len(names)):
        known = names[shelf] == names[query]
        asked = ~(known & (days[shelf] == days[query]))
        if known[asked].any():
            similar = np.round(vectors[shelf[asked]] @ vectors[query], _DECIMALS)
            answers.append((query, *_ranked(similar, known[asked])))
    columns = list(zip(*answers, strict=True)) or [()] * 5
    queries, first, candidates, right = (np.array(columns[at], dtype=np.int64) for at in (0, 1, 3, 4))
    return Identified(
        queries=queries, subjects=tuple(names[queries].tolist()), first=first,
        precision=np.array(columns[2], dtype=np.float64), candidates=candidates, right=right,
        left_out=len(names) - len(queries),
    )  # fmt: skip


def _directions(features: NDArray[Any]) -> Array:
    """Return rows of length 1; rows of zeros stay, and are like nothing."""
    vectors = np.asarray(features, dtype=np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"features of shape {vectors.shape} are not finite, or not one row of numbers per run")
    vectors = vectors / np.maximum(np.abs(vectors).max(axis=1, keepdims=True, initial=0), 1e-300)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-300)


def _ranked(similar: Array, known: NDArray[np.bool_]) -> tuple[int, float, int, int]:
    """Return the rank of the first known candidate, the average precision, and the numbers of both."""
    order = np.lexsort((known, -similar))  # of equal similarities the unknown ones first
    ranks = np.flatnonzero(known[order]) + 1
    precision = float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
    return int(ranks[0]), precision, len(known), len(ranks)


def identification_scores(
    found: Identified, *, ranks: Sequence[int] = (1, 5), resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Return Rank-k and the mean average precision, each with an interval and what chance gives.

    Rank-k is the share of the runs that have their subject among the k first candidates. Means are over the runs that
    ask; the bootstrap draws their subjects with all runs and leaves the gallery as it is.

    Args:
        found: what the gallery answered.
        ranks: k of Rank-k.
        resamples: of the bootstrap.
        seed: of its draws.

    Returns:
        "rank_1" ... and "mean_average_precision" -> what `subject_bootstrap.estimate` returns, and "chance", the mean
        over random orders of the same candidates (None where no run asks).

    Example:
        >>> found = identify(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]), ["a", "a", "b", "b"])
        >>> scores = identification_scores(found, ranks=[1], resamples=100)
        >>> scores["rank_1"]["value"], round(scores["rank_1"]["chance"], 3)
        (1.0, 0.333)
    """
    draws = PatientDraws.of(found.subjects, resamples=resamples, seed=seed)
    counts = list(zip(found.candidates.tolist(), found.right.tolist(), strict=True))
    rows = {f"rank_{k}": ((found.first <= k).astype(float), [_chance_of_rank(*each, k) for each in counts])
            for k in dict.fromkeys(ranks)}  # fmt: skip
    rows["mean_average_precision"] = (found.precision, [_chance_of_precision(*each) for each in counts])
    return {
        name: {**estimate(_mean(name, values), draws), "chance": float(np.mean(chances)) if chances else None}
        for name, (values, chances) in rows.items()
    }


def _mean(name: str, values: Array) -> Measure:
    return Measure(
        name=name, compute=lambda weights: weighted_mean(values, weights), needs="another run or session of a subject"
    )


def _chance_of_rank(candidates: int, right: int, k: int) -> float:
    return 1 - math.comb(candidates - right, k) / math.comb(candidates, k) if k <= candidates else 1.0


def _chance_of_precision(candidates: int, right: int) -> float:
    """Return the mean average precision of a random order: H/n + (1 - H/n) (r - 1)/(n - 1), H the n-th harmonic."""
    share = sum(1 / rank for rank in range(1, candidates + 1)) / candidates
    return share + (1 - share) * (right - 1) / max(candidates - 1, 1)
