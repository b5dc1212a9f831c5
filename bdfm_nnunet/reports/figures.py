"""Figures: each function takes plain data and returns a matplotlib figure; nothing global is touched.

Volumes are arrays indexed as nnU-Net gives them, (z, y, x) with z the axis of the slices. Save a figure with
`save_figure`, or with its own `savefig`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bdfm_nnunet.files import write_atomically

Volume = NDArray[Any]

# Okabe and Ito's colours, which most colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_LABEL_COLOURS = {1: "#0072B2", 2: "#E6C229", 3: "#D62828", 4: "#009E73"}
_BLANK = "#808080"


def save_figure(figure: Figure, path: Path | str, *, dpi: int = 110) -> None:
    """Write a figure, whole or not at all; the ending of `path` chooses the format."""
    with write_atomically(path) as temporary:
        figure.savefig(temporary, dpi=dpi)


def window_of(volume: Volume) -> tuple[float, float]:
    """Return the darkest and the brightest value that a picture of some voxels shows."""
    low, high = np.percentile(volume, [0.5, 99.5])
    return float(low), float(max(high, low + 1e-6))


def reconstruction_figure(
    original: Volume,
    masked: Volume | None,
    reconstructions: Mapping[str, Volume],
    *,
    mask: Volume | None = None,
    outline: Volume | None = None,
    title: str = "",
    index: int | None = None,
    with_errors: bool = True,
) -> Figure:
    """One slice of a crop: original, masked, each reconstruction, and its absolute error on one common scale.

    Args:
        original: crop, (z, y, x).
        masked: what the encoder saw, same shape; None leaves this picture out.
        reconstructions: name -> reconstructed crop; may be empty.
        mask: boolean crop, True = masked; where it is given, masked voxels are drawn grey in the second picture.
        outline: boolean crop, whose border is drawn in every picture.
        title: heading.
        index: slice to show; by default the central one.
        with_errors: whether to draw the errors.
    """
    z = original.shape[0] // 2 if index is None else index
    low, high = window_of(original)
    errors = {name: np.abs(volume[z] - original[z]) for name, volume in reconstructions.items()}
    worst = max((float(np.percentile(error, 99.5)) for error in errors.values()), default=0.0) or 1.0
    pictures = [("original", original[z], "gray", low, high)]
    if masked is not None:
        hidden = masked[z] if mask is None else np.ma.masked_where(mask[z].astype(bool), masked[z])
        pictures.append(("masked", hidden, "gray", low, high))
    for name, volume in reconstructions.items():
        pictures.append((name, volume[z], "gray", low, high))
        if with_errors:
            pictures.append((f"error of {name}", errors[name], "magma", 0.0, worst))
    figure = Figure(figsize=(2.6 * len(pictures), 3.0), layout="constrained")
    places = np.ravel(figure.subplots(1, len(pictures)))
    for axes, (name, picture, colours, darkest, brightest) in zip(places, pictures):
        axes.set_facecolor(_BLANK)
        shown = axes.imshow(picture, cmap=colours, vmin=darkest, vmax=brightest, interpolation="nearest")
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
        if outline is not None and outline[z].any():
            axes.contour(outline[z].astype(float), levels=[0.5], colors=COLOURS[4], linewidths=0.8)
        if colours == "magma":
            figure.colorbar(shown, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def _draw_curves(axes: Any, series: Mapping[str, Sequence[float]], ylabel: str, log: bool) -> None:
    for number, (name, values) in enumerate(series.items()):
        epochs = np.arange(len(values))
        marker = "o" if len(values) < 12 else None
        axes.plot(epochs, values, color=COLOURS[number % len(COLOURS)], marker=marker, markersize=3, lw=1.5, label=name)
    axes.set_xlabel("epoch")
    axes.set_ylabel(ylabel)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    if log:
        axes.set_yscale("log")
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False)
    elif series:
        axes.set_title(next(iter(series)), fontsize=9)


def progress_figure(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, title: str = "", log: Sequence[str] = ()
) -> Figure:
    """Several panels of curves over the epochs, two in a row.

    Args:
        panels: label of the values -> name -> one value per epoch; series may differ in length and hold NaN.
        title: heading.
        log: labels of the panels with logarithmic values.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(6.0 * columns, 3.2 * rows), layout="constrained")
    grid = np.ravel(figure.subplots(rows, columns))
    for axes, (ylabel, series) in zip(grid, panels.items()):
        _draw_curves(axes, series, ylabel, ylabel in log)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=11)
    return figure


def _overlaid(image: Volume, labels: Volume, window: tuple[float, float], opacity: float = 0.7) -> Volume:
    grey = np.clip((image - window[0]) / (window[1] - window[0]), 0, 1)
    colours: Volume = np.repeat(grey[..., None], 3, axis=-1)
    for value in np.unique(labels[labels > 0]):
        chosen = labels == value
        colour = np.array(to_rgb(_LABEL_COLOURS.get(int(value), COLOURS[int(value) % len(COLOURS)])))
        colours[chosen] = (1 - opacity) * colours[chosen] + opacity * colour
    return colours


def _box_of(image: Volume) -> tuple[slice, slice]:
    """Rows and columns of a slice that hold anything, with a margin of three pixels."""
    slices = []
    for axis in (1, 0):
        filled = np.flatnonzero(image.any(axis=axis))
        slices.append(slice(max(filled[0] - 3, 0), filled[-1] + 4) if filled.size else slice(None))
    return slices[0], slices[1]


def segmentation_figure(
    rows: Sequence[tuple[str, Volume, Mapping[str, Volume]]],
    *,
    label_names: Mapping[int, str],
    title: str = "",
) -> Figure:
    """Segmentations side by side, a row per case: the image, then the image under each segmentation.

    The slice shown is the one with the largest area in the first segmentation of the row, or the central one where
    that is empty, cropped to the head.

    Args:
        rows: (name of the case, image (z, y, x), name of a segmentation -> labels (z, y, x)) per case.
        label_names: label value -> name in the legend.
        title: heading.
    """
    columns = 1 + max(len(segmentations) for _, _, segmentations in rows)
    figure = Figure(figsize=(2.7 * columns, 2.7 * len(rows) + 0.7), layout="constrained")
    grid = np.reshape(figure.subplots(len(rows), columns), (len(rows), columns))
    for line, (case, image, segmentations) in zip(grid, rows):
        first = next(iter(segmentations.values()))
        areas = (first > 0).sum(axis=(1, 2))
        z = int(areas.argmax()) if areas.any() else image.shape[0] // 2
        window = window_of(image[image != 0]) if image.any() else (0.0, 1.0)
        box = _box_of(image[z])
        pictures = {"image": np.zeros_like(first), **segmentations}
        for axes, (name, labels) in zip(line, pictures.items()):
            axes.imshow(_overlaid(image[z][box], labels[z][box], window), interpolation="nearest")
            axes.set_title(name, fontsize=9)
        line[0].set_ylabel(case, fontsize=8)
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
    handles = [Patch(color=_LABEL_COLOURS.get(value, _BLANK), label=name) for value, name in label_names.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    return figure


def scores_figure(
    results: Mapping[str, Mapping[str, Any]], *, measure: str = "dice", ylabel: str = "Dice", title: str = ""
) -> Figure:
    """Bars of the mean score per region and method, with the bootstrap interval and a dot per case.

    Args:
        results: name of a method -> its scores, as in `bdfm_nnunet.results.RunResult`, all over the same regions.
        measure: the score to show, "dice" or "hd95_mm".
        ylabel: name and unit of the score.
        title: heading.
    """
    regions = list(next(iter(results.values()))["summary"])
    width = 0.8 / len(results)
    figure = Figure(figsize=(2.0 + 1.9 * len(regions), 3.8), layout="constrained")
    axes = figure.subplots()
    for number, (method, result) in enumerate(results.items()):
        colour = COLOURS[number % len(COLOURS)]
        for place, region in enumerate(regions):
            x = place + (number - (len(results) - 1) / 2) * width
            s = result["summary"][region][measure]
            bounds = [[s["mean"] - s["low"]], [s["high"] - s["mean"]]]
            label = method if place == 0 else None
            axes.bar(x, s["mean"], width * 0.9, color=colour, alpha=0.45, label=label)
            axes.errorbar(x, s["mean"], yerr=np.maximum(bounds, 0), color="black", capsize=4, lw=1.2)
            scores = [case["regions"][region][measure] for case in result["cases"]]
            spread = np.linspace(-0.25, 0.25, len(scores)) * width if len(scores) > 1 else np.zeros(1)
            axes.plot(x + spread, scores, "o", color=colour, markersize=3.5, markeredgecolor="white", mew=0.4)
    axes.set_xticks(range(len(regions)), [region.replace("_", " ") for region in regions])
    axes.set_ylabel(ylabel)
    if measure == "dice":
        axes.set_ylim(0, 1.02)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    axes.set_title(title, fontsize=10)
    return figure
