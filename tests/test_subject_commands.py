"""Subject-level trainings with nnU-Net's own command: killed and continued, and by two processes as by one."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared, point_to
from tests.console_scripts import Bench, kill_once_there_is
from tests.subject_cohort import with_targets

pytestmark = pytest.mark.slow

LENGTH = {
    "batch_size": 4,
    "training.epochs": 3,
    "training.iterations_per_epoch": 4,
    "training.save_every": 1,
    "training.workers": 1,
    "finetuning.mirror_axes": [2],
    "finetuning.most_crops": 2,
}
CLASSIFICATION = "nnUNetTrainerBDFMClassification"
KINDS = (CLASSIFICATION, "nnUNetTrainerBDFMRegression", "nnUNetTrainerBDFMSurvival")
COX = {"finetuning.survival_loss": "cox"}


@pytest.fixture(scope="module")
def bench(_prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Any:
    own = with_targets(_prepared_once, tmp_path_factory.mktemp("subject_commands"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(own.root, monkeypatch)
        plans = own.folder("nnUNet_preprocessed", own.unlabelled) / f"{own.plans}.json"
        # stochastic depth draws for each process on its own
        plans.write_text(plans.read_text().replace('"drop_path_rate": 0.1', '"drop_path_rate": 0.0'))
        for variant in ("whole", "killed", "two"):
            add_variant(own.unlabelled, variant=variant, settings=LENGTH)
        for variant in ("cox_whole", "cox_two"):
            add_variant(own.unlabelled, variant=variant, settings=LENGTH | COX)
        yield Bench(own, own.root / "nnUNet_results")


def _training(bench: Bench, variant: str, trainer: str) -> list[object]:
    return bench.training(bench.prepared.unlabelled, variant, trainer)


def _folder(bench: Bench, variant: str, trainer: str) -> Path:
    return bench.folder(bench.prepared.unlabelled, variant, trainer)


def _curves(folder: Path) -> dict[str, Any]:
    curves = json.loads((folder / "training_summary.json").read_text())["curves"]
    return {name: values for name, values in curves.items() if name != "seconds"}


def _assert_same(folder: Path, other: Path) -> None:
    ours, theirs = _curves(folder), _curves(other)
    assert set(ours) == set(theirs) and {len(values) for values in ours.values()} == {3}
    for name, values in theirs.items():  # the command uses all cores, so sums may differ in the last bit
        assert ours[name] == pytest.approx(values, rel=1e-4), name
    tables = [read_predictions(each / "validation" / "subjects.csv") for each in (folder, other)]
    assert tables[0].cases == tables[1].cases and set(tables[0].columns) == set(tables[1].columns)


@pytest.mark.parametrize("trainer", KINDS)
def test_killed_it_continues_to_the_same_curves(trainer: str, bench: Bench) -> None:
    bench.run("nnUNetv2_train", *_training(bench, "whole", trainer))
    folder = _folder(bench, "killed", trainer)
    with bench.start("nnUNetv2_train", *_training(bench, "killed", trainer)) as process:
        kill_once_there_is(folder / "checkpoint_latest.pth", process)
    assert not (folder / "checkpoint_final.pth").exists()
    bench.run("nnUNetv2_train", *_training(bench, "killed", trainer), "--c")
    _assert_same(folder, _folder(bench, "whole", trainer))


@pytest.mark.parametrize(("trainer", "variant"), [(CLASSIFICATION, "two"), (KINDS[2], "cox_two")])
def test_two_processes_train_as_one(trainer: str, variant: str, bench: Bench) -> None:
    """With Cox's loss, which compares the cases of the whole batch, too."""
    alone = variant.replace("two", "whole")
    if not _folder(bench, alone, trainer).is_dir():
        bench.run("nnUNetv2_train", *_training(bench, alone, trainer))
    words = ["--standalone", "--nproc-per-node", 2, "-m", "bdfm_nnunet.train", *_training(bench, variant, trainer)]
    bench.run("torchrun", *words, OMP_NUM_THREADS="1")
    _assert_same(_folder(bench, variant, trainer), _folder(bench, alone, trainer))
