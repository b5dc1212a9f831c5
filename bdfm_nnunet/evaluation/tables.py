"""Results as files and as text: JSON, CSV and Markdown."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_atomically, write_json


def table_paths(path: Path) -> tuple[Path, Path]:
    """The JSON and the CSV file of a result; `path` names the JSON file."""
    if path.suffix != ".json":
        raise InputError(f"{path} does not end in .json: name the JSON file, the CSV file is written beside it")
    return path, path.with_suffix(".csv")


def write_tables(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result of `evaluate_folders` as JSON, and as CSV under the same name with the ending .csv."""
    json_path, csv_path = table_paths(path)
    write_json(json_path, result)
    with write_atomically(csv_path) as temporary, temporary.open("w", newline="") as stream:
        measures = list(next(iter(result["cases"][0]["regions"].values())))
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["release", "metrics", "case", "region", *measures])
        for row in result["cases"]:
            for region, scores in row["regions"].items():
                values = [scores[measure] for measure in measures]
                writer.writerow([result["release"], result["metrics"], row["case"], region, *values])


def interval_text(summary: Mapping[str, float], digits: int = 3) -> str:
    """`0.812 [0.770, 0.850]`: a mean with its interval."""
    return f"{summary['mean']:.{digits}f} [{summary['low']:.{digits}f}, {summary['high']:.{digits}f}]"


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of several results over the same regions: one line per region, two columns per result.

    Args:
        results: name of a method -> its result of `evaluate_folders`.
    """
    names = list(results)
    head = ["Region", *[f"{measure}, {name}" for measure in ("Dice", "HD95 (mm)") for name in names]]
    lines = [head, ["---"] * len(head)]
    for region in results[names[0]]["summary"]:
        summaries = [results[name]["summary"][region] for name in names]
        dice_cells = [interval_text(summary["dice"]) for summary in summaries]
        lines.append([region, *dice_cells, *[interval_text(summary["hd95_mm"], 1) for summary in summaries]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
