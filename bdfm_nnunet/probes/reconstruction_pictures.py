"""Pictures and a table of what `bdfm probe reconstruction` has found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.probes.labelled_cases import HEALTHY
from bdfm_nnunet.probes.reconstruction_scoring import FILL, Scoring, masks_of
from bdfm_nnunet.probes.region_scores import MEASURES
from bdfm_nnunet.reports.figures import reconstruction_figure, save_figure
from bdfm_nnunet.results import RunResult


def draw_cases(scoring: Scoring, result: RunResult, out: Path) -> None:
    """Draw the worst and the median case by the PSNR of the region that holds all others.

    Args:
        scoring: the probe.
        result: its result.
        out: the result's file; the pictures go beside it, as NAME_worst.png and NAME_median.png.
    """
    assert result.scores is not None
    region = max(scoring.regions, key=lambda name: len(scoring.regions[name]))
    known = [row for row in result.scores["cases"] if row["regions"][region]["psnr"] is not None]
    ranked = sorted(known, key=lambda row: float(row["regions"][region]["psnr"]))
    for what, place in (("worst", 0), ("median", len(ranked) // 2)) if ranked else ():
        told = f"{ranked[place]['regions'][region]['psnr']:.2f} dB, {what} of {len(ranked)}"
        figure = _figure(scoring, ranked[place]["case"], region, told)
        save_figure(figure, out.with_name(f"{out.stem}_{what}.png"))


def _figure(scoring: Scoring, name: str, region: str, told: str) -> Any:
    """Draw the slice with most of a region, in the first channel and the first draw of masks."""
    (case,) = scoring.found.read(scoring.channels, [name])
    rebuilt = scoring.rebuilt(case, 0)
    lesion, image = masks_of(case.labels, scoring.regions)[region].numpy(), case.image[0].numpy()
    areas = lesion.reshape(len(lesion), -1).sum(1)
    return reconstruction_figure(
        image,
        image,
        {"rebuilt": rebuilt.image[0].numpy(), "mean fill": rebuilt.filled[0].numpy()},
        mask=rebuilt.hidden.numpy(),
        outline=lesion,
        index=int(areas.argmax()),
        title=f"{name}, {region}: PSNR {told}",
    )


def table(result: RunResult) -> str:
    """Return the scores of a result as text, a line per region and measure.

    Example:
        >>> mean = {"mean": 20.0, "low": 19.0, "high": 21.0}
        >>> scores = {"regions": ["lesion"], "summary": {"lesion": {"psnr": mean, "psnr_mean_fill": mean}}}
        >>> change = {"lesion": {"psnr": {"mean": -1.0, "low": -2.0, "high": 0.5}}}
        >>> extra = {"against_healthy": change, "against_mean_fill": change}
        >>> print(table(RunResult(kind="reconstruction", scores=scores, extra=extra)))
        region  measure  rebuilt  mean fill              difference      against healthy
        lesion  psnr      20.000     20.000  -1.000 [-2.000, 0.500]  -1.000 [-2.000, 0.500]
    """
    assert result.scores is not None
    summary = result.scores["summary"]
    rows = [("region", "measure", "rebuilt", "mean fill", "difference", "against healthy")]
    for region in result.scores["regions"]:
        for measure in [name for name in MEASURES if name in summary[region]]:
            means = [_number(summary[region][f"{measure}{ending}"]["mean"]) for ending in ("", f"_{FILL}")]
            changes = [_interval(result.extra[f"against_{what}"][region][measure]) for what in (FILL, HEALTHY)]
            rows.append((region, measure, *means, *changes))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as text, names on the left and numbers on the right.

    Example:
        >>> print(aligned([("region", "psnr"), ("a", "20.0")]))
        region  psnr
        a       20.0
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<", "<"] + [">"] * (len(widths) - 2)
    forms = [f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True)]
    return "\n".join("  ".join(form.format(cell) for form, cell in zip(forms, row)).rstrip() for row in rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(summary: Mapping[str, Any]) -> str:
    return "-" if summary["mean"] is None else f"{summary['mean']:.3f} [{summary['low']:.3f}, {summary['high']:.3f}]"


def comparison_table(result: RunResult) -> str:
    """Return the comparison of arms as text.

    Example:
        >>> mean = {"mean": 20.0, "low": 19.0, "high": 21.0}
        >>> row = {"arm": "bdfm", "region": "lesion", "measure": "psnr", "mean": mean, "difference": None}
        >>> print(comparison_table(RunResult(kind="reconstruction_comparison", extra={"table": [row]})))
        region  measure   arm    mean  difference (interval)
        lesion  psnr     bdfm  20.000                      -
    """
    rows = [("region", "measure", "arm", "mean", "difference (interval)")]
    order = {(row["region"], row["measure"]): None for row in result.extra["table"]}
    for region, measure in order:
        for row in result.extra["table"]:
            if (row["region"], row["measure"]) == (region, measure):
                change = "-" if row["difference"] is None else _interval(row["difference"])
                rows.append((region, measure, row["arm"], _number(row["mean"]["mean"]), change))
    return aligned(rows)
