"""Scores as files and as text: JSON, CSV and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.results import RunResult, write_result
from bdfm_nnunet.results.hashed_files import hashed_file
from bdfm_nnunet.table_files import write_table


def table_paths(path: Path) -> tuple[Path, Path]:
    """Return the paths of the JSON and the CSV file of a result; `path` names the JSON file.

    Raises:
        InputError: `path` does not end in .json.

    Example:
        >>> table_paths(Path("scores.json"))[1].name
        'scores.csv'
    """
    if path.suffix != ".json":
        raise InputError(f"{path} does not end in .json: name the JSON file, the CSV file is written beside it")
    return path, path.with_suffix(".csv")


def write_tables(path: Path, result: RunResult) -> RunResult:
    """Write an evaluation as JSON, and its scores as CSV under the same name with the ending .csv.

    Returns:
        The result; if it has a provenance, with the hash of the CSV file.

    Raises:
        InputError: a file cannot be written, and then none is.

    Example:
        >>> cases = [{"case": "BraTS-GLI-00001-000", "regions": {"WT": {"dice": 1.0}}}]
        >>> scores = {"release": "brats2023-gli", "metrics": "whole", "cases": cases}
        >>> _ = write_tables(Path("scores.json"), RunResult(kind="evaluation", scores=scores))
        >>> print(Path("scores.csv").read_text().splitlines()[1])
        brats2023-gli,whole,BraTS-GLI-00001-000,WT,1.0
    """
    json_path, csv_path = table_paths(path)
    assert result.scores is not None
    found = result.scores
    measures = list(next(iter(found["cases"][0]["regions"].values())))
    rows: list[list[Any]] = [["release", "metrics", "case", "region", *measures]]
    for row in found["cases"]:
        for region, scores in row["regions"].items():
            values = [scores[measure] for measure in measures]
            rows.append([found["release"], found["metrics"], row["case"], region, *values])
    write_table(csv_path, rows)
    if result.provenance is not None:
        outputs = [hashed_file("scores", csv_path, beside=csv_path.parent)]
        result = replace(result, provenance=replace(result.provenance, outputs=outputs))
    try:
        write_result(json_path, result)
    except InputError:
        csv_path.unlink(missing_ok=True)
        raise
    return result


def interval_text(summary: Mapping[str, float | None], digits: int = 3) -> str:
    """Return a mean with its interval as text; a dash if no case has the score.

    Example:
        >>> interval_text({"mean": 0.8123, "low": 0.77, "high": 0.85})
        '0.812 [0.770, 0.850]'
    """
    if summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.{digits}f} [{summary['low']:.{digits}f}, {summary['high']:.{digits}f}]"


_HEADS = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "nsd": "NSD"}


def _head(measure: str) -> str:
    prefix, _, rest = measure.partition("_")
    return _HEADS.get(measure) or (f"{prefix} {_HEADS[rest]}" if rest in _HEADS else measure)


def comparison_table(results: Mapping[str, Mapping[str, Any]], measures: Sequence[str] = ("dice", "hd95_mm")) -> str:
    """Return a Markdown table of several results: one line per region, one column per measure and result.

    Args:
        results: name of a method -> its scores, as `evaluate_folders` returns them or a `RunResult` holds them, all
            with the same regions.
        measures: names of scores; distances, which end in `_mm`, are shown with one digit.

    Example:
        >>> from bdfm_nnunet.evaluation import evaluate_folders
        >>> result = evaluate_folders("labels", "predictions", regions={"WT": (1, 2, 3)}, release="brats2023-gli")
        >>> print(comparison_table({"ours": result}, measures=["dice"]))
        | Region | Dice, ours |
        | --- | --- |
        | WT | 0.956 [0.875, 1.000] |
        <BLANKLINE>
    """
    names = list(results)
    head = ["Region", *[f"{_head(measure)}, {name}" for measure in measures for name in names]]
    lines = [head, ["---"] * len(head)]
    for region in results[names[0]]["summary"]:
        summaries = [(m, results[name]["summary"][region][m]) for m in measures for name in names]
        lines.append([region, *[interval_text(summary, 1 if m.endswith("_mm") else 3) for m, summary in summaries]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
