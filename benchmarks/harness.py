"""What all benchmarks share: arms that take turns, floors measured on the same machine, and the file of results.

A script makes one `Result`, adds tables to it and writes it to `benchmarks/results/NAME.json`; `report.py` turns all of
these into docs/benchmarks.md. Only torch and NumPy are needed.
"""

import json
import os
import platform
import resource
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

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"

Arm = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of some rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of some values."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Times:
    """Seconds of each arm in each round; the arms took turns, so a round's ratio is not moved by a slow minute."""

    seconds: dict[str, list[float]]

    def of(self, arm: str) -> Spread:
        """Seconds of an arm."""
        return Spread.of(self.seconds[arm])

    def speedup(self, arm: str, reference: str) -> Spread:
        """How many times faster an arm is than the reference, over the rounds."""
        return Spread.of([b / a for a, b in zip(self.seconds[arm], self.seconds[reference], strict=True)])


def alternate(arms: Mapping[str, Arm], *, rounds: int, warmup: int = 1, before: Arm | None = None) -> Times:
    """Times the arms in turn.

    Args:
        arms: name to what is timed. On CUDA an arm must wait for the device.
        rounds: how often every arm is timed.
        warmup: how often every arm runs before.
        before: runs before each arm and is not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warmup, rounds):
        for name, arm in arms.items():
            if before is not None:
                before()
            start = time.perf_counter()
            arm()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return Times(seconds)


def in_new_process(script: str | Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Any:
    """Runs a Python script and returns the JSON in its last line of output: for peaks of memory and fresh caches."""
    environment = {**os.environ, **(environment or {})}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# --------------------------------------------------------------------------------------------------------- floors


def matrix_rate(dtype: Any, *, size: int = 3072, rounds: int = 5, device: str = "cpu", product: Any = None) -> float:
    """FLOP/s of the best of some products of large square matrices of a type.

    Args:
        dtype: of the matrices.
        size: rows and columns.
        rounds: how often they are multiplied.
        device: where.
        product: multiplies two matrices; by default `torch.matmul`.
    """
    import torch

    product = product or torch.matmul
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def multiply() -> None:
        product(left, right)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * size**3 / min(alternate({"product": multiply}, rounds=rounds).seconds["product"])


def memory_rate(*, megabytes: int = 512, rounds: int = 5, device: str = "cpu") -> float:
    """Bytes/s of the best of some copies: bytes read and bytes written count."""
    import torch

    source = torch.ones(megabytes << 18, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        if device != "cpu":
            torch.cuda.synchronize()

    return 2 * source.nbytes / min(alternate({"copy": copy}, rounds=rounds).seconds["copy"])


# -------------------------------------------------------------------------------------------------------- results


@dataclass
class Table:
    """Rows of a table, as they shall be read."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""


@dataclass
class Result:
    """All that one script found out.

    Attributes:
        title: heading in docs/benchmarks.md.
        about: what was compared, how, and what the figures mean; Markdown.
        settings: of the script.
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
        """What is written."""
        content = asdict(self)
        del content["packages"]
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in self.settings.items()}
        script = Path(sys.argv[0]).name
        return {
            **content,
            "command": " ".join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
            "settings": settings,
            "date": date.today().isoformat(),
            "machine": machine(),
            "versions": versions(self.packages),
        }

    def write(self, path: Path | None = None) -> Path:
        """Writes the result, by default to `benchmarks/results/` under the script's name, and prints its tables."""
        path = path or RESULTS / f"{Path(sys.argv[0]).stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_dict(), indent=2, default=_plain) + "\n", encoding="utf-8")
        for table in self.tables:
            print(f"\n{table.title}\n{markdown(table)}")
        print(f"\n{path}")
        return path


def markdown(table: Table) -> str:
    """The table with columns of even width."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Processor, memory, accelerator and threads."""
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
    """Versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Spread):
        return asdict(value)
    if isinstance(value, Times):
        return value.seconds
    if hasattr(value, "tolist"):
        return value.tolist()
    return str(value)
