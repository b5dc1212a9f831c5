"""Support vector machines against scikit-learn's on plain features, and probabilities that are some."""

import numpy as np
import pytest
from sklearn.svm import SVC

from bdfm_nnunet.probes.patient_folds import inner_folds
from bdfm_nnunet.probes.support_vectors import predict_by_support_vectors
from bdfm_nnunet.targets import TargetType

RNG = np.random.default_rng(8)
N = 150
HIDDEN = RNG.normal(size=N)
FEATURES = HIDDEN[:, None] * RNG.normal(size=(1, 8)) + RNG.normal(size=(N, 8))
TARGET = (HIDDEN + 0.4 * RNG.normal(size=N) > 0).astype(float)
GROUPS = [f"P{number // 2}" for number in range(N)]


def _predicted(kind: TargetType, target: np.ndarray, classes: int, folds: bool = True) -> np.ndarray:
    train = slice(0, 100)
    inner = inner_folds(kind, target[train], GROUPS[train], seed=0) if folds else []
    return predict_by_support_vectors(
        kind, FEATURES[train], target[train], FEATURES[100:], folds=inner, classes=classes
    )  # fmt: skip


@pytest.mark.parametrize("folds", [True, False])
def test_two_classes_are_ordered_as_by_a_machine_of_scikit_learn(folds: bool) -> None:
    found = _predicted(TargetType.BINARY, TARGET, 2, folds)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    mean, spread = FEATURES[:100].mean(0), FEATURES[:100].std(0)
    scaled = (FEATURES - mean) / spread / np.sqrt(8)
    near = [
        np.corrcoef(
            SVC(kernel="linear", C=cost, class_weight="balanced").fit(scaled[:100], TARGET[:100]).decision_function(
                scaled[100:]
            ),
            np.log(found[:, 1] / found[:, 0]),
        )[0, 1]
        for cost in (0.01, 0.1, 1, 10, 100)
    ]  # fmt: skip
    assert max(near) > 0.999999


def test_probabilities_come_from_cases_that_the_model_has_not_seen() -> None:
    """Of noise, the margins of training cases would give certain probabilities; those of inner folds do not."""
    noise = RNG.normal(size=(N, 200))
    folds = inner_folds(TargetType.BINARY, TARGET[:100], GROUPS[:100], seed=0)
    with_folds, without = (
        predict_by_support_vectors(TargetType.BINARY, noise[:100], TARGET[:100], noise[100:], folds=each, classes=2)
        for each in (folds, [])
    )
    assert np.abs(with_folds[:, 1] - 0.5).mean() < 0.15 < 0.25 < np.abs(without[:, 1] - 0.5).mean()


def test_a_class_without_training_cases_has_no_probability() -> None:
    target = np.digitize(HIDDEN, [-0.5, 0.5]) * 2.0
    found = _predicted(TargetType.MULTICLASS, target, 6)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[:, [1, 3, 5]] == 0).all() and (found.argmax(axis=1) == target[100:]).mean() > 0.7


def test_values_have_the_unit_of_the_target() -> None:
    found = _predicted(TargetType.CONTINUOUS, 1000 + 50 * HIDDEN, 1)
    assert found.shape == (50, 1) and 960 < found.mean() < 1040
    assert np.corrcoef(found[:, 0], HIDDEN[100:])[0, 1] > 0.8
