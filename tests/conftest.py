"""Fixtures for the whole suite. What is costly is made once, when the first test asks for it."""

import multiprocessing
import multiprocessing.dummy
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="session")
def brats_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six labelled made-up cases of five patients in the layout of BraTS 2023 GLI, 40 x 48 x 40 at 4 mm. Read only."""
    root = tmp_path_factory.mktemp("brats_tree")
    make_cohort(root, cases=6, seed=11, spacing=SPACING, shape=SHAPE, second_visits=1)
    return root


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

    prepared = Prepared(tmp_path_factory.mktemp("prepared"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(prepared.root, monkeypatch)
        # nnU-Net starts a new Python per pool, which imports torch for ten seconds or more; threads do for six cases.
        monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
        for dataset_id, unlabelled in ((prepared.unlabelled, True), (prepared.labelled, False)):
            convert("brats2023-gli", brats_tree, dataset_id=dataset_id, unlabelled=unlabelled)
            plan_dataset(dataset_id, network="swin", gpu_memory=0.05, plans_name=prepared.plans, workers=1)
    return prepared


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

    cohort = Prepared(tmp_path_factory.mktemp("sequences"), labelled=NUMBER, unlabelled=NUMBER)
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(cohort.root, monkeypatch)
        prepare(tmp_path_factory.mktemp("fmriprep"), cohort.root / "nnUNet_preprocessed", cohort.plans)
    return cohort


@pytest.fixture
def sequences(_sequences_once: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The tiny cohort of 4-D runs of `tests.sequence_cohort`, converted and planned; otherwise as `prepared`."""
    return _with_results(_sequences_once, tmp_path / "nnUNet_results", monkeypatch)


@pytest.fixture(scope="module")
def sequences_of_module(_sequences_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The same for what a module makes once for all of its tests."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield _with_results(_sequences_once, tmp_path_factory.mktemp("module") / "nnUNet_results", monkeypatch)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Each test draws the same numbers from the global generators, whichever ran before it in this process.

    nnU-Net forks twelve processes each time it lists the images of a data set, which takes seconds; here it takes
    threads.
    """
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (for code that uses the global generator)
    torch.manual_seed(0)
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
