"""Fixtures for the whole suite. What is costly is made once, when the first test asks for it."""

import gc
import multiprocessing
import multiprocessing.dummy
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.nnunet_folders import VARIABLES

SHAPE, SPACING = (40, 48, 40), 4.0


_get_context = multiprocessing.get_context


def threads_for_spawn(method: str | None = None) -> Any:
    return multiprocessing.dummy if method == "spawn" else _get_context(method)


def point_to(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in VARIABLES:
        (root / variable).mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(variable, str(root / variable))
    # Everything in this process: worker processes cost seconds each on a small machine.
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    monkeypatch.setenv("nnUNet_compile", "f")
    monkeypatch.delenv("BDFM_WEIGHTS", raising=False)
    monkeypatch.delenv("BDFM_LOGGERS", raising=False)
    return root


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory) -> Path:
    """A folder that the first process of the tests fills, copied for each of them, as tests add variants to it."""
    own = factory.mktemp(name)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(own)
        return own
    shared = factory.getbasetemp().parent / name
    with FileLock(f"{shared}.lock"):
        if not shared.is_dir():
            unfinished = factory.mktemp(f"{name}_unfinished")
            make(unfinished)
            unfinished.rename(shared)
    return shutil.copytree(shared, own, dirs_exist_ok=True)


@pytest.fixture(scope="session")
def brats_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled made-up cases of five patients in the layout of BraTS 2023 GLI, 40 x 48 x 40 at 4 mm. Read only."""

    def make(root: Path) -> None:
        make_cohort(root, cases=6, seed=11, spacing=SPACING, shape=SHAPE, second_visits=1)

    return made_once("brats_tree", make, tmp_path_factory)


@pytest.fixture
def nnunet_dirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds empty nnUNet_raw, nnUNet_preprocessed and nnUNet_results, named by the environment.

    nnU-Net 2.8.1 reads these variables when it uses them, so it does not matter whether it is imported already.
    """
    return point_to(tmp_path, monkeypatch)


@dataclass(frozen=True)
class Prepared:
    """Data sets converted, planned and preprocessed under `root`.

    Attributes:
        root: holds the three folders of nnU-Net.
        labelled: number of the labelled data set.
        unlabelled: number of the same cases with brain masks as labels.
        plans: name of the plans of both; Swin, for a very small memory target.
    """

    root: Path
    labelled: int = 502
    unlabelled: int = 501
    plans: str = "BDFMPlans"

    def folder(self, variable: str, dataset_id: int) -> Path:
        """The folder of a data set under nnUNet_raw or nnUNet_preprocessed."""
        (folder,) = (self.root / variable).glob(f"Dataset{dataset_id:03d}_*")
        return folder


@pytest.fixture(scope="session")
def _prepared_once(brats_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    from bdfm_nnunet.dataset_conversion import convert
    from bdfm_nnunet.plans import plan_dataset

    def make(root: Path) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            point_to(root, monkeypatch)
            # nnU-Net starts a new Python per pool, which imports torch for ten seconds or more; threads do for six
            # cases.
            monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
            for dataset_id, unlabelled in ((Prepared.unlabelled, True), (Prepared.labelled, False)):
                convert("brats2023-gli", brats_tree, dataset_id=dataset_id, unlabelled=unlabelled)
                plan_dataset(dataset_id, network="swin", gpu_memory=0.05, plans_name=Prepared.plans, workers=1)

    return Prepared(made_once("prepared", make, tmp_path_factory))


@pytest.fixture
def prepared(_prepared_once: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The prepared data sets, with the environment pointing at them and at an empty nnUNet_results of the test's own.

    Add variants under names of your own (`add_variant`); whatever else a test changes there, others see.
    """
    return _with_results(_prepared_once, tmp_path / "nnUNet_results", monkeypatch)


@pytest.fixture(scope="module")
def prepared_of_module(_prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The same for what a module makes once for all of its tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _with_results(_prepared_once, tmp_path_factory.mktemp("module") / "nnUNet_results", monkeypatch)


def _with_results(prepared: Prepared, results: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    point_to(prepared.root, monkeypatch)
    results.mkdir()
    monkeypatch.setenv("nnUNet_results", str(results))
    return prepared


@pytest.fixture(scope="session")
def _sequences_once(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    from tests.sequence_cohort import NUMBER, prepare

    def make(root: Path) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            point_to(root, monkeypatch)
            prepare(tmp_path_factory.mktemp("fmriprep"), root / "nnUNet_preprocessed", Prepared.plans)

    return Prepared(made_once("sequences", make, tmp_path_factory), labelled=NUMBER, unlabelled=NUMBER)


@pytest.fixture
def sequences(_sequences_once: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The tiny cohort of 4-D runs of `tests.sequence_cohort`, converted and planned; otherwise as `prepared`."""
    return _with_results(_sequences_once, tmp_path / "nnUNet_results", monkeypatch)


@pytest.fixture(scope="module")
def sequences_of_module(_sequences_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The same for what a module makes once for all of its tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _with_results(_sequences_once, tmp_path_factory.mktemp("module") / "nnUNet_results", monkeypatch)


LONGEST_FIRST = ("trainers/test_run_tasks", "trainers/test_subjects", "trainers/", "training/", "tasks/", "benchmarks/")
"""Files that take longest, so that no process has a long one left when the other has done; images and runs in turn."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the files of `LONGEST_FIRST`."""
    folder = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(folder).as_posix()
        return next((n for n, start in enumerate(LONGEST_FIRST) if path.startswith(start)), len(LONGEST_FIRST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what stays to the end: modules, and thousands of tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test draws the same numbers from the global generators, whichever ran before it in this process.

    `torch.manual_seed` would also note who called it for every kind of device, which takes longer than most tests.
    nnU-Net forks twelve processes each time it lists the images of a data set, which takes seconds; here it takes
    threads.
    """
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (for code that uses the global generator)
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)
    if (module := sys.modules.get("nnunetv2.utilities.utils")) is not None:
        module.Pool = multiprocessing.dummy.Pool  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """One thread: sums over several are added up in an order that may differ in the last bit from run to run."""
    import torch

    torch.set_num_threads(1)


def leave_out_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures at the end of an epoch: they cost more than the steps."""
    monkeypatch.setattr(
        "nnunetv2.training.logging.nnunet_logger.LocalLogger.plot_progress_png", lambda logger, folder: None
    )
    for name in ("progress_figure", "reconstruction_figure", "save_figure"):
        monkeypatch.setattr(f"bdfm_nnunet.tasks.pretraining.{name}", lambda *data, **settings: None)


@pytest.fixture
def figures() -> None:
    """Asks for the figures of each epoch, which are drawn for whoever looks at them, and in fixtures of modules."""


@pytest.fixture(autouse=True)
def _figures_for_those_who_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, asked = set(request.path.parts), set(request.fixturenames)
    trains = {"tasks", "trainers", "training"} & parts or ("objectives" in parts and "prepared" in asked)
    if trains and "figures" not in asked:
        leave_out_figures(monkeypatch)
