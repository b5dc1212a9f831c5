"""The same tasks in this process, in processes of this machine, and on a cluster."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion import convert
from bdfm_nnunet.dataset_conversion.writing.scheduling import run_all
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json

GLI = "brats2023-gli"


def test_nothing_to_do() -> None:
    assert list(run_all([], abs, workers=4)) == []


def test_one_after_the_other() -> None:
    assert list(run_all([-1, 2, -3], abs)) == [1, 2, 3]


def test_in_processes() -> None:
    assert sorted(run_all(list(range(-9, 0)), abs, workers=2)) == list(range(1, 10))


def test_errors_of_a_task_come_through() -> None:
    with pytest.raises(FileNotFoundError):
        list(run_all(["/nowhere/at/all", "/nowhere/either"], os.stat, workers=2))


def test_a_worker_that_the_system_ends() -> None:
    with pytest.raises(InputError, match=r"fewer --workers, it continues where it stopped"):
        list(run_all([9, 9], os._exit, workers=2))


def test_cluster_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r'pip install "bdfm-nnunet\[cluster\]"'):
        list(run_all([1], abs, scheduler="tcp://127.0.0.1:1"))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://somewhere"])
def test_scheduler_that_is_not_there(address: str) -> None:
    pytest.importorskip("distributed")
    import dask

    quick = dask.config.set({"distributed.comm.timeouts.connect": "0.2s"})
    with quick, pytest.raises(InputError, match=rf"Dask scheduler {address} cannot be reached"):
        list(run_all([1], abs, scheduler=address))


def _die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return marker.name


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Dask scheduler and two worker processes."""
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path / "dask")
    ) as running:
        yield running


def test_a_cluster_gives_the_manifest_of_a_serial_run(tree: Any, raw: Path, cluster: Any) -> None:
    for patient in range(7):
        tree.add(patient)
    tree.file(tree.case_id(3), "seg").unlink()
    address = cluster.scheduler_address
    alone = convert(GLI, tree.root, dataset_id=501)
    together = convert(GLI, tree.root, dataset_id=502, scheduler=address)
    assert read_json(alone.manifest) == read_json(together.manifest)
    files = [
        {str(path.relative_to(report.folder)): path.read_bytes() for path in report.folder.rglob("*.nii.gz")}
        for report in (alone, together)
    ]
    assert files[0] == files[1] and len(files[0]) == 30


@pytest.mark.slow
def test_workers_that_die(tmp_path: Path, cluster: Any) -> None:
    address = cluster.scheduler_address
    markers = [tmp_path / "first", tmp_path / "second"]
    assert sorted(run_all(markers, _die_once, scheduler=address)) == ["first", "second"]
    with pytest.raises(InputError, match="died over and over"):
        list(run_all([1], os._exit, scheduler=address))
    import distributed

    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)  # a cluster that is closed while a worker starts anew complains


@pytest.mark.slow
def test_a_scheduler_that_is_lost(tmp_path: Path, cluster: Any) -> None:
    import dask

    address = cluster.scheduler_address
    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}):
        results = run_all([0.01] + [30.0] * 3, time.sleep, scheduler=address)
        assert next(results) is None
        cluster.close()
        with pytest.raises(InputError, match="cannot be reached"):
            list(results)
