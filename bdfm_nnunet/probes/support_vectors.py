"""Linear support vector machines on frozen features, with probabilities by Platt's rule.

Shapes: features (N, D), targets (N,), margins (N, 1) of two classes, (N, classes that are there) of more.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC, SVR

from bdfm_nnunet.probes.patient_folds import Indices
from bdfm_nnunet.probes.standardised_features import standardise
from bdfm_nnunet.targets import TargetType

Array = NDArray[np.float64]
COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Costs of an error that inner folds choose among, for standardised features divided by the root of D."""
_TUBE = 0.1
"""Errors of a value up to this share of its standard deviation cost nothing."""


def predict_by_support_vectors(
    kind: TargetType, train: Array, target: Array, test: Array, *, folds: list[tuple[Indices, Indices]], classes: int
) -> Array:
    """Return probabilities (M, K) or values (M, 1) of held-out cases.

    The cost of errors is the one whose predictions of the inner folds are best; of classes, their margins give the
    logistic curve from margins to probabilities (Platt 1999), so that no case is scored by a model that has seen it.

    Args:
        kind: of the target; not survival.
        train: (N, D) features.
        target: (N,).
        test: (M, D) features.
        folds: training and held-out places of the inner folds; without any, the training cases themselves are taken.
        classes: K of a target with classes.
    """
    everyone = np.arange(len(target))
    folds = [each for each in folds if not kind.has_classes or len(np.unique(target[each[0]])) > 1]
    held_out = np.concatenate([outside for _, outside in folds]) if folds else everyone
    tried = []
    for cost in COSTS if folds else (1.0,):
        margins = [_margins(kind, train, target, *each, cost) for each in folds or [(everyone, everyone)]]
        model = _Calibrated(kind, np.concatenate(margins), target[held_out])
        tried.append((model.loss, cost, model))
    _, cost, model = min(tried, key=lambda each: each[0])
    both = np.concatenate([train, test])
    found = _margins(kind, both, target, everyone, np.arange(len(train), len(both)), cost)
    return model(found, classes)


def _margins(kind: TargetType, features: Array, target: Array, inside: Indices, outside: Indices, cost: float) -> Array:
    parts = standardise(features[inside], features[outside], rotate=True)
    if kind is TargetType.CONTINUOUS:
        mean, spread = target[inside].mean(), max(float(target[inside].std()), 1e-12)
        found = SVR(kernel="linear", C=cost, epsilon=_TUBE).fit(parts.train, (target[inside] - mean) / spread)
        return np.asarray(found.predict(parts.test) * spread + mean, dtype=float)[:, None]
    machine = SVC(kernel="linear", C=cost, class_weight="balanced", decision_function_shape="ovr")
    margins = machine.fit(parts.train, target[inside].astype(int)).decision_function(parts.test)
    return np.asarray(margins, dtype=float).reshape(len(outside), -1)


class _Calibrated:
    """Values as they are, or the logistic curve from margins to probabilities.

    Attributes:
        loss: of the held-out cases: the sum of squares, or the mean over classes of -log p.
    """

    def __init__(self, kind: TargetType, margins: Array, target: Array) -> None:
        self.curve: Any = None
        if kind is TargetType.CONTINUOUS:
            self.loss = float(((margins[:, 0] - target) ** 2).sum())
            return
        truth = target.astype(int)
        self.curve = LogisticRegression(C=100.0, class_weight="balanced", max_iter=1000).fit(margins, truth)
        p = self(margins, int(truth.max()) + 1)[np.arange(len(truth)), truth]
        self.loss = float(np.mean([-np.log(p[truth == each].clip(1e-6)).mean() for each in np.unique(truth)]))

    def __call__(self, margins: Array, classes: int) -> Array:
        """Return probabilities (M, K) or values (M, 1)."""
        if self.curve is None:
            return margins
        found = np.zeros((len(margins), classes))
        found[:, self.curve.classes_] = self.curve.predict_proba(margins)
        return found
