"""The stretches of work of which a run consists: one, or several where it was interrupted and taken up."""

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from bdfm_nnunet.results.code_version import code_sha256, commit
from bdfm_nnunet.results.energy_meters import EnergyMeter

_NUMBER = (float, None)
SHAPE = {
    "began?": (str, None),
    "hours": _NUMBER,
    "device?": (str, None),
    "devices?": (int, None),
    "processor?": (str, None),
    "cores?": (int, None),
    "count?": (int, None),
    "system?": (str, None),
    "versions?": ({str: (str, None)}, None),
    "code?": ({"sha256?": (str, None), "commit?": (str, None)}, None),
    "energy?": ({"processors_wh?": _NUMBER, "gpus_wh?": _NUMBER, "unknown?": [str]}, None),
}
_ENERGY = ("processors_wh", "gpus_wh")
UNKNOWN: Mapping[str, Any] = {"began": None, "hours": None, "device": None, "versions": None, "energy": None}
"""Work before the first session that is known."""


@dataclass(frozen=True, kw_only=True)
class UsedDevice:
    """A device on which networks run.

    Attributes:
        name: model of a GPU, else "cpu" or "mps".
        uuid: identity of a GPU, as its driver names it.
        machine: name of its machine, which no file tells.

    Example:
        >>> UsedDevice(name="cpu").is_gpu
        False
    """

    name: str
    uuid: str | None = None
    machine: str = ""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != "cpu"


class Session:
    """One stretch of work, from when this object is made.

    Args:
        devices: that take part; by default the processor alone.
        versions: of the software.

    Example:
        >>> found = Session(versions={"numpy": "2.0"}).as_dict()
        >>> found["device"], found["hours"], found["versions"]
        ('cpu', 0.0, {'numpy': '2.0'})
    """

    def __init__(
        self, devices: Sequence[UsedDevice] = (UsedDevice(name="cpu"),), *, versions: Mapping[str, str | None]
    ) -> None:
        self._devices, self._versions = tuple(devices), dict(versions)
        self._began, self._clock = datetime.now(timezone.utc), time.monotonic()
        gpus = [each.uuid for each in devices if each.is_gpu]
        self._meter = EnergyMeter(gpus, machines=len({each.machine for each in devices}))

    def as_dict(self) -> dict[str, Any]:
        """Return the session so far, in the form of `SHAPE`."""
        return {
            "began": self._began.isoformat(timespec="seconds"),
            "hours": round((time.monotonic() - self._clock) / 3600, 5),
            "device": ", ".join(dict.fromkeys(each.name for each in self._devices)),
            "devices": len(self._devices),
            "processor": processor(),
            "cores": _cores(),
            "system": f"{platform.system()} {platform.machine()}",
            "versions": self._versions,
            "code": {"sha256": code_sha256(), "commit": commit()},
            "energy": self._meter.read().as_dict(),
        }


@lru_cache(1)
def processor() -> str | None:
    """Return the model of the processor; None if the system does not tell.

    Example:
        >>> processor() == processor()
        True
    """
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ------------------------------------------------------------------------------------------------------ their sums


def merged(sessions: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return sessions of which those of one device and software are one, with their sums and their "count".

    Example:
        >>> first, second = ({"hours": hours, "device": "cpu", "versions": {}} for hours in (1.0, 0.5))
        >>> [(each["hours"], each["count"]) for each in merged([first, second, {"hours": 2.0, "device": "H100"}])]
        [(1.5, 2), (2.0, 1)]
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for each in sessions:
        groups.setdefault(_kind_of(each), []).append(each)
    return [_sum_of(group) for group in groups.values()]


def _kind_of(session: Mapping[str, Any]) -> str:
    """Return what is the same in sessions that are added up: everything but their amounts."""
    energy = session.get("energy") or {}
    amounts = {name: energy.get(name) is None for name in _ENERGY} | {"hours": session["hours"] is None}
    rest = {k: v for k, v in session.items() if k not in ("began", "hours", "energy", "count")}
    return json.dumps([rest, amounts, energy.get("unknown")], sort_keys=True)


def _beginning(session: Mapping[str, Any]) -> str:
    return str(session.get("began") or "")


def _sum_of(group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first: dict[str, Any] = dict(sorted(group, key=_beginning)[0])
    found = first | {"hours": total_hours(group).value, "count": sum(each.get("count") or 1 for each in group)}
    if first.get("energy"):
        found["energy"] = first["energy"] | {name: total_energy(group, name).value for name in _ENERGY}
    return found


@dataclass(frozen=True)
class Total:
    """A sum over sessions.

    Attributes:
        value: sum of what is known; None where nothing is.
        complete: whether it was known of every session.

    Example:
        >>> str(Total(1.5, True)), str(Total(1.5, False)), str(Total(None, False))
        ('1.5', 'at least 1.5', 'unknown')
    """

    value: float | None
    complete: bool

    def __str__(self) -> str:
        if self.value is None:
            return "unknown"
        return f"{'' if self.complete else 'at least '}{self.value:.3g}"


def total_hours(sessions: Sequence[Mapping[str, Any]]) -> Total:
    """Return the hours of all sessions.

    Example:
        >>> total_hours([{"hours": 1.0}, {"hours": 0.5}]), str(total_hours([UNKNOWN, {"hours": 0.5}]))
        (Total(value=1.5, complete=True), 'at least 0.5')
    """
    return _total([each["hours"] for each in sessions])


def total_energy(sessions: Sequence[Mapping[str, Any]], part: str) -> Total:
    """Return the watt-hours of all sessions.

    Args:
        sessions: of a run.
        part: "processors_wh" or "gpus_wh".

    Example:
        >>> str(total_energy([{"energy": {"gpus_wh": 300.0}}, {"energy": None}], "gpus_wh"))
        'at least 300'
    """
    return _total([(each.get("energy") or {}).get(part) for each in sessions])


def _total(values: Sequence[float | None]) -> Total:
    known = [value for value in values if value is not None]
    return Total(sum(known) if known else None, len(known) == len(values))
