"""Figures of subjects hold what was scored."""

import numpy as np
import pytest

from bdfm_nnunet.evaluation.subject_scores import score_units
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.reports.subject_figures import figures_of
from tests.evaluation.test_subject_scores import PATIENTS, STAGE, N, made_up
from tests.evaluation.test_subject_units import AGE, GRADE, IDH, OS


def models(column, count=1):
    truth = made_up(column)[0]
    return {
        f"model {seed}": units_of(column, truth, made_up(column, seed)[1], patients=PATIENTS) for seed in range(count)
    }


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (IDH, {"roc", "precision_recall", "calibration"}),
        (STAGE, {"roc", "precision_recall", "calibration"}),
        (AGE, {"predicted"}),
        (OS, {"survival"}),
    ],
    ids=["binary", "several", "continuous", "survival"],
)
def test_each_type_has_its_figures_and_nothing_to_draw_none(column, expected, tmp_path):
    found = figures_of(models(column), resamples=20)
    assert set(found) == expected
    for name, figure in found.items():
        figure.savefig(tmp_path / f"{name}.png", dpi=40)
    assert figures_of({"": next(iter(models(column).values())).taken([])}) == {}


def test_roc_and_precision_show_the_scores():
    both = models(IDH, count=2)
    figures = figures_of(both, resamples=20)
    for model, units in both.items():
        scores = score_units(units, resamples=0)
        assert f"{model} AUC {scores['auc']['value']:.3f}" in labels(figures["roc"].axes[0])
        assert f"{model} AP {scores['average_precision']['value']:.3f}" in labels(figures["precision_recall"].axes[0])
    curve = figures["roc"].axes[0].lines[1].get_xydata()
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1] and len(curve) > 20
    first = next(iter(both.values())).values
    drawn = figures["calibration"].axes[1].patches[0].get_xy()[:, 1]
    assert drawn.max() == np.histogram(first, bins=np.linspace(0, 1, 11))[0].max()


def test_one_class_has_no_curve():
    units = next(iter(models(IDH).values()))
    assert figures_of({"": units.taken(np.flatnonzero(units.classes == 1))}) == {}


def test_classes_are_named():
    figures = figures_of(models(GRADE), resamples=20)
    assert [label[:14] for label in labels(figures["roc"].axes[0])[1:]] == [f"{name} against rest" for name in "234"]
    assert "2: " in figures["roc"].axes[0].get_title()


def test_survival_shows_the_numbers_at_risk():
    figure = figures_of(models(OS))["survival"]
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts[0] == "at risk" and texts[1] == str(N // 3)
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["low risk", "middle risk", "high risk"]
    assert figure.axes[1].get_xlabel() == "time (days)"


def test_predicted_values_lie_beside_the_line_of_identity():
    figure = figures_of(models(AGE, count=2))["predicted"]
    line, *points = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    for drawn, units in zip(points, models(AGE, count=2).values()):
        np.testing.assert_array_equal(drawn.get_xydata(), np.stack([units.truth[:, 0], units.values], axis=1))
    assert figure.axes[0].get_xlabel() == "true (years)"
