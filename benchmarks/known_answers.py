"""Made-up cohorts whose answer is known: do the subject-level trainers learn it, in minutes, on a processor?

    python benchmarks/known_answers.py draw lesions            # data sets 711 for training, 811 for the test
    bdfm plan -d 711 --network resenc --gpu-memory 0.1 -p Known
    python benchmarks/narrow_plans.py 711 --plans Known --name KnownNarrow --patch 32 40 32
    python benchmarks/known_answers.py learn lesions has_lesion --plans KnownNarrow

`draw` makes a cohort of `COHORTS`: brains of the ICBM 152 template that nilearn ships, each warped anew, with and
without a made-up tumour. `learn` runs what a user would: `bdfm plan --variant`, `bdfm train`, `bdfm predict-subjects`
on the images of the test and `bdfm evaluate-subjects`. It prints the score with the bound that is asked for, and fails
below it. With `--permute SEED` the cases of both parts get each other's values, and the score must be that of chance;
with `--overfit N` the first N cases alone are learned, and scored.
"""

import argparse
import csv
import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from bdfm_nnunet.cli import main as bdfm
from bdfm_nnunet.data.demo import demo_grid
from bdfm_nnunet.data.phantom import Subject, draw_subject, render
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.targets import read_targets

logger = logging.getLogger(__name__)

CHANNELS = ("t1c", "t2f")
TRAINERS = {
    "has_lesion": "nnUNetTrainerBDFMClassification",
    "side": "nnUNetTrainerBDFMClassification",
    "enhancing": "nnUNetTrainerBDFMClassification",
    "volume": "nnUNetTrainerBDFMRegression",
    "death": "nnUNetTrainerBDFMSurvival",
}
MEASURES = {"volume": ("r2", 0.8), "death": ("c_index", 0.75)}
AUC = ("auc", 0.95)
FIELDS = ("case", "has_lesion", "side", "enhancing", "volume", "time", "event")
COLUMNS = ("has_lesion:binary", "side:binary", "enhancing:binary", "volume:continuous", "death:survival=time/event")


@dataclass(frozen=True)
class Cohort:
    """A made-up cohort.

    Attributes:
        number: of the data set for training and validation; that of the test has 100 more.
        training: subjects for training and validation.
        testing: subjects of the test.
        spacing: of the images, mm.
        lesions: share of the subjects with a tumour.
        core_mm: least and largest mean radius of the tumour's core.
        oedema_mm: how far its oedema reaches.
    """

    number: int
    training: int = 160
    testing: int = 80
    spacing: float = 5.0
    lesions: float = 0.5
    core_mm: tuple[float, float] = (8.0, 24.0)
    oedema_mm: float = 8.0

    @property
    def test(self) -> int:
        """Number of the data set of the test."""
        return self.number + 100


COHORTS = {
    "lesions": Cohort(711),
    "unbalanced": Cohort(712, lesions=0.25),
    "small": Cohort(713, core_mm=(12.0, 16.0), oedema_mm=6.0),
    "tumours": Cohort(714, lesions=1.0),
    "many": Cohort(715, training=320, lesions=1.0),
}


def subject_of(cohort: Cohort, number: int) -> tuple[Subject, dict[str, Any]]:
    """Draw a subject, and what is true of it whatever its voxels are."""
    rng = np.random.default_rng([cohort.number, number])
    subject = draw_subject(rng)
    has_lesion = bool(rng.uniform() < cohort.lesions)
    enhancing = bool(rng.uniform() < 0.5)
    core = float(np.exp(rng.uniform(*np.log(cohort.core_mm))))
    lesion = replace(subject.lesions[0], core_mm=core, rim_mm=0.4 * core * enhancing, oedema_mm=cohort.oedema_mm)
    return replace(subject, lesions=(lesion,) * has_lesion), {"has_lesion": has_lesion, "enhancing": enhancing}


def row_of(labels: Any, truth: Mapping[str, Any], *, spacing: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return the values of the targets; those of a tumour only where there is one."""
    row: dict[str, Any] = dict.fromkeys(FIELDS, "") | {"has_lesion": "yes" if truth["has_lesion"] else "no"}
    tumour = labels > 0
    if not tumour.any():
        return row
    volume = round(float(tumour.sum()) * spacing**3 / 1000, 3)
    left = np.argwhere(tumour)[:, 0].mean() > (labels.shape[0] - 1) / 2
    # Weibull: the hazard is proportional to the sixth power of the volume; 40 ml of tumour mean a thousand days
    time, followed = 1000 * (40 / volume) ** 2 * rng.exponential() ** (1 / 3), rng.uniform(1000, 5000)
    return row | {
        "side": "left" if left else "right",
        "enhancing": "yes" if truth["enhancing"] else "no",
        "volume": volume,
        "time": round(min(time, followed) + 0.01, 2),
        "event": int(time <= followed),
    }


def _write(number: int, *, cohort: Cohort, folder: Path) -> dict[str, Any]:
    """Write the images of a subject and return its row of the table."""
    subject, truth = subject_of(cohort, number)
    grid, case = demo_grid(cohort.spacing), f"case_{number:03d}"
    images, labels = render(subject, grid)
    for channel in CHANNELS:
        image = sitk.GetImageFromArray(images[channel].T)
        image.SetSpacing(grid.spacing)
        sitk.WriteImage(image, str(folder / f"{case}_{channel}.nii.gz"), useCompression=True)
    rng = np.random.default_rng([cohort.number, number, 1])
    return row_of(labels, truth, spacing=cohort.spacing, rng=rng) | {"case": case}


def draw(name: str, *, workers: int) -> None:
    """Draw a cohort, convert both parts and install their targets."""
    cohort = COHORTS[name]
    everyone = range(cohort.training + cohort.testing)
    parts = {cohort.number: everyone[: cohort.training], cohort.test: everyone[cohort.training :]}
    for number, subjects in parts.items():
        with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(workers) as pool:
            rows = list(pool.map(partial(_write, cohort=cohort, folder=Path(scratch)), subjects))
            channels = [word for each in CHANNELS for word in ("--image", f"{each}={{case}}_{each}")]
            _run("convert", "folder", scratch, "-d", str(number), "--name", name, "--unlabelled", *channels)
        _write_table(_table(number), rows)
        _install(cohort, number, _table(number))


def _table(number: int) -> Path:
    return nnunet_folder("nnUNet_raw") / dataset_name(number) / "known_answers.csv"


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def _install(cohort: Cohort, number: int, table: Path) -> None:
    columns = [each for each in COLUMNS if cohort.lesions < 1 or not each.startswith("has_lesion")]
    _run("targets", "-d", str(number), str(table), *(word for each in columns for word in ("--column", each)))


def _run(*words: str) -> None:
    logger.info("bdfm %s", " ".join(words))
    if code := bdfm(list(words)):
        raise SystemExit(code)


def permute(name: str, seed: int | None) -> None:
    """Install the targets of a cohort with all values dealt out anew within each part; as they were drawn for None."""
    cohort = COHORTS[name]
    for number in (cohort.number, cohort.test):
        with _table(number).open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        order = range(len(rows)) if seed is None else np.random.default_rng([seed, number]).permutation(len(rows))
        dealt = [{**rows[place], "case": row["case"]} for place, row in zip(order, rows, strict=True)]
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch) / "permuted.csv"
            _write_table(table, dealt)
            _install(cohort, number, table)


@contextmanager
def few_cases(name: str, count: int) -> Iterator[None]:
    """Let the first cases of a cohort be for training, as many after them for validation, and no others, for a while.

    A count of 0 changes nothing.
    """
    dataset = dataset_name(COHORTS[name].number)
    path = nnunet_folder("nnUNet_preprocessed") / dataset / SPLITS
    before = path.read_bytes() if path.is_file() else None
    if count:
        cases = sorted(read_targets(nnunet_folder("nnUNet_raw") / dataset).cases)[: 2 * count]
        write_json(path, [{"train": cases[:count], "val": cases[count:]}])
    try:
        yield
    finally:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            path.write_bytes(before)


def train(name: str, target: str, *, variant: str, plans: str, device: str, settings: Sequence[str]) -> float:
    """Train on a cohort and return the seconds."""
    number = str(COHORTS[name].number)
    chosen = [word for each in (f"finetuning.targets={target}", *settings) for word in ("--set", each)]
    _run("plan", "-d", number, "-p", plans, "--variant", variant, *chosen)
    began = time.monotonic()
    _run("train", number, variant, "0", "-tr", TRAINERS[target], "-p", plans, "-device", device)
    return time.monotonic() - began


def score(name: str, target: str, *, variant: str, plans: str, out: Path, device: str, few: int = 0) -> dict[str, Any]:
    """Predict the images of the test, or the first few of the training, and return the score of the target."""
    cohort = COHORTS[name]
    number = cohort.number if few else cohort.test
    out.mkdir(parents=True, exist_ok=True)
    table = out / f"{target}.csv"
    with tempfile.TemporaryDirectory() as scratch:
        for path in sorted((nnunet_folder("nnUNet_raw") / dataset_name(number) / "imagesTr").iterdir()):
            if not few or int(path.name.split("_")[1]) < few:
                (Path(scratch) / path.name).symlink_to(path)
        what = ["-c", variant, "-p", plans, "-tr", TRAINERS[target], "-f", "0", "--device", device]
        which = ["-chk", "checkpoint_final.pth"] if few else []
        _run("predict-subjects", "-d", str(cohort.number), *what, "-i", scratch, "-o", str(table), *which)
    _run("evaluate-subjects", "-d", str(number), "-i", str(table), "--target", target, "-o", str(out / target))
    found = json.loads((out / target / "result.json").read_text(encoding="utf-8"))["targets"][target]["scores"]
    measure, bound = MEASURES.get(target, AUC)
    value, interval = found[measure]["value"], found[measure]["interval"]
    return {"cohort": name, "target": target, "measure": measure, "score": value, "interval": interval, "bound": bound}


def main() -> int:
    """Draw a cohort, or learn one of its targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    drawing, learning = commands.add_parser("draw"), commands.add_parser("learn")
    for each in (drawing, learning):
        each.add_argument("cohort", choices=COHORTS)
    drawing.add_argument("--workers", type=int, default=2)
    learning.add_argument("target", choices=TRAINERS)
    learning.add_argument("--plans", required=True)
    learning.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="as of bdfm plan")
    learning.add_argument("--permute", type=int, metavar="SEED", help="deal out the values anew")
    learning.add_argument("--overfit", type=int, default=0, metavar="N", help="learn the first N cases")
    learning.add_argument("--device", default="cpu")
    learning.add_argument("--out", type=Path, default=Path("known_answers"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.command == "draw":
        draw(options.cohort, workers=options.workers)
        return 0
    if options.permute is not None:
        permute(options.cohort, options.permute)
    variant = f"{options.target}{'' if options.permute is None else f'_permuted{options.permute}'}"
    what = {"variant": variant, "plans": options.plans, "device": options.device}
    with few_cases(options.cohort, options.overfit):
        seconds = train(options.cohort, options.target, settings=options.set, **what)
    found = score(options.cohort, options.target, out=options.out / options.cohort, few=options.overfit, **what)
    if options.permute is not None:
        permute(options.cohort, None)
    print(json.dumps(found | {"training_seconds": round(seconds, 1), "permuted": options.permute}))
    return 0 if options.permute is not None or found["score"] >= found["bound"] else 1


if __name__ == "__main__":
    sys.exit(main())
