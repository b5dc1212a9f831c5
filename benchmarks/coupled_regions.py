"""A made-up cohort of 4-D runs whose answer is known: the coupling between networks of regions differs in two groups.

    python benchmarks/coupled_regions.py draw                  # data sets 721, 821 (the test) and 921 (no targets)
    python benchmarks/coupled_regions.py connectivity          # functional connectivity and ridge regression, SVM
    python benchmarks/coupled_regions.py plan                  # tiny plans of all three
    python benchmarks/coupled_regions.py pretrain 0 1 2 3 4
    python benchmarks/coupled_regions.py scratch 0 1 2 3 4     # fine-tuning without and with the pre-training
    python benchmarks/coupled_regions.py pretrained 0 1 2 3 4
    python benchmarks/coupled_regions.py frozen 0 1 2 3 4      # ridge regression on both encoders, without a training
    python benchmarks/coupled_regions.py table                 # all of them, with intervals

Anatomy is the grey matter of the ICBM 152 template that nilearn ships, in voxels of 8 mm. Its regions belong to six
networks, which share a time course each; in one group three pairs of networks go together, in the other they do not.
Power is the same in both. Courses are blurred by a haemodynamic response; drift, physiological noise, a shift of the
anatomy, motion and thermal noise are added. Runs are written as fMRIPrep writes them and read by `bdfm convert`.
"""

import argparse
import csv
import json
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from coupled_runs import COHORT, GROUPS, SIZE, SPACING, TARGET, Cohort, write_subject

from bdfm_nnunet.cli import main as bdfm
from bdfm_nnunet.evaluation.class_measures import auc
from bdfm_nnunet.evaluation.subject_bootstrap import PatientDraws
from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_folders import changed_environment, dataset_name, nnunet_folder
from bdfm_nnunet.probes.feature_tables import read_features, write_features_table
from bdfm_nnunet.probes.probe_models import ModelName, predict
from bdfm_nnunet.targets import TargetType, read_targets

logger = logging.getLogger(__name__)

TRAINING, TEST, UNLABELLED = 721, 821, 921
PLANS, PRETRAINER, LEARNER = "Coupled", "nnUNetTrainerNeuroSTORM", "nnUNetTrainerBDFMClassification"
NETWORK: dict[str, Any] = {
    "input_shape": [SIZE, SIZE, SIZE, 20],
    "strides": [[1, 1, 1, 1], [8, 8, 8, 1], [3, 3, 3, 1]],
    "features_per_stage": [48, 128],
    "depths": [1, 1],
    "window_size": [3, 3, 3, 4],
}
"""Tokens as large as a region, and one place in the last stage, in which all regions meet."""
BATCH, EPOCHS, RATE = 8, 5, 1e-3
STEPS = {"pretrain": 250, "scratch": 200, "pretrained": 200}
"""Optimiser steps, multiples of the epochs."""


def draw(cohort: Cohort = COHORT, *, standardise: str = "voxel", workers: int = 2) -> None:
    """Draw the three data sets, convert them and install the targets of those that have some."""
    for data_set in (TRAINING, TEST, UNLABELLED):
        with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(workers) as pool:
            root = Path(scratch)
            one = partial(write_subject, data_set=data_set, cohort=cohort, root=root)
            rows = list(pool.map(one, range(cohort.subjects), chunksize=4))
            with (root / "participants.tsv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t")
                writer.writeheader()
                writer.writerows(rows)
            _run("convert", "fmri-fmriprep", scratch, "-d", str(data_set), "--spacing", f"{SPACING:g}",
                 "--size", str(SIZE), "--time-step", f"{cohort.seconds:g}", "--standardise", standardise,
                 "--workers", str(workers))  # fmt: skip
            if data_set != UNLABELLED:
                table = str(root / "participants.tsv")
                _run("targets", "-d", str(data_set), table, "--column", f"{TARGET}:binary", "--positive",
                     f"{TARGET}={GROUPS[1]}")  # fmt: skip


def _run(*words: str) -> None:
    logger.info("bdfm %s", " ".join(words))
    if code := bdfm(list(words)):
        raise SystemExit(code)


# -------------------------------------------------------------------------------------------------------------- arms


def connectivity(out: Path) -> None:
    """Score functional connectivity of the training subjects, by ridge regression and an SVM, on those of the test."""
    for data_set in (TRAINING, TEST):
        _run("connectivity", "-d", str(data_set), "-o", str(out / f"connectivity_{data_set}.npz"))
    for model in ("linear", "svm"):
        _fit(out, "connectivity", model, out / f"connectivity_{model}.csv")


def _fit(out: Path, features: str, model: ModelName, table: Path) -> None:
    """Fit a model on the features of the training subjects, predict those of the test, and score them."""
    train, test = (read_features(out / f"{features}_{data_set}.npz") for data_set in (TRAINING, TEST))
    targets = read_targets(nnunet_folder("nnUNet_raw") / dataset_name(TRAINING))
    truth = targets.values(TARGET, train.cases)[:, 0]
    found = predict(
        model, TargetType.BINARY, train.features.astype(np.float64), truth, test.features.astype(np.float64),
        groups=[targets.patients[case] for case in train.cases], classes=2, seed=0,
    )  # fmt: skip
    with table.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["case", TARGET], *zip(test.cases, found[:, 1], strict=True)])
    _score(table)


def _score(table: Path) -> None:
    _run("evaluate-subjects", "-d", str(TEST), "-i", str(table), "--target", TARGET, "-o", str(table.with_suffix("")))


def auc_of(table: Path) -> dict[str, Any]:
    """Return the AUC of a scored table, with its interval over subjects."""
    content = json.loads((table.with_suffix("") / "result.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["targets"][TARGET]["scores"]["auc"]
    return found


# ------------------------------------------------------------------------------------------------------ network arms


def plan() -> None:
    """Plan all data sets and make the networks tiny, alike in all of them."""
    for data_set in (TRAINING, TEST, UNLABELLED):
        _run("plan", "-d", str(data_set), "-p", PLANS, "--gpu-memory", "4")
        path = nnunet_folder("nnUNet_preprocessed") / dataset_name(data_set) / f"{PLANS}.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        planned = content["configurations"]["4d"]
        planned["architecture"]["arch_kwargs"] |= NETWORK
        planned |= {"patch_size": NETWORK["input_shape"], "batch_size": BATCH}
        planned.pop("costs", None)
        write_json(path, content)


def _train(
    data_set: int, variant: str, fold: str, trainer: str, settings: dict[str, Any], weights: Path | None
) -> None:
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    _run("plan", "-d", str(data_set), "-p", PLANS, "--variant", variant, *words)
    with changed_environment({"BDFM_WEIGHTS": str(weights) if weights else "none"}):
        _run("train", str(data_set), variant, fold, "-tr", trainer, "-p", PLANS, "-device", "cpu")


def _length(steps: int) -> dict[str, Any]:
    return {"training.epochs": EPOCHS, "training.iterations_per_epoch": steps // EPOCHS,
            "training.val_iterations_per_epoch": 2, "training.workers": 0}  # fmt: skip


def weights_of(seed: int) -> Path:
    """Return the checkpoint of a pre-training."""
    training = f"{PRETRAINER}__{PLANS}__pretrain{seed}"
    return nnunet_folder("nnUNet_results") / dataset_name(UNLABELLED) / training / "fold_all" / "checkpoint_final.pth"


def pretrain(seed: int, steps: int) -> None:
    """Pre-train on the runs without targets."""
    settings = _length(steps) | {"training.seed": seed, "training.initial_lr": RATE, "pretraining.mask": "tube",
                                 "pretraining.mask_window": "[1, 1, 1, 4]",
                                 "pretraining.picture_every": 1000}  # fmt: skip
    _train(UNLABELLED, f"pretrain{seed}", "all", PRETRAINER, settings, None)


def learn(arm: str, seed: int, steps: int, out: Path) -> None:
    """Fine-tune on the training subjects, of whom a fifth choose the epoch, and score the test."""
    variant, weights = f"{arm}{seed}", weights_of(seed) if arm == "pretrained" else None
    settings = _length(steps) | {"training.seed": seed, "finetuning.targets": TARGET, "training.initial_lr": RATE}
    _train(TRAINING, variant, "0", LEARNER, settings, weights)
    table, images = out / f"{variant}.csv", nnunet_folder("nnUNet_raw") / dataset_name(TEST)
    what = ["-c", variant, "-p", PLANS, "-tr", LEARNER, "-f", "0", "--device", "cpu"]
    _run("predict-subjects", "-d", str(TRAINING), *what, "-i", str(images), "-o", str(table))
    _score(table)


def frozen(seed: int, out: Path) -> None:
    """Score ridge regression on the features of the pre-trained encoder, and on those of one without a training."""
    from bdfm_nnunet.probes.feature_baselines import UNTRAINED
    from bdfm_nnunet.probes.run_baselines import RunBaselines

    for data_set in (TRAINING, TEST):
        path = out / f"frozen{seed}_{data_set}.npz"
        _run("features", "-d", str(data_set), "--weights", str(weights_of(seed)), "-p", PLANS, "-c", "4d",
             "--foreground", "-o", str(path))  # fmt: skip
        found = read_features(path)
        baselines = RunBaselines(dataset_id=data_set, features=path, description=found.description, seed=seed)
        random = baselines.made(found.cases, [UNTRAINED]).tables[UNTRAINED]
        write_features_table(out / f"untrained{seed}_{data_set}.npz", random)
    for name in ("frozen", "untrained"):
        _fit(out, f"{name}{seed}", "linear", out / f"{name}{seed}.csv")


def table(out: Path) -> list[str]:
    """Return a row per arm: the mean AUC over the seeds, its interval over subjects and seeds, and each seed's."""
    lines = ["| arm | AUC of the test | of each seed |", "|---|---|---|"]
    for arm in ("connectivity_linear", "connectivity_svm", "untrained", "frozen", "scratch", "pretrained"):
        paths = sorted(
            path for path in out.glob(f"{arm}*.csv") if path.stem.removeprefix(arm).isdecimal() or path.stem == arm
        )
        if paths:
            values, low, high = mean_auc(paths)
            each = ", ".join(f"{value:.3f}" for value in values)
            lines.append(f"| {arm.replace('_', ' ')} | {np.mean(values):.3f} [{low:.3f}, {high:.3f}] | {each} |")
    return lines


def mean_auc(tables: Sequence[Path], resamples: int = 2000) -> tuple[list[float], float, float]:
    """Return the AUC of tables of the same cases, and the interval of their mean: subjects and seeds are drawn."""
    targets = read_targets(nnunet_folder("nnUNet_raw") / dataset_name(TEST))
    found = [read_predictions(path) for path in tables]
    cases = found[0].cases
    truth = targets.values(TARGET, cases)[:, 0] == 1
    p = [dict(zip(each.cases, each.of(TARGET)[TARGET], strict=True)) for each in found]
    values = np.array([[each[case] for case in cases] for each in p])
    draws = PatientDraws.of([targets.patients[case] for case in cases], resamples=resamples, seed=0)
    sampled = np.stack([auc(truth, each, draws.weights()) for each in values])
    seeds = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    means = np.take_along_axis(sampled.T, seeds, axis=1).mean(axis=1)
    once = np.ones((1, len(cases)))
    low, high = np.nanquantile(means, [0.025, 0.975])
    return [float(auc(truth, each, once)[0]) for each in values], float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("draw", "connectivity", "plan", "pretrain", "scratch", "pretrained", "frozen",
                                         "table"))  # fmt: skip
    parser.add_argument("seeds", type=int, nargs="*", help="of pretrain, scratch, pretrained and frozen")
    parser.add_argument(
        "--steps", type=int, help="optimiser steps, a multiple of 5 (default: 250 of pretrain, 200 of fine-tuning)"
    )
    parser.add_argument("--standardise", choices=("voxel", "run"), default="voxel", help="of draw")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("coupled_regions"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options.out.mkdir(parents=True, exist_ok=True)
    began, out = time.monotonic(), options.out
    alone = {
        "draw": lambda: draw(standardise=options.standardise, workers=options.workers),
        "connectivity": lambda: connectivity(out),
        "plan": plan,
        "table": lambda: print("\n".join(table(out))),
    }
    if options.step in alone:
        alone[options.step]()
    for seed in options.seeds:
        if options.step == "pretrain":
            pretrain(seed, options.steps or STEPS["pretrain"])
        elif options.step == "frozen":
            frozen(seed, out)
        else:
            learn(options.step, seed, options.steps or STEPS[options.step], out)
    logger.info("%s took %.0f s", options.step, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
