"""Results as files and as text: JSON, CSV and Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.table_files import write_table


def table_paths(path: Path) -> tuple[Path, Path]:
    """The JSON and the CSV file of a result; `path` names the JSON file."""
    if path.suffix != ".json":
        raise InputError(f"{path} does not end in .json: name the JSON file, the CSV file is written beside it")
    return path, path.with_suffix(".csv")


def write_tables(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result of `evaluate_folders` as JSON, and as CSV under the same name with the ending .csv."""
    json_path, csv_path = table_paths(path)
    write_json(json_path, result)
    measures = list(next(iter(result["cases"][0]["regions"].values())))
    rows: list[list[Any]] = [["release", "metrics", "case", "region", *measures]]
    for row in result["cases"]:
        for region, scores in row["regions"].items():
            values = [scores[measure] for measure in measures]
            rows.append([result["release"], result["metrics"], row["case"], region, *values])
    write_table(csv_path, rows)


def interval_text(summary: Mapping[str, float | None], digits: int = 3) -> str:
    """`0.812 [0.770, 0.850]`: a mean with its interval; a dash where no case has the score."""
    if summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.{digits}f} [{summary['low']:.{digits}f}, {summary['high']:.{digits}f}]"


_HEADS = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "nsd": "NSD"}


def _head(measure: str) -> str:
    prefix, _, rest = measure.partition("_")
    return _HEADS.get(measure) or (f"{prefix} {_HEADS[rest]}" if rest in _HEADS else measure)


def comparison_table(results: Mapping[str, Mapping[str, Any]], measures: Sequence[str] = ("dice", "hd95_mm")) -> str:
    """A Markdown table of several results over the same regions: one line per region, a column per measure and result.

    Args:
        results: name of a method -> its result of `evaluate_folders`.
        measures: names of scores; distances, which end in `_mm`, are shown with one digit.
    """
    names = list(results)
    head = ["Region", *[f"{_head(measure)}, {name}" for measure in measures for name in names]]
    lines = [head, ["---"] * len(head)]
    for region in results[names[0]]["summary"]:
        summaries = [(m, results[name]["summary"][region][m]) for m in measures for name in names]
        lines.append([region, *[interval_text(summary, 1 if m.endswith("_mm") else 3) for m, summary in summaries]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
