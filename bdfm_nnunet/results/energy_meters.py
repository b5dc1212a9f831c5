"""Energy that processors and GPUs have taken since a run began, where the system tells it; else unknown, never zero.

Processors: the counters of Linux in /sys/class/powercap (RAPL), of whole packages and their memory. GPUs: the counters
of NVIDIA's driver (NVML). Both count everything that runs on the device, not this program alone.
"""

import ctypes
import re
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
SAMPLE_SECONDS = 30.0
"""The counters of processors begin anew after some minutes at full power, so they are read this often."""
_ZONE = re.compile(r"intel-rapl:\d+(:\d+)?")  # AMD's have the same names
_COUNTED = re.compile(r"package-\d+|dram")
_JOULES_PER_WH = 3600.0


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Energy in watt-hours; None where it is unknown or nothing of the kind took part.

    Attributes:
        processors_wh: of the processors of this machine and their memory, whatever else they did.
        gpus_wh: of the GPUs that took part.
        unknown: why a part is unknown; sentences without full stops.

    Example:
        >>> Energy(gpus_wh=12.5, unknown=("processors: the system has no counters",)).as_dict()
        {'processors_wh': None, 'gpus_wh': 12.5, 'unknown': ['processors: the system has no counters']}
    """

    processors_wh: float | None = None
    gpus_wh: float | None = None
    unknown: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        parts = {"processors_wh": self.processors_wh, "gpus_wh": self.gpus_wh}
        return {**{k: None if v is None else round(v, 4) for k, v in parts.items()}, "unknown": list(self.unknown)}


class EnergyMeter:
    """A meter of all devices of a run, from when it is made.

    Args:
        gpus: identities of the GPUs that take part, as NVIDIA's driver names them ("GPU-..."); None for one whose
            identity is unknown.
        machines: number of machines of the run; the counters of others cannot be read.
        powercap: folder of the counters of processors.

    Example:
        >>> EnergyMeter(powercap=Path("elsewhere")).read().unknown
        ('processors: the system has no counters',)
    """

    def __init__(self, gpus: Sequence[str | None] = (), *, machines: int = 1, powercap: Path = POWERCAP) -> None:
        self._elsewhere = machines > 1
        self._processors = None if self._elsewhere else ProcessorCounter(powercap)
        self._gpus = [] if self._elsewhere else [GpuCounter(each) for each in gpus]
        self._any_gpu = bool(gpus)

    def read(self) -> Energy:
        """Return the energy so far."""
        if self._processors is None:
            return Energy(unknown=("the run takes several machines, of which only one can be read",))
        joules = {"processors": self._processors.joules(), "GPUs": _sum([each.joules() for each in self._gpus])}
        reasons = {"processors": self._processors.fault, "GPUs": next((e.fault for e in self._gpus if e.fault), "")}
        wanted = ("processors", "GPUs") if self._any_gpu else ("processors",)
        hours = {name: None if value is None else value / _JOULES_PER_WH for name, value in joules.items()}
        return Energy(
            processors_wh=hours["processors"],
            gpus_wh=hours["GPUs"] if self._any_gpu else None,
            unknown=tuple(f"{name}: {reasons[name]}" for name in wanted if hours[name] is None),
        )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


# ----------------------------------------------------------------------------------------------------- processors


@dataclass
class _Zone:
    """A counter in microjoules that begins anew at its range."""

    path: Path
    range: int
    last: int
    total: int = 0

    def sample(self) -> None:
        now = _whole(self.path / "energy_uj")
        self.total += now - self.last if now >= self.last else now - self.last + self.range
        self.last = now


@dataclass
class _Zones:
    """The counters of all processors, read by one thread or the other."""

    zones: list[_Zone]
    lock: Any = field(default_factory=threading.Lock)
    fault: str = ""

    def sample(self) -> None:
        with self.lock:
            try:
                for zone in self.zones:
                    zone.sample()
            except (OSError, ValueError) as error:
                self.fault = f"a counter can no longer be read ({type(error).__name__})"


class ProcessorCounter:
    """The energy of all processor packages of this machine, and of their memory where it is counted apart.

    A thread reads the counters now and then, if there are any, until this object is gone.

    Args:
        root: folder of the counters.

    Attributes:
        fault: why the energy is unknown; empty where it is known.

    Example:
        >>> ProcessorCounter(Path("elsewhere")).joules() is None
        True
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = _Zones([])
        try:
            self._zones.zones += [_zone(path) for path in sorted(root.iterdir()) if _is_counted(path)]
            self._zones.fault = "" if self._zones.zones else "the system counts none"
        except PermissionError:
            self._zones.fault = "the system lets only its administrator read the counters"
        except (OSError, ValueError):
            self._zones.fault = "the system has no counters"
        if not self._zones.fault:
            gone = threading.Event()
            weakref.finalize(self, gone.set)
            threading.Thread(target=_keep_sampling, args=(self._zones, gone), daemon=True).start()

    @property
    def fault(self) -> str:
        """Why the energy is unknown; empty where it is known."""
        return self._zones.fault

    def joules(self) -> float | None:
        """Return the energy so far; None where it is unknown."""
        if not self.fault:
            self._zones.sample()
        return None if self.fault else sum(zone.total for zone in self._zones.zones) / 1e6


def _keep_sampling(zones: _Zones, gone: threading.Event) -> None:
    while not gone.wait(SAMPLE_SECONDS) and not zones.fault:
        zones.sample()


def _is_counted(path: Path) -> bool:
    return _ZONE.fullmatch(path.name) is not None and bool(_COUNTED.fullmatch((path / "name").read_text().strip()))


def _zone(path: Path) -> _Zone:
    return _Zone(path, range=_whole(path / "max_energy_range_uj"), last=_whole(path / "energy_uj"))


def _whole(path: Path) -> int:
    return int(path.read_text())


# ------------------------------------------------------------------------------------------------------------ GPUs


class GpuCounter:
    """The energy of one NVIDIA GPU.

    Args:
        uuid: its identity, like "GPU-3f...".
        library: NVIDIA's management library; by default the driver's.

    Attributes:
        fault: why the energy is unknown; empty where it is known.

    Example:
        >>> GpuCounter(None).fault
        'the GPU has no counter that is known'
    """

    def __init__(self, uuid: str | None, library: Any = None) -> None:
        self.fault = ""
        self._first: int | None = None
        self._library = library if library is not None else _management_library()
        self._handle = ctypes.c_void_p()
        if uuid is None or self._library is None:
            self.fault = "the GPU has no counter that is known" if uuid is None else "NVIDIA's driver is not found"
            return
        found = self._library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._handle))
        self._first = self._read() if found == 0 else None
        if self._first is None:
            self.fault = "the GPU does not count it"

    def joules(self) -> float | None:
        """Return the energy so far; None where it is unknown."""
        now = None if self._first is None else self._read()
        return None if now is None or self._first is None else (now - self._first) / 1e3

    def _read(self) -> int | None:
        """Return millijoules since the driver was loaded."""
        value = ctypes.c_ulonglong()
        code = self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(value))
        return value.value if code == 0 else None


def _management_library() -> Any:
    """Return NVIDIA's management library, ready for use; None where there is none."""
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        if library.nvmlInit_v2() == 0 and library.nvmlDeviceGetTotalEnergyConsumption:
            return library
    return None
