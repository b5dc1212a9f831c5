"""The search of settings: the best of all, and by halving for a fraction of the steps."""

from collections import Counter

import pytest

from bdfm_nnunet.studies.settings_search import Outcome, Trial, rungs, search


class Runner:
    """Scores that grow with the steps, best for one of the settings; some diverge."""

    def __init__(self, best: int, diverging: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.best, self.diverging, self.trials = best, diverging, list[Trial]()

    def __call__(self, trial: Trial) -> Outcome:
        self.trials.append(trial)
        diverges = trial.number in self.diverging
        score = None if diverges else trial.steps / 1000 - abs(trial.settings["x"] - self.best)
        return Outcome(trial=trial, score=score, seconds=1.0, note="nan" if diverges else "")


SETTINGS = [{"x": value} for value in range(9)]


@pytest.mark.parametrize("halving", [False, True])
@pytest.mark.parametrize("best", [0, 4, 8])
def test_the_best_settings_win(best: int, halving: bool) -> None:
    runner = Runner(best)
    found, told = search(SETTINGS, runner, steps=900, halving=halving)
    assert found is not None and (found.trial.settings, found.trial.steps) == ({"x": best}, 900)
    assert [outcome.trial for outcome in told] == runner.trials


def test_halving_costs_a_third_and_drops_the_worst() -> None:
    runner = Runner(6)
    search(SETTINGS, runner, steps=900, halving=True)
    assert Counter(trial.steps for trial in runner.trials) == {100: 9, 300: 3, 900: 1}
    assert {trial.number for trial in runner.trials if trial.steps == 300} == {5, 6, 7}


@pytest.mark.parametrize("count", range(1, 30))
@pytest.mark.parametrize("steps", [1, 7, 200, 1000])
def test_rungs_end_with_all_steps_and_one_setting(count: int, steps: int) -> None:
    sizes = rungs(count, steps, halving=True)
    assert sizes == sorted(sizes) and sizes[-1] == steps
    assert all(size <= 50 or size % 10 == 0 for size in sizes)
    found, told = search([{"x": 1}] * count, Runner(1), steps=steps, halving=True)
    assert found is not None and found.trial.steps == steps
    assert sum(outcome.trial.steps for outcome in told) <= count * steps
    assert rungs(count, steps, halving=False) == [steps]


def test_the_first_of_equals_wins_and_what_diverges_never() -> None:
    found, told = search([{"x": 5}, {"x": 3}, {"x": 5}], Runner(4, {0}), steps=10)
    assert found is not None and found.trial.number == 1 and told[0].note == "nan"
    nothing, told = search(SETTINGS[:2], Runner(0, {0, 1}), steps=10, halving=True)
    assert nothing is None and len(told) == 2
