"""Scores of subjects as rows for a CSV file and as Markdown for the screen."""

from collections.abc import Mapping, Sequence
from typing import Any

from bdfm_nnunet.evaluation.score_tables import interval_text

COLUMNS = ("target", "type", "measure", "what", "group_by", "group", "value", "low", "high", "p", "n", "patients",
           "seen_in_pretraining", "note")  # fmt: skip
"""Columns of the table of scores; `what` is `score`, or `difference` from the other model or the reference group."""
TITLES = {
    "auc": "AUC", "average_precision": "average precision", "balanced_accuracy": "balanced accuracy", "f1": "F1",
    "brier": "Brier score", "ece": "calibration error", "weighted_kappa": "weighted kappa",
    "mae_classes": "MAE (classes)", "mae": "MAE", "rmse": "RMSE", "r2": "R²", "pearson": "Pearson r",
    "spearman": "Spearman rho", "c_index": "C-index", "integrated_brier": "integrated Brier score",
}  # fmt: skip
"""Names of the measures for readers."""


def value_text(found: Mapping[str, Any]) -> str:
    """Return a value and its interval; a dash for what is not defined.

    Example:
        >>> value_text({"value": 0.8123, "interval": [0.77, 0.85]}), value_text({"value": 1234.5, "interval": None})
        ('0.812 [0.770, 0.850]', '1234.5')
        >>> value_text({"value": None, "interval": None})
        '-'
    """
    value, interval = found["value"], found["interval"]
    if value is None:
        return "-"
    digits = 3 if abs(value) < 100 else 1
    if interval is None:
        return f"{value:.{digits}f}"
    return interval_text({"mean": value, "low": interval[0], "high": interval[1]}, digits)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Return a Markdown table.

    Example:
        >>> print(markdown(["a", "b"], [["1", "x | y"]]))
        | a | b |
        | --- | --- |
        | 1 | x \| y |
    """
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def score_rows(name: str, result: Mapping[str, Any]) -> list[list[Any]]:
    """Return the rows of one target, under `COLUMNS`.

    Args:
        name: name of the target.
        result: its entry in the result of `bdfm evaluate-subjects`: "type", "scores", "comparison", "groups", "seen".

    Example:
        >>> score = {"value": 0.5, "interval": None, "n": 4, "patients": 2, "note": ""}
        >>> result = {"type": "binary", "scores": {"auc": score}, "comparison": None, "groups": {}}
        >>> score_rows("idh", {**result, "seen": {"text": "0 of 4 seen"}})[0][-2]
        '0 of 4 seen'
    """
    seen = result["seen"]["text"]

    def row(measure: str, found: Mapping[str, Any], what: str, by: str = "", group: str = "") -> list[Any]:
        low, high = found["interval"] or (None, None)
        numbers = [found["value"], low, high, found.get("p"), found.get("n"), found.get("patients")]
        cells = ["" if number is None else number for number in numbers]
        return [name, result["type"], measure, what, by, group, *cells, seen, found["note"]]

    rows = [row(measure, found, "score") for measure, found in result["scores"].items()]
    rows += [row(measure, found, "difference") for measure, found in (result["comparison"] or {}).items()]
    for by, table in result["groups"].items():
        for group, entry in table["groups"].items():
            rows += [row(measure, found, "score", by, group) for measure, found in entry["measures"].items()]
        for group, changes in table["differences"].items():
            rows += [row(measure, found, "difference", by, group) for measure, found in changes.items()]
    return rows


def target_text(name: str, result: Mapping[str, Any]) -> str:
    """Return what the screen shows of one target: scores, comparison with another model, groups.

    Args:
        name: name of the target.
        result: as in `score_rows`, with "title".

    Example:
        >>> score = {"value": 0.5, "interval": [0.25, 0.75], "n": 4, "patients": 2, "note": ""}
        >>> result = {"title": "binary", "scores": {"auc": score}, "comparison": None, "groups": {}}
        >>> print(target_text("idh", {**result, "seen": {"text": "0 of 4 seen"}}))
        ## idh (binary)
        <BLANKLINE>
        | measure | value [95 % interval] | cases | seen in pre-training | note |
        | --- | --- | --- | --- | --- |
        | AUC | 0.500 [0.250, 0.750] | 4 | 0 of 4 seen |  |
    """
    seen = result["seen"]["text"]
    rows = [
        [TITLES[measure], value_text(found), str(found["n"]), seen, found["note"]]
        for measure, found in result["scores"].items()
    ]
    head = ["measure", "value [95 % interval]", "cases", "seen in pre-training", "note"]
    parts = [f"## {name} ({result['title']})", markdown(head, rows)]
    if result["comparison"]:
        parts.append(_comparison_text(result))
    parts += [_group_text(by, table, result) for by, table in result["groups"].items()]
    return "\n\n".join(parts)


def _comparison_text(result: Mapping[str, Any]) -> str:
    rows = []
    for measure, found in result["comparison"].items():
        p = "-" if found["p"] is None else f"{found['p']:.3g}"
        rows.append([TITLES[measure], value_text(found), p, result["seen_by_other"]["text"], found["note"]])
    head = ["measure", "difference [95 % interval]", "p", "seen in pre-training (other model)", "note"]
    return f"{result['compared']}\n\n{markdown(head, rows)}"


def _group_text(by: str, table: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return the headline measure of each group and its difference from the largest one."""
    headline, rows = next(iter(result["scores"])), []
    for group, entry in table["groups"].items():
        found = entry["measures"][headline]
        change = table["differences"].get(group, {}).get(headline)
        apart = "(compared with)" if change is None else value_text(change)
        note = "; ".join(text for text in (entry["note"], "" if found["value"] is not None else found["note"]) if text)
        rows.append([group, str(entry["n"]), str(entry["patients"]), value_text(found), apart,
                     result["seen"]["text"], note])  # fmt: skip
    left = f" ({table['unknown']} without a group left out)" if table["unknown"] else ""
    head = [by, "cases", "patients", TITLES[headline], f"difference from {table['reference']}", "seen in pre-training",
            "note"]  # fmt: skip
    return f"By {by}{left}:\n\n{markdown(head, rows)}"
