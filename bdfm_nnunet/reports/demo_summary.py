"""The summary of the demonstration: numbers, a page of text, pictures."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.score_summary import summarise
from bdfm_nnunet.evaluation.score_tables import comparison_table, interval_text
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.reports.figures import save_figure, scores_figure, segmentation_figure
from bdfm_nnunet.reports.reported_runs import CURVES, last_picture, read_runs
from bdfm_nnunet.reports.run_page import PageSettings, write_page
from bdfm_nnunet.reports.viewer_script import installed_viewer
from bdfm_nnunet.results import Cost, RunResult, read_result, versions_of, write_result

NOTICE = (
    "The brains are one template, warped; the contrasts and **all lesions are synthetic**. A few steps on a few "
    "made-up cases show that every part works. They prove nothing about clinical data, whichever column is ahead."
)
LABEL_NAMES = {1: "necrotic core", 2: "oedema", 3: "enhancing tumour"}
_PRETRAINING_NUMBERS = ("loss_first", "loss_last", "psnr", "psnr_mean_fill", "ssim", "ssim_mean_fill")
_SHOWN_CASES = 3
_SHOWN_CHANNEL = "0001"


@dataclass(frozen=True)
class DemoFiles:
    """Where the steps of the demonstration left their results.

    Attributes:
        out: folder of the results.
        pretraining: fold folder of the pre-training run.
        images: test images, nnU-Net names.
        reference: test labels.
        predictions: method -> folder of its predictions; the first method is the one compared against.
        scores: method -> JSON file of `bdfm evaluate`.
    """

    out: Path
    pretraining: Path
    images: Path
    reference: Path
    predictions: Mapping[str, Path]
    scores: Mapping[str, Path]


def write_summary(
    files: DemoFiles, *, settings: Mapping[str, Any], seconds: Mapping[str, float], started: float
) -> dict[str, Any]:
    """Write summary.json, summary.md and figures/ from the results that the steps left.

    Args:
        files: where that is.
        settings: settings of the demonstration, for the record.
        seconds: duration per step.
        started: `time.monotonic()` at the start.

    Returns:
        What summary.json holds.
    """
    pretraining = _pretraining_numbers(files.pretraining / "pretraining_summary.json")
    results = {method: _scores(path) for method, path in files.scores.items()}
    figures = _draw(files, results)
    total = round(time.monotonic() - started, 1)
    told = {
        "notice": NOTICE.replace("**", ""),
        "pretraining": pretraining,
        "segmentation": {method: result["summary"] for method, result in results.items()},
        "difference": differences(results),
        "metrics": next(iter(results.values()))["metrics"],
        "test_cases": len(next(iter(results.values()))["cases"]),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total_seconds": total,
        "figures": figures,
    }
    versions = versions_of("nnunetv2", "torch", "numpy", "scipy")
    result = RunResult(kind="demo", settings=settings, cost=Cost(seconds=total), versions=versions, extra=told)
    write_result(files.out / "summary.json", result)
    summary = result.as_dict()
    with write_atomically(files.out / "summary.md") as temporary:
        temporary.write_text(summary_text(summary, results), encoding="utf-8")
    return summary


def write_demo_page(files: DemoFiles) -> Path:
    """Write the page of both methods, case by case, and of the pre-training, and return it.

    Args:
        files: where the results are.
    """
    runs = [f"{method}={path}" for method, path in files.scores.items()] + [f"pre-training={files.pretraining}"]
    found = read_runs(runs, images=files.images, reference=files.reference, predictions=files.predictions)
    settings = PageSettings(
        title="What the demonstration gave", notice=NOTICE.replace("**", ""), channel=int(_SHOWN_CHANNEL)
    )
    return write_page(files.out, found, settings, viewer=installed_viewer())


def _pretraining_numbers(path: Path) -> dict[str, float]:
    content = read_result(path, kind="pretraining").extra
    missing = [name for name in _PRETRAINING_NUMBERS if not isinstance(content.get(name), (int, float))]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: run the pre-training of this version again")
    return {name: float(content[name]) for name in _PRETRAINING_NUMBERS}


def _scores(path: Path) -> Mapping[str, Any]:
    scores = read_result(path, kind="evaluation").scores
    assert scores is not None
    return scores


def differences(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Second method minus first, case by case: mean with bootstrap interval per region and measure."""
    first, second = results.values()
    table: dict[str, Any] = {}
    for region, measures in first["summary"].items():
        pairs = [(a["regions"][region], b["regions"][region]) for a, b in zip(first["cases"], second["cases"])]
        table[region] = {m: summarise([b[m] - a[m] for a, b in pairs]).as_dict() for m in measures}
    return table


def summary_text(summary: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page summary.md, in Markdown."""
    pretraining = summary["pretraining"]
    gain = pretraining["psnr"] - pretraining["psnr_mean_fill"]
    first, second = results
    lines = [
        "# What the demonstration gave",
        "",
        NOTICE,
        "",
        "## Pre-training (masked image modelling without labels)",
        "",
        "| | |",
        "| --- | --- |",
        f"| Loss, first epoch | {pretraining['loss_first']:.4f} |",
        f"| Loss, last epoch | {pretraining['loss_last']:.4f} |",
        f"| PSNR of masked voxels in held-out crops | {pretraining['psnr']:.2f} dB |",
        f"| PSNR of filling them with the mean | {pretraining['psnr_mean_fill']:.2f} dB (difference {gain:+.2f} dB) |",
        f"| SSIM of masked voxels | {pretraining['ssim']:.3f} |",
        f"| SSIM of filling them with the mean | {pretraining['ssim_mean_fill']:.3f} |",
        "",
        f"## Segmentation of {summary['test_cases']} held-out cases",
        "",
        f"Same plan, seed and steps for both. Means over cases with 95 % bootstrap intervals; metric version "
        f"`{summary['metrics']}`.",
        "",
        comparison_table(results),
        f"Dice, {second} minus {first}, case by case:",
        "",
        *[f"- {region}: {interval_text(row['dice'])}" for region, row in summary["difference"].items()],
        "",
        "## Pictures",
        "",
        *[f"![{name}]({path})" for name, path in summary["figures"].items()],
        "",
        f"## Time: {summary['total_seconds'] / 60:.1f} minutes",
        "",
        "| Step | Seconds |",
        "| --- | --- |",
        *[f"| {name} | {value:.0f} |" for name, value in summary["seconds"].items()],
        "",
        "The commands are in `commands.sh`, their output in `logs/`, all scores in `scores/`.",
    ]
    return "\n".join(lines) + "\n"


def _draw(files: DemoFiles, results: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    folder = files.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = _copy_pictures(files.pretraining, folder)
    title = f"{len(next(iter(results.values()))['cases'])} held-out made-up cases, synthetic lesions"
    save_figure(scores_figure(results, title=title), folder / "dice.png")
    shown = [case["case"] for case in next(iter(results.values()))["cases"][:_SHOWN_CASES]]
    region = next(iter(next(iter(results.values()))["summary"]))
    title = f"Made-up cases, synthetic lesions (T1c), Dice of {region.replace('_', ' ')}"
    rows = [_row(files, case, _dice(results, number, region)) for number, case in enumerate(shown)]
    comparison = segmentation_figure(rows, label_names=LABEL_NAMES, title=title)
    save_figure(comparison, folder / "segmentations.png")
    drawn |= {"Dice per region": "dice.png", "Segmentations": "segmentations.png"}
    return {name: f"figures/{file}" for name, file in drawn.items()}


def _copy_pictures(pretraining: Path, folder: Path) -> dict[str, str]:
    """Take over the curves and the last reconstruction of the pre-training run, where it drew them."""
    chosen = {"Reconstruction": last_picture(pretraining), "Pre-training": pretraining / CURVES}
    copied = {}
    for name, source in chosen.items():
        if source and source.is_file():
            copied[name] = f"{name.lower().replace('-', '')}.png"
            shutil.copyfile(source, folder / copied[name])
    return copied


def _dice(results: Mapping[str, Mapping[str, Any]], number: int, region: str) -> dict[str, float]:
    return {method: result["cases"][number]["regions"][region]["dice"] for method, result in results.items()}


def _row(files: DemoFiles, case: str, dice: Mapping[str, float]) -> tuple[str, NDArray[Any], dict[str, NDArray[Any]]]:
    image = _volume(files.images / f"{case}_{_SHOWN_CHANNEL}.nii.gz")
    segmentations = {"reference": _volume(files.reference / f"{case}.nii.gz")}
    for method, path in files.predictions.items():
        segmentations[f"{method}: Dice {dice[method]:.2f}"] = _volume(path / f"{case}.nii.gz")
    return case, image, segmentations


def _volume(path: Path) -> NDArray[Any]:
    """(z, y, x)."""
    return read_volume(path, str(path)).array.T
