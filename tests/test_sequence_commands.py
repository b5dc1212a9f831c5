"""Pre-training on 4-D runs with nnU-Net's own command: killed and continued, and by two processes as by one."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared
from tests.console_scripts import Bench, kill_once_there_is

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerNeuroSTORM"
LENGTH = {
    "batch_size": 3,
    "training.epochs": 3,
    "training.iterations_per_epoch": 3,
    "training.val_iterations_per_epoch": 1,
    "training.save_every": 1,
    "training.workers": 1,
    "training.initial_lr": 0.003,
    "pretraining.mask_window": [2, 2, 2, 2],
}


@pytest.fixture(scope="module")
def bench(sequences_of_module: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    for variant in ("whole", "killed", "two"):
        add_variant(700, variant=variant, settings=LENGTH)
    return Bench(sequences_of_module, tmp_path_factory.mktemp("sequence_commands"))


@pytest.fixture(scope="module")
def whole(bench: Bench) -> dict[str, Any]:
    """The curves of an undisturbed run."""
    bench.run("nnUNetv2_train", *bench.training(700, "whole", TRAINER))
    return _curves(bench.folder(700, "whole", TRAINER))


def _curves(folder: Path) -> dict[str, Any]:
    curves = json.loads((folder / "pretraining_summary.json").read_text())["curves"]
    return {name: values for name, values in curves.items() if name != "seconds"}


def _assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert set(ours) == set(theirs) and {len(values) for values in ours.values()} == {3}
    for name, values in theirs.items():  # the command uses all cores, so sums may differ in the last bit
        assert ours[name] == pytest.approx(values, rel=1e-4), name


def test_killed_it_continues_to_the_same_curves(bench: Bench, whole: dict[str, Any]) -> None:
    folder = bench.folder(700, "killed", TRAINER)
    with bench.start("nnUNetv2_train", *bench.training(700, "killed", TRAINER)) as process:
        kill_once_there_is(folder / "checkpoint_latest.pth", process)
    assert not (folder / "checkpoint_final.pth").exists()
    bench.run("nnUNetv2_train", *bench.training(700, "killed", TRAINER), "--c")
    _assert_same(_curves(folder), whole)


def test_two_processes_train_as_one(bench: Bench, whole: dict[str, Any]) -> None:
    """Of three samples, so that one process has more than the other."""
    words = ["--standalone", "--nproc-per-node", 2, "-m", "bdfm_nnunet.train", *bench.training(700, "two", TRAINER)]
    bench.run("torchrun", *words, OMP_NUM_THREADS="1")
    _assert_same(_curves(bench.folder(700, "two", TRAINER)), whole)
