"""`bdfm demo`: the whole way on a made-up cohort, with the commands of a real run.

Cohort -> convert -> plan -> pre-train -> a study of two arms, fine-tuned from it and from scratch with few labels ->
one folder with a summary and pictures. Every step but the first and the last is a separate command, as a user would
type it; `commands.sh` in the results holds them all.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_folders import trainer_search_path
from bdfm_nnunet.reports.demo_summary import DemoFiles, write_demo_page, write_summary
from bdfm_nnunet.reports.run_page import PAGE
from bdfm_nnunet.studies.study_tasks import PREDICTIONS, SCORES
from bdfm_nnunet.studies.subprocesses import Step, run_steps, write_script

logger = logging.getLogger(__name__)

RELEASE = "brats2023-gli"
PLANS, VARIANT, FOLD = "BDFMPlans", "demo", "0"
UNLABELLED, LABELLED, TEST = 901, 902, 903
PRETRAINER, TRAINER = "nnUNetTrainerBDFMPretrain", "nnUNetTrainerBDFM"
METHODS = ("from scratch", "fine-tuned")
_LENGTH = {"training.epochs": 1000, "training.iterations_per_epoch": 250}
_RATE = "training.initial_lr"
_MARKER = ".bdfm_demo"
_PARTS = ("work", "logs", "figures", "scores")


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """The size of the demonstration. The defaults are for two cores and seven minutes.

    Attributes:
        unlabelled_cases: scans for pre-training, a fifth of them held out.
        labelled_cases: scans for fine-tuning, a fifth of them for validation.
        test_cases: held-out scans for the comparison.
        spacing: voxel size in mm.
        shape: number of voxels; by default the field of view of BraTS.
        seed: seed of the cohort and of the parts of its labelled cases.
        network: what `bdfm plan --network` takes.
        gpu_memory: memory in GB that the plan may take; it decides the size of network, patch and batch.
        pretraining: settings of the pre-training configuration, as `bdfm plan --set` takes them.
        finetuning: settings that both fine-tuning and training from scratch use.
        device: what nnU-Net's `-device` takes.
    """

    unlabelled_cases: int = 20
    labelled_cases: int = 5
    test_cases: int = 8
    spacing: float = 2.5
    shape: tuple[int, int, int] | None = None
    seed: int = 2023
    network: str = "swin"
    gpu_memory: float = 0.25
    pretraining: tuple[tuple[str, Any], ...] = (
        ("training.epochs", 14),
        ("training.iterations_per_epoch", 40),
        ("training.val_iterations_per_epoch", 4),
        ("training.initial_lr", 1e-3),
        ("pretraining.picture_every", 5),
    )
    finetuning: tuple[tuple[str, Any], ...] = (
        ("training.epochs", 8),
        ("training.iterations_per_epoch", 25),
        ("training.val_iterations_per_epoch", 2),
        ("training.initial_lr", 1e-3),
        ("finetuning.output_prior", True),
    )
    device: str = "cpu"


# For tests: every step runs, nothing is learnt.
QUICK = DemoSettings(
    unlabelled_cases=5,
    test_cases=2,
    spacing=4.0,
    shape=(40, 48, 40),
    gpu_memory=0.5,
    pretraining=(
        ("training.epochs", 2),
        ("training.iterations_per_epoch", 2),
        ("training.val_iterations_per_epoch", 1),
        ("pretraining.picture_every", 1),
    ),
    finetuning=(
        ("training.epochs", 2),
        ("training.iterations_per_epoch", 2),
        ("training.val_iterations_per_epoch", 1),
    ),
)


def run_demo(*, out: Path, settings: DemoSettings | None = None, progress: bool | None = None) -> dict[str, Any]:
    """Run the demonstration.

    Args:
        out: folder of the results; results of an earlier demonstration in it are replaced.
        settings: size and lengths.
        progress: whether progress bars are shown; by default on a terminal only.

    Returns:
        What `summary.json` holds.

    Raises:
        InputError: `out` holds something else, or a step failed; the message names its log.
    """
    started = time.monotonic()
    settings = settings or DemoSettings()
    out = _prepare(out)
    work = out / "work"
    cores = _cores()
    logger.info("results go to %s; the lesions of this cohort are synthetic", out)
    _make_cohorts(work, settings, workers=cores if cores > 1 else 0, progress=progress)
    made = time.monotonic() - started
    environment = _environment(work, cores)
    groups = demo_steps(out, settings, workers=cores)
    about = "The commands of the demonstration on a made-up cohort with synthetic lesions."
    write_script(out / "commands.sh", groups, environment=environment, about=about)
    # half the cores: crops as small as these do not feed more threads, and wait for them instead
    threads = max(1, cores // 2)
    seconds = run_steps(groups, environment=environment, logs=out / "logs", threads=threads, progress=progress)
    _take_scores(out)
    summary = write_summary(
        _files(out), settings=asdict(settings), seconds={"make the cohort": made, **seconds}, started=started
    )
    logger.info("summary: %s; to look at in a browser: %s", out / "summary.md", write_demo_page(_files(out)))
    return summary


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(out: Path) -> Path:
    """Make an empty folder for the results; what an earlier demonstration left there is removed."""
    out = out.absolute()
    marker = out / _MARKER
    if out.exists() and not marker.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something that is no earlier demonstration: name an empty or a new folder")
    for part in _PARTS:
        shutil.rmtree(out / part, ignore_errors=True)
    for name in ("summary.md", "summary.json", "commands.sh", PAGE):
        (out / name).unlink(missing_ok=True)
    write_json(marker, {"made_by": "bdfm demo"})
    return out


def _make_cohorts(work: Path, settings: DemoSettings, *, workers: int, progress: bool | None) -> None:
    first = 0
    for name, cases in (
        ("unlabelled", settings.unlabelled_cases),
        ("labelled", settings.labelled_cases),
        ("test", settings.test_cases),
    ):
        make_cohort(
            work / "cohort" / name,
            cases=cases,
            seed=settings.seed,
            spacing=settings.spacing,
            shape=settings.shape,
            labelled=name != "unlabelled",
            first_patient=first,
            workers=workers,
            progress=progress,
        )
        first += cases


def _environment(work: Path, cores: int) -> dict[str, str]:
    return {
        "nnUNet_raw": str(work / "nnUNet_raw"),
        "nnUNet_preprocessed": str(work / "nnUNet_preprocessed"),
        "nnUNet_results": str(work / "nnUNet_results"),
        "nnUNet_extTrainer": trainer_search_path(),
        "nnUNet_n_proc_DA": "0" if cores <= 2 else "2",
        "nnUNet_def_n_proc": "1",  # also the threads of a prediction, so that two run side by side
        "nnUNet_compile": "f",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "Agg",
        "PYTHONUNBUFFERED": "1",
    }


def _raw(out: Path, dataset_id: int) -> Path:
    """Return the raw data set that `bdfm convert` makes; its name follows from the release."""
    from bdfm_nnunet.dataset_conversion import find_release

    name = find_release(RELEASE).dataset_name + ("Unlabelled" if dataset_id == UNLABELLED else "")
    return out / "work" / "nnUNet_raw" / f"Dataset{dataset_id}_{name}"


def _pretraining_folder(out: Path) -> Path:
    run = f"{PRETRAINER}__{PLANS}__{VARIANT}"
    return out / "work" / "nnUNet_results" / _raw(out, UNLABELLED).name / run / f"fold_{FOLD}"


def _files(out: Path) -> DemoFiles:
    test = _raw(out, TEST)
    return DemoFiles(
        out=out,
        pretraining=_pretraining_folder(out),
        images=test / "imagesTr",
        reference=test / "labelsTr",
        predictions={method: _prediction(out, method) for method in METHODS},
        scores={method: _scores(out, method) for method in METHODS},
    )


def _cell(out: Path, method: str) -> Path:
    """Return the folder of the study's task with the one label fraction and seed of an arm."""
    return _study_folder(out) / "tasks" / f"{_arm(method)}_100percent_seed0"


def _study_folder(out: Path) -> Path:
    return out / "work" / "study"


def _arm(method: str) -> str:
    return method.replace(" ", "_")


def _prediction(out: Path, method: str) -> Path:
    return _cell(out, method) / PREDICTIONS


def _scores(out: Path, method: str) -> Path:
    return out / "scores" / f"{_arm(method)}.json"


def _take_scores(out: Path) -> None:
    """Copy the scores of the test cases, as `bdfm evaluate` writes them, from the study."""
    for method in METHODS:
        for ending in (".json", ".csv"):
            target = _scores(out, method).with_suffix(ending)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile((_cell(out, method) / SCORES).with_suffix(ending), target)


def demo_steps(out: Path, settings: DemoSettings, *, workers: int) -> list[list[Step]]:
    """Return the commands, in groups that run side by side."""
    checkpoint = _pretraining_folder(out) / "checkpoint_final.pth"
    network = ("--network", settings.network, "--gpu-memory", str(settings.gpu_memory))
    return [
        [_convert(out, name, number) for name, number in _COHORTS.items()],
        [_plan("unlabelled", UNLABELLED, network, workers)],
        [_variant("unlabelled", UNLABELLED, settings.pretraining)],
        [Step("pre-train", _train(UNLABELLED, PRETRAINER, settings))],
        [_plan("labelled", LABELLED, ("--weights", str(checkpoint)), workers)],
        [_study(out, checkpoint, settings, jobs=min(len(METHODS), workers))],
    ]


_COHORTS = {"unlabelled": UNLABELLED, "labelled": LABELLED, "test": TEST}


def _convert(out: Path, name: str, dataset_id: int) -> Step:
    source = out / "work" / "cohort" / name
    mode = ("--unlabelled",) if name == "unlabelled" else ()
    command = ("bdfm", "convert", RELEASE, str(source), "-d", str(dataset_id), *mode, "--workers", "1")
    return Step(f"convert {name}", command)


def _plan(name: str, dataset_id: int, options: tuple[str, ...], workers: int) -> Step:
    command = ("bdfm", "plan", "-d", str(dataset_id), "-p", PLANS, *options, "--workers", str(workers))
    return Step(f"plan and preprocess {name}", command)


def _variant(name: str, dataset_id: int, values: tuple[tuple[str, Any], ...]) -> Step:
    command = ("bdfm", "plan", "-d", str(dataset_id), "-p", PLANS, "--variant", VARIANT, *_set(values))
    return Step(f"set lengths {name}", command)


def _set(values: Iterable[tuple[str, Any]]) -> list[str]:
    return [text for key, value in values for text in ("--set", f"{key}={json.dumps(value)}")]


def _train(dataset_id: int, trainer: str, settings: DemoSettings) -> tuple[str, ...]:
    what = (str(dataset_id), VARIANT, FOLD, "-tr", trainer, "-p", PLANS)
    return ("nnUNetv2_train", *what, "-device", settings.device)


def _study(out: Path, checkpoint: Path, settings: DemoSettings, *, jobs: int) -> Step:
    """Return the study of two arms, side by side where there are cores: as long and with the rate that settings say."""
    given = {**_LENGTH, _RATE: 1e-3, **dict(settings.finetuning)}
    steps, rate = math.prod(given.pop(name) for name in _LENGTH), given.pop(_RATE)
    scratch, tuned = map(_arm, METHODS)
    arms = ("--arm", scratch, "--arm", f"{tuned}=weights:{checkpoint}")
    size = ("--fractions", "100", "--seeds", "1", "--steps", str(steps), "--rates", str(rate))
    cases = ("--test", str(TEST), "--split-seed", str(settings.seed))
    command = ("bdfm", "study", "-d", str(LABELLED), "-p", PLANS, *cases, *size, *arms, *_set(given.items()))
    how = ("--device", settings.device, "--keep-models", "--jobs", str(jobs), "-o", str(_study_folder(out)))
    return Step("compare with training from scratch", (*command, *how))
