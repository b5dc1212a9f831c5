"""Subject-level trainings on runs with nnU-Net's own command, and by two processes as by one."""

from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared, point_to
from tests.console_scripts import Bench
from tests.run_targets import with_run_targets

pytestmark = pytest.mark.slow

TRAINER = "nnUNetTrainerBDFMClassification"
LENGTH = {
    "batch_size": 2, "training.epochs": 2, "training.iterations_per_epoch": 2, "training.workers": 1,
    "finetuning.targets": "task", "finetuning.clips": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench(_sequences_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("run_commands")
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(root, monkeypatch)
        own = with_run_targets(_sequences_once, root)
        for variant in ("alone", "two"):
            add_variant(own.labelled, variant=variant, settings=LENGTH)
        yield Bench(own, root / "nnUNet_results")


def test_stock_command_and_two_processes(bench: Bench) -> None:
    bench.run("nnUNetv2_train", *bench.training(bench.prepared.labelled, "alone", TRAINER))
    words = bench.training(bench.prepared.labelled, "two", TRAINER)
    bench.run("torchrun", "--standalone", "--nproc-per-node", 2, "-m", "bdfm_nnunet.train", *words, OMP_NUM_THREADS="1")
    folders = [bench.folder(bench.prepared.labelled, variant, TRAINER) for variant in ("alone", "two")]
    tables = [read_predictions(Path(folder) / "validation" / "subjects.csv") for folder in folders]
    assert tables[0].cases == tables[1].cases and tables[0].columns
    for name, values in tables[0].columns.items():
        if values.dtype.kind == "f":
            assert tables[1].columns[name] == pytest.approx(values, abs=1e-3), name
