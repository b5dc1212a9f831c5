"""The harness of all benchmarks: arms that take turns, options, and the file of results.

A script makes one `Result`, adds tables to it and writes it to `benchmarks/results/NAME.json`; `report.py` turns all of
these into docs/benchmarks.md. Quick runs go to `build/benchmarks`, so that they never replace a result that is
reported. Only torch and NumPy are needed beside the package.
"""

import argparse
import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
QUICK_RESULTS = ROOT / "build" / "benchmarks"
FIGURES = ROOT / "docs" / "figures"

Arm = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return the spread of some values."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Times:
    """Seconds of each arm in each round; the arms took turns, so a round's ratio is not moved by a slow minute."""

    seconds: dict[str, list[float]]

    def of(self, arm: str) -> Spread:
        """Return the seconds of an arm."""
        return Spread.of(self.seconds[arm])

    def speedup(self, arm: str, reference: str) -> Spread:
        """Return how many times faster an arm is than the reference, over the rounds."""
        return Spread.of([b / a for a, b in zip(self.seconds[arm], self.seconds[reference], strict=True)])


def alternate(
    arms: Mapping[str, Arm],
    *,
    rounds: int,
    warmup: int = 1,
    before: Arm | None = None,
    clock: Callable[[], float] | None = None,
) -> Times:
    """Time the arms in turn.

    Args:
        arms: name to what is timed. On CUDA an arm must wait for the device.
        rounds: how often every arm is timed.
        warmup: how often every arm runs before.
        before: runs before each arm and is not timed.
        clock: tells the seconds, by default those on the wall; `time.process_time` tells those of the processor.
    """
    clock = clock or time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warmup, rounds):
        for name, arm in arms.items():
            if before is not None:
                before()
            start = clock()
            arm()
            if number >= 0:
                seconds[name].append(clock() - start)
    return Times(seconds)


class Served:
    """An arm in a separate process, which stays between the rounds: with its own allocator and its own peak memory.

    Args:
        script: a Python script that ends up in `serve`.
        arguments: what tells it which arm to serve.
        wait: until it is ready; otherwise the first call does, so that several start side by side.
    """

    def __init__(self, script: str | Path, *arguments: str, wait: bool = True) -> None:
        command = [sys.executable, str(script), *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._is_ready = False
        if wait:
            self.ready()

    def ready(self) -> None:
        """Wait until the process can run its arm."""
        if not self._is_ready:
            self._ask("")
            self._is_ready = True

    def __call__(self) -> None:
        """Run the arm once."""
        self.ready()
        self._ask("run\n")

    def close(self) -> Any:
        """End the process and return what its last line of JSON says."""
        self.ready()
        answer: Any = json.loads(self._ask("end\n"))
        self._process.communicate()
        return answer

    def kill(self) -> None:
        """End the process at once, if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()

    def _ask(self, text: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._process.communicate()
            raise RuntimeError(f"{' '.join(map(str, self._process.args))} ended with {self._process.returncode}")
        return answer


def serve(arm: Arm) -> int:
    """Run the arm whenever `Served`, the other end, asks for it. The script then prints a line of JSON.

    Returns:
        The most memory that this process has held, in bytes.
    """
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "end\n":
            break
        arm()
        print("done", flush=True)
    return peak_memory()


def peak_memory() -> int:
    """Return the most memory this process has held so far, in bytes.

    On Linux getrusage starts at the peak of the process that started this one, so the kernel is asked for our own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# -------------------------------------------------------------------------------------------------------- options


def options(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with what every script takes: --rounds, --quick and --json.

    Args:
        description: the script's docstring.
        rounds: how often every arm is timed unless the user says otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="how often every arm is timed (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a short run; its result goes to build/benchmarks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the result (default: benchmarks/results/NAME.json)")
    return parser


def parse(parser: argparse.ArgumentParser, *, quick: Mapping[str, Any]) -> argparse.Namespace:
    """Read the settings from the command line; `quick` are the defaults with --quick, which options still override."""
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


def prose(docstring: str | None) -> str:
    """Return a script's docstring without the command at its end, to be the `about` of its result."""
    return (docstring or "").partition("\n\n    ")[0].strip()


def numbers(text: str) -> list[int]:
    """Read numbers separated by commas, as an argparse type."""
    return [int(part) for part in text.split(",")]


# -------------------------------------------------------------------------------------------------------- results


@dataclass
class Table:
    """Rows of a table, as text for a reader."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""


@dataclass
class Result:
    """The result of one script.

    Attributes:
        title: heading in docs/benchmarks.md.
        about: what was compared, how, and what the figures mean; Markdown.
        settings: of the script; paths among them are not reported.
        packages: whose versions matter.
        tables: what was measured, for a reader.
        goals: (goal, measured, whether it was reached), for the summary at the top of docs/benchmarks.md.
        figures: (file in docs/figures, caption).
        raw: what was measured, for a program.
    """

    title: str
    about: str
    settings: dict[str, Any]
    packages: Sequence[str] = ("torch", "numpy")
    tables: list[Table] = field(default_factory=list)
    goals: list[tuple[str, str, bool]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return what is written; `_plain` turns what is no JSON type into one."""
        content = {name: value for name, value in vars(self).items() if name != "packages"}
        settings = {name: value for name, value in self.settings.items() if not isinstance(value, Path)}
        return {
            **content,
            "command": _command([name for name, value in self.settings.items() if isinstance(value, Path)]),
            "settings": settings,
            "date": date.today().isoformat(),
            "machine": machine(),
            "versions": versions(self.packages),
        }

    def add_figure(self, figure: Any, file: str, caption: str) -> Path:
        """Save a matplotlib figure: in docs/figures, or beside the result if that is not to be reported."""
        folder = FIGURES
        if self.settings.get("json") is not None:
            folder = Path(self.settings["json"]).parent
        elif self.settings.get("quick"):
            folder = QUICK_RESULTS / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / file, dpi=110)
        self.figures.append((file, caption))
        return folder / file

    def write(self, path: Path | None = None) -> Path:
        """Write the result and print its tables and goals.

        Args:
            path: the file; by default it has the script's name and lies in `benchmarks/results`, or in
                `build/benchmarks` where the settings have a true `quick`.
        """
        folder = QUICK_RESULTS if self.settings.get("quick") else RESULTS
        path = path or folder / f"{Path(sys.argv[0]).stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_dict(), indent=2, default=_plain) + "\n", encoding="utf-8")
        for table in self.tables:
            print(f"\n{table.title}\n{markdown(table)}")
        for goal, measured, reached in self.goals:
            print(f"{'reached' if reached else 'missed'}: {goal}: {measured}")
        print(f"\n{path}")
        return path


def _command(places: Sequence[str]) -> str:
    """Return what was typed, without the settings that say where something lies on this machine."""
    given = [*sys.argv[1:]]
    for option in (f"--{name.replace('_', '-')}" for name in places):
        if option in given:
            place = given.index(option)
            del given[place : place + 2]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given])


def markdown(table: Table) -> str:
    """Return the table as Markdown with columns of even width."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return processor, memory, accelerator and threads."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if "torch" in sys.modules:
        import torch

        facts["threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([names[0] if names else platform.processor() or "unknown", *known])


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Times):
        return value.seconds
    if isinstance(value, Spread | Table):
        return asdict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
