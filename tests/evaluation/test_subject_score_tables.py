"""Tables of scores hold every score, with what pre-training has seen beside it."""

from bdfm_nnunet.evaluation.subject_measures import MEASURES
from bdfm_nnunet.evaluation.subject_score_tables import COLUMNS, TITLES, score_rows, target_text


def score(value, **more):
    return {"value": value, "interval": None if value is None else [value - 0.1, value + 0.1], "n": 9, "patients": 8,
            "note": "", **more}  # fmt: skip


def result():
    group = {
        "n": 4,
        "patients": 4,
        "note": "small group: 4 patients",
        "measures": {"auc": score(0.5), "f1": score(0.4)},
    }
    empty = {"n": 2, "patients": 2, "note": "", "measures": {"auc": score(None, note="not defined"), "f1": score(0.4)}}
    table = {"groups": {"F": group, "M|x": empty}, "reference": "F", "unknown": 3}
    table["differences"] = {"M|x": {"auc": score(None, p=None), "f1": score(0.0, p=0.5)}}
    return {
        "type": "binary", "title": "binary; 9 scored", "scores": {"auc": score(0.75), "f1": score(0.6)},
        "comparison": {"auc": score(-0.05, p=0.04, note="DeLong"), "f1": score(0.01, p=None)},
        "compared": "b.csv minus a.csv:", "seen_by_other": {"text": "unknown for all 9"},
        "groups": {"sex": table}, "seen": {"text": "2 of 9 seen (2 by patient)"},
    }  # fmt: skip


def test_every_score_is_a_row_with_what_was_seen():
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in score_rows("idh", result())]
    assert len(rows) == 2 + 2 + 4 + 2
    assert {row["seen_in_pretraining"] for row in rows} == {"2 of 9 seen (2 by patient)"}
    assert [(row["what"], row["group_by"], row["group"]) for row in rows[::2]] == [
        ("score", "", ""), ("difference", "", ""), ("score", "sex", "F"), ("score", "sex", "M|x"),
        ("difference", "sex", "M|x"),
    ]  # fmt: skip
    assert (rows[0]["value"], rows[0]["low"], rows[2]["p"], rows[6]["value"]) == (0.75, 0.65, 0.04, "")


def test_the_screen_shows_scores_differences_and_groups():
    text = target_text("idh", result())
    assert "| AUC | 0.750 [0.650, 0.850] | 9 | 2 of 9 seen (2 by patient) |  |" in text
    assert (
        "b.csv minus a.csv:" in text and "| AUC | -0.050 [-0.150, 0.050] | 0.04 | unknown for all 9 | DeLong |" in text
    )
    assert "By sex (3 without a group left out):" in text and "M\\|x" in text
    assert "| F | 4 | 4 | 0.500 [0.400, 0.600] | (compared with) |" in text and "not defined" in text


def test_every_measure_has_a_title():
    assert {name for names in MEASURES.values() for name in names} == set(TITLES)
