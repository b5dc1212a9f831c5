"""Energy by counters of a made-up machine."""

import ctypes
import gc
import threading
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.results import energy_meters
from bdfm_nnunet.results.energy_meters import EnergyMeter, GpuCounter, ProcessorCounter

RANGE = 1_000_000


def _zone(root: Path, folder: str, name: str, energy: int) -> Path:
    zone = root / folder
    zone.mkdir(parents=True)
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", RANGE)):
        (zone / file).write_text(f"{value}\n")
    return zone


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, one with memory; the whole board, a core and a second view of a package are counted elsewhere."""
    for folder, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        _zone(tmp_path, folder, name, 500_000)
    return tmp_path


def _set(root: Path, folder: str, energy: int) -> None:
    (root / folder / "energy_uj").write_text(str(energy))


def test_packages_and_memory_are_added_up_and_begin_anew(powercap: Path) -> None:
    counter = ProcessorCounter(powercap)
    assert counter.joules() == 0.0 and not counter.fault
    for folder in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        _set(powercap, folder, 900_000)
    _set(powercap, "intel-rapl:0", 700_000)
    _set(powercap, "intel-rapl:0:1", 600_000)
    assert counter.joules() == pytest.approx(0.3)
    _set(powercap, "intel-rapl:0", 100_000)  # past the range
    assert counter.joules() == pytest.approx(0.3 + 0.4)


def test_a_thread_reads_as_long_as_somebody_wants_to_know(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_meters, "SAMPLE_SECONDS", 0.001)
    read, before = threading.Event(), set(threading.enumerate())
    sample = energy_meters._Zones.sample
    monkeypatch.setattr(energy_meters._Zones, "sample", lambda zones: (sample(zones), read.set()))
    counter = ProcessorCounter(powercap)
    (thread,) = set(threading.enumerate()) - before
    assert read.wait(5) and counter.joules() == 0.0
    del counter
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_no_counter_is_unknown_and_not_zero(tmp_path: Path) -> None:
    found = EnergyMeter(powercap=tmp_path / "none").read()
    assert found.as_dict() == {
        "processors_wh": None, "gpus_wh": None, "unknown": ["processors: the system has no counters"],
    }  # fmt: skip
    _zone(tmp_path, "intel-rapl:0", "psys", 0)
    assert ProcessorCounter(tmp_path).joules() is None
    assert ProcessorCounter(tmp_path).fault == "the system counts none"


def test_counters_for_the_administrator_alone(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> int:
        raise PermissionError(path)

    monkeypatch.setattr(energy_meters, "_whole", refuse)
    found = EnergyMeter(powercap=powercap).read()
    assert found.processors_wh is None
    assert found.unknown == ("processors: the system lets only its administrator read the counters",)


def test_a_counter_that_goes_away_is_unknown(powercap: Path) -> None:
    counter = ProcessorCounter(powercap)
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    assert counter.joules() is None and "can no longer be read" in counter.fault


class Driver:
    """NVIDIA's library, for GPUs that count or do not."""

    def __init__(self, millijoules: dict[str, int]) -> None:
        self.millijoules, self.handles = millijoules, list(millijoules)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        if uuid.decode() not in self.handles:
            return 2
        handle._obj.value = self.handles.index(uuid.decode()) + 1
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: ctypes.c_void_p, value: Any) -> int:
        counted = self.millijoules[self.handles[(handle.value or 1) - 1]]
        value._obj.value = max(counted, 0)
        return 3 if counted < 0 else 0


def test_gpus_count_from_when_the_run_began(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver({"GPU-a": 10_000, "GPU-b": 5_000})
    monkeypatch.setattr(energy_meters, "_management_library", lambda: driver)
    meter = EnergyMeter(["GPU-a", "GPU-b"], powercap=powercap)
    driver.millijoules |= {"GPU-a": 10_000 + 7_200_000, "GPU-b": 5_000 + 3_600_000}
    assert meter.read().gpus_wh == pytest.approx(3.0) and meter.read().processors_wh == 0.0
    assert EnergyMeter(["GPU-a", "GPU-c"], powercap=powercap).read().gpus_wh is None  # half a sum is none


@pytest.mark.parametrize(
    ("uuid", "library", "why"),
    [
        (None, Driver({}), "the GPU has no counter that is known"),
        ("GPU-old", Driver({"GPU-old": -1}), "the GPU does not count it"),
        ("MIG-1", Driver({"GPU-a": 1}), "the GPU does not count it"),
    ],
)
def test_gpus_that_do_not_tell(uuid: str | None, library: Driver, why: str) -> None:
    counter = GpuCounter(uuid, library)
    assert counter.joules() is None and counter.fault == why


def test_without_a_driver_and_on_several_machines(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_meters, "_management_library", lambda: None)
    assert EnergyMeter(["GPU-a"], powercap=powercap).read().unknown == ("GPUs: NVIDIA's driver is not found",)
    found = EnergyMeter(["GPU-a"], machines=2, powercap=powercap).read()
    assert (found.processors_wh, found.gpus_wh) == (None, None) and "several machines" in found.unknown[0]
