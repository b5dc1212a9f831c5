"""The threshold that is chosen is the best of all, and only of data that can tell."""

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.evaluation.threshold_choice import chosen_threshold
from tests.evaluation.test_subject_units import IDH, column


def accuracy(truth, chosen):
    return (chosen[truth == 1].mean() + (~chosen[truth == 0]).mean()) / 2


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    truth = (np.arange(40) < 12).astype(float)
    p = np.round(1 / (1 + np.exp(-truth - rng.normal(size=40) + 2)), 2)
    units = units_of(IDH, truth[:, None], {"idh": p}, patients=[str(n) for n in range(40)])
    found = chosen_threshold(units)
    best = max(accuracy(truth, p >= at) for at in np.linspace(0, 1, 201))
    assert accuracy(truth, p >= found) == pytest.approx(best) and found < 0.5


def test_of_several_the_one_nearest_to_a_half_is_taken():
    units = units_of(IDH, column(0, 0, 1, 1), {"idh": np.array([0.1, 0.4, 0.4, 0.9])}, patients="abcd")
    assert chosen_threshold(units) == pytest.approx(0.65)  # halfway of 0.4 and 0.9; 0.25 is as good


def test_one_class_cannot_tell():
    units = units_of(IDH, column(1, 1), {"idh": np.array([0.1, 0.4])}, patients="ab")
    with pytest.raises(InputError, match=r"val\.csv has cases of one class of idh alone"):
        chosen_threshold(units, source="val.csv")
