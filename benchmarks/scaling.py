"""How the cost of a pre-training step grows with the volume and with the batch: seconds, peak memory and FLOPs.

The step and its floor are those of benchmarks/step.py, "default" arms: the published encoder, our decoders and losses.
Each point has separate processes, one in fp32 and, where the processor has units for it, one in bf16, which take
turns; the points follow one another. Memory is the most that a process held beyond what loading the libraries took; on
CUDA the most that was allocated.

    python benchmarks/scaling.py [--quick] [--sizes 32,64,96,128] [--batches 1,2,4] [--device cuda]
"""

import argparse
from contextlib import ExitStack
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from step import costs_of, floor_of

from bdfm_nnunet.reports.figures import COLOURS
from floors import left_out, matrix_rate, memory_rate, types_for
from harness import Result, Served, Spread, Table, alternate, numbers, options, parse, prose

FIGURE = "scaling.png"
Point = dict[str, Any]


def measure(size: int, batch: int, rates: dict[str, float], settings: argparse.Namespace) -> list[Point]:
    """Measure seconds, bytes, FLOPs and floor of a step, one point for each type of numbers."""
    types = types_for(settings.device)
    with ExitStack() as stack:
        arms = {}
        for name in types:
            arguments = ["--arm", f"default {name}", "--batch", str(batch), "--size", str(size)]
            arms[name] = Served(Path(__file__).with_name("step.py"), *arguments, "--device", settings.device)
            stack.callback(arms[name].kill)
        times = alternate(arms, rounds=settings.rounds)
        ends = {name: arm.close() for name, arm in arms.items()}
    points = []
    for name in types:
        flops, _, floor = floor_of(costs_of("default", name, batch, size, settings.device), name, rates)
        points.append(
            {
                "type": name, "size": size, "batch": batch, "seconds": times.seconds[name],
                "bytes": ends[name]["memory"], "flops": flops, "floor_seconds": floor,
            }
        )  # fmt: skip
    return points


def table(title: str, points: list[Point]) -> Table:
    """Return a table with a row for each point."""
    result = Table(title, ["voxels", "batch", "type", "s", "samples/s", "GiB", "TFLOP", "times the floor"])
    for point in points:
        seconds = Spread.of(point["seconds"])
        over = Spread.of([value / point["floor_seconds"] for value in point["seconds"]])
        row = [f"{point['size']}^3", str(point["batch"]), point["type"], str(seconds)]
        row += [f"{point['batch'] / seconds.median:.3g}", f"{point['bytes'] / 2**30:.2f}"]
        result.rows.append([*row, f"{point['flops'] / 1e12:.3g}", str(over)])
    return result


def _types(points: list[Point]) -> list[str]:
    return list(dict.fromkeys(point["type"] for point in points))


def exponents(points: list[Point], axis: str) -> str:
    """Return how seconds grow from one point to the next: the power of the voxels or of the batch."""
    if len({point[axis] for point in points}) < 2:
        return ""
    found = []
    for name in _types(points):
        line = [(point[axis] ** (3 if axis == "size" else 1), Spread.of(point["seconds"]).median) for point in points
                if point["type"] == name]  # fmt: skip
        powers = [log(b[1] / a[1]) / log(b[0] / a[0]) for a, b in pairwise(line)]
        found.append(f"{', '.join(f'{power:.2f}' for power in powers)} in {name}")
    what = "voxels" if axis == "size" else "batch"
    return f"From one row to the next, seconds grow with the {what} to the power of {'; '.join(found)}."


def draw(by_size: list[Point], by_batch: list[Point]) -> Figure:
    """Draw seconds beside their floor, and memory, against the volume and against the batch."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    panels = figure.subplots(2, 2, sharex="col")
    for column, (points, place, label) in enumerate(
        (
            (by_size, lambda point: point["size"] ** 3 / 1e6, "voxels, batch of 1"),
            (by_batch, lambda point: point["batch"], f"batch, {by_batch[0]['size']}³ voxels"),
        )
    ):
        for name, colour in zip(_types(by_size), COLOURS, strict=False):
            line = [point for point in points if point["type"] == name]
            x = [place(point) for point in line]
            spreads = [Spread.of(point["seconds"]) for point in line]
            y = [spread.median for spread in spreads]
            errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
            panels[0, column].errorbar(x, y, errors, fmt="o-", color=colour, capsize=3, label=name)
            floors = [point["floor_seconds"] for point in line]
            panels[0, column].plot(x, floors, "--", color=colour, label=f"{name}, floor")
            memory = [point["bytes"] / 2**30 for point in line]
            panels[1, column].plot(x, memory, "o-", color=colour, label=name)
        shown = {place(point): f"{point['size']}³" if column == 0 else str(point["batch"]) for point in points}
        panels[1, column].set_xticks([*shown], [*shown.values()])
        panels[1, column].set_xlabel(label)
    for panel in panels.flat:
        panel.set_ylim(0, 1.08 * panel.dataLim.y1)
        panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("seconds a step")
    panels[1, 0].set_ylabel("GiB")
    panels[0, 0].legend()
    return figure


def main() -> None:
    """Measure along both axes and write the result."""
    parser = options(__doc__, rounds=3)
    parser.add_argument("--sizes", type=numbers, default=[32, 64, 96, 128], help="voxels per axis, batch of 1")
    parser.add_argument("--batches", type=numbers, default=[1, 2, 4], help="samples, at --size")
    parser.add_argument("--size", type=int, default=96, help="voxels per axis of the batches (default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    settings = parse(parser, quick={"rounds": 2, "sizes": [32, 64, 96], "batches": [1, 2]})
    rates = {name: matrix_rate(type_, device=settings.device) for name, type_ in types_for(settings.device).items()}
    rates["bytes"] = memory_rate(device=settings.device)
    wanted = [(size, 1) for size in settings.sizes], [(settings.size, batch) for batch in settings.batches]
    measured = {point: measure(*point, rates, settings) for point in dict.fromkeys(wanted[0] + wanted[1])}
    by_size, by_batch = ([found for point in points for found in measured[point]] for points in wanted)
    result = Result("Growth with volume and batch", prose(__doc__), vars(settings), ("torch", "numpy", "matplotlib"))
    result.raw = {"rates": rates, "by_size": by_size, "by_batch": by_batch}
    for title, points, axis in (("Volume", by_size, "size"), ("Batch", by_batch, "batch")):
        result.tables.append(table(title, points))
        result.tables[-1].note = f"{exponents(points, axis)} {left_out(settings.device)}".strip()
    result.add_figure(
        draw(by_size, by_batch), FIGURE, "Seconds and peak memory of a step against volume and batch, beside the floor"
    )
    result.write(settings.json)


if __name__ == "__main__":
    main()
