"""Small models on frozen features: logistic or ridge regression, support vectors, neighbours, forests, Cox regression.

Features are standardised by the training cases alone. A prediction is an array (cases, K): probabilities of K classes,
a value, or a risk (K = 1).

Shapes: features (N, D); targets (N,) class numbers from 0 or values, (N, 2) time and event for survival.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from bdfm_nnunet.probes.patient_folds import inner_folds
from bdfm_nnunet.probes.standardised_features import standardise
from bdfm_nnunet.probes.support_vectors import predict_by_support_vectors
from bdfm_nnunet.targets import TargetType

Array = NDArray[np.float64]
ModelName = Literal["linear", "knn", "forest", "svm"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
USUAL: tuple[ModelName, ...] = ("linear", "knn", "forest")
"""The models of a probe that names none."""
PENALTIES = tuple(10.0**exponent for exponent in range(-2, 5))
"""Strengths of the ridge penalty that inner folds choose among, for standardised features divided by the root of D."""
NEIGHBOURS = (1, 3, 5, 10, 20)
TREES, DEPTH, MIN_SPLIT = 200, 6, 5
"""The random forest with which 3D-Neuro-SimCLR's features were compared with untrained ones."""


def predict(
    model: ModelName,
    kind: TargetType,
    train: Array,
    target: Array,
    test: Array,
    *,
    groups: Sequence[str],
    classes: int,
    seed: int,
) -> Array:
    """Fit a model on training cases and predict held-out ones.

    Args:
        model: "linear" (logistic or ridge, Cox for survival), "knn", "forest" or "svm".
        kind: of the target.
        train: (N, D) features.
        target: (N,) or (N, 2).
        test: (M, D) features.
        groups: patient of each training case; no patient is on two sides of an inner fold.
        classes: K of a target with classes.
        seed: of the forest and of inner folds.
    """
    if kind is TargetType.SURVIVAL:
        return _chosen(_cox, PENALTIES, kind, train, target, test, groups, classes, seed)
    if model == "svm":
        folds = inner_folds(kind, target, groups, seed=seed)
        return predict_by_support_vectors(kind, train, target, test, folds=folds, classes=classes)
    if model == "forest":
        return _forest(kind, train, target, test, classes, seed)
    if model == "knn":
        numbers = [number for number in NEIGHBOURS if number < len(train)] or [1]
        return _chosen(_nearest, numbers, kind, train, target, test, groups, classes, seed)
    return _chosen(_linear, PENALTIES, kind, train, target, test, groups, classes, seed)


Fit = Callable[[TargetType, Array, Array, Array, Any, int], Array]


def _chosen(
    fit: Fit,
    values: Sequence[Any],
    kind: TargetType,
    train: Array,
    target: Array,
    test: Array,
    groups: Sequence[str],
    classes: int,
    seed: int,
) -> Array:
    """Return the predictions with the value whose predictions of inner folds are best."""
    folds = inner_folds(kind, target, groups, seed=seed)
    value = values[len(values) // 2]
    if folds and len(values) > 1:
        losses = np.zeros(len(values))
        for inside, outside in folds:
            if kind.has_classes and len(np.unique(target[inside])) < 2:
                continue
            parts = standardise(train[inside], train[outside], rotate=True)
            for at, each in enumerate(values):
                found = fit(kind, parts.train, target[inside], parts.test, each, classes)
                losses[at] += _loss(kind, target[outside], found)
        value = values[int(losses.argmin())]
    parts = standardise(train, test, rotate=True)
    return fit(kind, parts.train, target, parts.test, value, classes)


def _loss(kind: TargetType, truth: Array, found: Array) -> float:
    """Return the sum over cases: of -log p, of squares, or of pairs in the wrong order."""
    if kind.has_classes:
        weights = 1 / np.bincount(truth.astype(int))[truth.astype(int)].clip(1)
        return float(-(weights * np.log(found[np.arange(len(truth)), truth.astype(int)].clip(1e-6))).sum())
    if kind is TargetType.CONTINUOUS:
        return float(((found[:, 0] - truth) ** 2).sum())
    time, event, risk = truth[:, 0], truth[:, 1], found[:, 0]
    earlier = (time[:, None] < time[None]) & (event[:, None] > 0)
    return float((earlier * ((risk[:, None] < risk[None]) + 0.5 * (risk[:, None] == risk[None]))).sum())


def _linear(kind: TargetType, train: Array, target: Array, test: Array, penalty: float, classes: int) -> Array:
    if kind is TargetType.CONTINUOUS:
        return np.asarray(Ridge(alpha=penalty).fit(train, target).predict(test), dtype=float)[:, None]
    model = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    return _probabilities(model.fit(train, target.astype(int)), test, classes)


def _nearest(kind: TargetType, train: Array, target: Array, test: Array, number: int, classes: int) -> Array:
    number = min(number, len(train))
    if kind is TargetType.CONTINUOUS:
        return np.asarray(KNeighborsRegressor(number).fit(train, target).predict(test), dtype=float)[:, None]
    return _probabilities(KNeighborsClassifier(number).fit(train, target.astype(int)), test, classes)


def _forest(kind: TargetType, train: Array, target: Array, test: Array, classes: int, seed: int) -> Array:
    settings: dict[str, Any] = {
        "n_estimators": TREES, "max_depth": DEPTH, "min_samples_split": MIN_SPLIT, "random_state": seed
    }  # fmt: skip
    parts = standardise(train, test, rotate=False)
    if kind is TargetType.CONTINUOUS:
        forest = RandomForestRegressor(max_features="sqrt", **settings)
        return np.asarray(forest.fit(parts.train, target).predict(parts.test), dtype=float)[:, None]
    trees = RandomForestClassifier(class_weight="balanced", **settings)
    return _probabilities(trees.fit(parts.train, target.astype(int)), parts.test, classes)


def _probabilities(model: Any, test: Array, classes: int) -> Array:
    """Return probabilities of all classes; of those that no training case has, 0."""
    found = np.zeros((len(test), classes))
    found[:, model.classes_] = model.predict_proba(test)
    return found


def _cox(kind: TargetType, train: Array, target: Array, test: Array, penalty: float, classes: int) -> Array:
    return (test @ cox_weights(train, target[:, 0], target[:, 1], penalty))[:, None]


def cox_weights(features: Array, time: Array, event: Array, penalty: float) -> Array:
    """Return the weights w (D,) of Cox regression with a ridge penalty; the risk of a case is its features times w.

    They minimise the negative log partial likelihood with Breslow's ties (Cox 1972, Breslow 1974),

        sum over events i of [log sum over j with time_j >= time_i of exp(x_j w) - x_i w] + penalty / 2 |w|^2

    Args:
        features: (N, D).
        time: (N,) of event or censoring.
        event: (N,) 1 where the event happened.
        penalty: above 0.

    Example:
        >>> time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 0.0, 1.0])
        >>> weights = cox_weights(np.array([[3.0], [2.0], [1.0], [0.0]]), time, event, 0.1)
        >>> bool(weights[0] > 0)
        True
    """
    order = np.argsort(-time, kind="stable")
    x, time, event = features[order], time[order], event[order]
    last = np.searchsorted(-time, -time, side="right") - 1  # of those at risk at each time, ties included

    def loss(weights: Array) -> tuple[float, Array]:
        risk = x @ weights
        top = risk.max()
        grown = np.exp(risk - top)
        total = np.cumsum(grown)[last]
        means = np.cumsum(grown[:, None] * x, axis=0)[last] / total[:, None]
        value = float((event * (np.log(total) + top - risk)).sum() + penalty / 2 * (weights @ weights))
        return value, (event[:, None] * (means - x)).sum(0) + penalty * weights

    return np.asarray(minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x)
