"""The models of probes against scikit-learn by itself, slow likelihoods, and chance."""

import math

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from bdfm_nnunet.probes import probe_models
from bdfm_nnunet.probes.probe_models import MODELS, ModelName, cox_weights, predict
from bdfm_nnunet.probes.standardised_features import standardise
from bdfm_nnunet.targets import TargetType

RNG = np.random.default_rng(6)
N, D = 60, 90
HIDDEN = RNG.normal(size=(N, 2))
FEATURES = HIDDEN @ RNG.normal(size=(2, D)) * 3 + RNG.normal(size=(N, D)) + 5
TIMES = np.exp(-HIDDEN[:, 0]) * RNG.exponential(size=N)
TARGETS = {
    TargetType.BINARY: (HIDDEN[:, 0] > 0).astype(float),
    TargetType.MULTICLASS: np.digitize(HIDDEN[:, 0], [-0.5, 0.5]).astype(float),
    TargetType.ORDINAL: np.digitize(HIDDEN[:, 0], [-0.5, 0.5]).astype(float),
    TargetType.CONTINUOUS: 10 + 3 * HIDDEN[:, 0],
    TargetType.SURVIVAL: np.stack([TIMES, (np.arange(N) % 4 > 0).astype(float)], axis=1),
}
GROUPS = [f"P{number}" for number in range(N)]


def _predicted(model: ModelName, kind: TargetType, target: np.ndarray, features: np.ndarray = FEATURES) -> np.ndarray:
    return predict(
        model, kind, features[:40], target[:40], features[40:], groups=GROUPS[:40],
        classes={TargetType.BINARY: 2}.get(kind, 3 if kind.has_classes else 1), seed=0,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_models, "TREES", 30)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("model", MODELS)
def test_models_learn_what_features_tell(model: ModelName, kind: TargetType) -> None:
    found, truth = _predicted(model, kind, TARGETS[kind]), TARGETS[kind][40:]
    if kind.has_classes:
        np.testing.assert_allclose(found.sum(1), 1)
        assert (found.argmax(1) == truth).mean() > 0.7
    else:
        risk_or_value = HIDDEN[40:, 0]
        assert np.corrcoef(found[:, 0], risk_or_value)[0, 1] > 0.7


def test_ridge_is_that_of_all_features() -> None:
    """The turn into the space of the training cases changes nothing but the time it takes."""
    target = TARGETS[TargetType.CONTINUOUS]
    parts = [standardise(FEATURES[:40], FEATURES[40:], rotate=rotate) for rotate in (True, False)]
    assert parts[0].train.shape == (40, 40) and parts[1].train.shape == (40, D)
    for penalty in (0.01, 1.0):
        turned, plain = (Ridge(alpha=penalty).fit(part.train, target[:40]).predict(part.test) for part in parts)
        np.testing.assert_allclose(turned, plain, rtol=1e-5)
    np.testing.assert_allclose(parts[1].train.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(parts[1].train.std(0) * np.sqrt(D), 1)


@pytest.mark.parametrize("model", MODELS)
def test_held_out_cases_do_not_change_one_another(model: ModelName) -> None:
    """Neither scale nor model sees them: others may be anything."""
    target = TARGETS[TargetType.CONTINUOUS]
    changed = FEATURES.copy()
    changed[50:] *= 1000
    first, second = (_predicted(model, TargetType.CONTINUOUS, target, each) for each in (FEATURES, changed))
    np.testing.assert_allclose(first[:10], second[:10], rtol=1e-9)


def test_features_that_never_vary_count_nothing() -> None:
    constant = FEATURES.copy()
    constant[:40, :10] = 7.0
    parts = standardise(constant[:40], constant[40:], rotate=False)
    assert np.isfinite(parts.test).all() and not parts.test[:, :10].any()


def test_the_penalty_is_chosen_by_inner_folds() -> None:
    """Noise is best predicted by the mean, a clear signal by a weak penalty."""
    rng = np.random.default_rng(0)
    noise = predict(
        "linear", TargetType.CONTINUOUS, rng.normal(size=(40, 30)), rng.normal(size=40), rng.normal(size=(20, 30)),
        groups=GROUPS[:40], classes=1, seed=0,
    )  # fmt: skip
    clear = _predicted("linear", TargetType.CONTINUOUS, TARGETS[TargetType.CONTINUOUS])
    assert noise.std() < 0.35 < 2 < clear.std()


def _slow_cox(weights: np.ndarray, x: np.ndarray, time: np.ndarray, event: np.ndarray, penalty: float) -> float:
    total = 0.5 * penalty * sum(w * w for w in weights)
    for i in range(len(x)):
        if event[i]:
            at_risk = [math.exp(x[j] @ weights) for j in range(len(x)) if time[j] >= time[i]]
            total += math.log(sum(at_risk)) - x[i] @ weights
    return float(total)


def test_cox_weights_minimise_a_slow_likelihood() -> None:
    rng = np.random.default_rng(2)
    x, event = rng.normal(size=(30, 3)), (rng.random(30) > 0.3).astype(float)
    time = np.ceil(10 * rng.exponential(size=30) * np.exp(-x[:, 0]))  # with ties
    assert len(set(time)) < 30
    weights = cox_weights(x, time, event, 0.5)
    best = _slow_cox(weights, x, time, event, 0.5)
    for axis in range(3):
        for step in (-0.02, 0.02):
            assert _slow_cox(weights + step * np.eye(3)[axis], x, time, event, 0.5) > best
    assert np.abs(cox_weights(x, time, event, 50.0)).sum() < 0.5 * np.abs(weights).sum()


def test_a_class_without_a_training_case_has_no_chance() -> None:
    target = TARGETS[TargetType.MULTICLASS].copy()
    target[:40] = np.minimum(target[:40], 1)
    found = _predicted("linear", TargetType.MULTICLASS, target)
    assert found.shape == (20, 3) and not found[:, 2].any()
