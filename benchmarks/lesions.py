"""How well pre-trained networks rebuild lesions: BDFM, SimMIM, and BDFM with one of its parts switched off.

Every arm takes the same number of steps on unlabelled crops. Its rate is chosen by the PSNR on the masked voxels of
held-out crops in the fold `--search-fold`; then it is trained in each of the other folds with each seed, and
the lesions of the cases that the fold holds out are scored as by `bdfm probe reconstruction`. The parts:

- mean token: the mask token starts from the mean of the features; without, from noise, as SimMIM's.
- frequency decoder: without, the frequency loss scores the pixel decoder's image.
- frequency loss: without it nothing trains the frequency decoder, which is left out too.
- "simmim" is the preset, with the published decoder of the last stage, 16 channels between its two expansions as in the
  public BDFM code; "simmim_pyramid" has BDFM's pixel decoder, so that it is BDFM without all three parts.

What is done is kept: the same command goes on, and `--minutes` ends it after the training that is running.

    python benchmarks/lesions.py -d 71 -p Small --search-fold 2 -o lesions --figure lesions.png

benchmarks/lesion_data.py makes the data set of the table in docs/results.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

ARMS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "bdfm": ("nnUNetTrainerBDFMPretrain", {}),
    "simmim": ("nnUNetTrainerSimMIM", {"decoder_channels": 16}),
    "no_mean_token": ("nnUNetTrainerBDFMPretrain", {"mask_token": "learned"}),
    "no_frequency_decoder": ("nnUNetTrainerBDFMPretrain", {"frequency_decoder": "loss_only"}),
    "no_frequency_loss": ("nnUNetTrainerBDFMPretrain", {"frequency_decoder": "none"}),
    "simmim_pyramid": ("nnUNetTrainerSimMIM", {"decoder": "pyramid"}),
}
"""Name -> trainer and settings of its "pretraining" block."""


@dataclass(frozen=True)
class Job:
    """A training.

    Attributes:
        arm: name in `ARMS`.
        rate: learning rate.
        fold: of splits_final.json.
        seed: of weights, crops and masks.
    """

    arm: str
    rate: float
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.arm}_rate{self.rate:g}_fold{self.fold}_seed{self.seed}"


def searches(options: argparse.Namespace) -> Iterator[Job]:
    """Yield the trainings by which the rates are chosen."""
    for rate, arm in product(options.rates, ARMS):
        yield Job(arm, rate, options.search_fold, 0)


def plans_of(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Return the plans with a configuration of the arm's settings."""
    from bdfm_nnunet.plans.plans_lookup import read_plans

    plans = read_plans(options.dataset, options.plans)
    looks = 8 if job.fold == options.search_fold else 1  # monitors take longer than steps, and only the search looks
    steps = {"epochs": 2, "iterations_per_epoch": options.steps // 2, "val_iterations_per_epoch": looks, "workers": 0}
    plans["configurations"]["lesions"] = {
        "inherits_from": "3d_fullres",
        "batch_size": options.batch,
        "training": {**steps, "initial_lr": job.rate, "seed": job.seed},
        "pretraining": dict(ARMS[job.arm][1]),
    }
    return plans


def trained(options: argparse.Namespace, job: Job) -> Path:
    """Train, unless it is done, and return the folder of the fold."""
    import torch

    from bdfm_nnunet.nnunet_files import read_dataset_json
    from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder
    from bdfm_nnunet.studies.arm_training import Training, train

    preprocessed, name = nnunet_folder("nnUNet_preprocessed"), dataset_name(options.dataset)
    training = Training(
        preprocessed=preprocessed,
        dataset=name,
        plans=plans_of(options, job),
        configuration="lesions",
        dataset_json=read_dataset_json(preprocessed / name / "dataset.json"),
        trainer=ARMS[job.arm][0],
        fold=job.fold,
        weights="none",
        folder=options.out / job.name,
        device=torch.device(options.device),
    )
    started = time.monotonic()
    folder = train(training)
    print(f"{job.name}: {time.monotonic() - started:.0f} s", flush=True)
    return folder


def monitored(folder: Path) -> float:
    """Return the PSNR on held-out crops at the end of a training."""
    return float(json.loads((folder / "pretraining_summary.json").read_text(encoding="utf-8"))["psnr"])


def scored(options: argparse.Namespace, job: Job) -> Path:
    """Score the held-out cases of a training, unless it is done, and return the file."""
    from bdfm_nnunet.probes.reconstruction_scoring import ReconstructionProbe, Scoring
    from bdfm_nnunet.results import write_result

    out: Path = options.out / "scores" / f"{job.arm}_fold{job.fold}_seed{job.seed}.json"
    if not out.is_file():
        probe = ReconstructionProbe(
            weights=trained(options, job) / "checkpoint_final.pth",
            dataset_id=options.dataset,
            plans=options.plans,
            fold=job.fold,
            draws=options.draws,
            device=options.device,
        )
        scoring = Scoring(probe)
        write_result(out, scoring.result([scoring.row(case) for case in scoring.found.read(scoring.channels)]))
    return out


def compared(options: argparse.Namespace, files: Mapping[str, list[Path]]) -> None:
    """Compare the arms, and write and print the table."""
    from bdfm_nnunet.probes.arm_comparison import compare_arms
    from bdfm_nnunet.probes.reconstruction_pictures import comparison_table
    from bdfm_nnunet.results import write_result

    result = compare_arms(files)
    write_result(options.out / "comparison.json", result)
    print(comparison_table(result))


def draw(options: argparse.Namespace, rates: Mapping[str, float]) -> None:
    """Draw a held-out case as BDFM and SimMIM rebuild it, in the last channel, where most of the lesions is."""
    from bdfm_nnunet.probes.reconstruction_scoring import ReconstructionProbe, Scoring, masks_of
    from bdfm_nnunet.reports.figures import reconstruction_figure, save_figure

    fold, images = options.folds[0], {}
    for arm in ("bdfm", "simmim"):
        weights = trained(options, Job(arm, rates[arm], fold, 0)) / "checkpoint_final.pth"
        scoring = Scoring(
            ReconstructionProbe(weights=weights, dataset_id=options.dataset, plans=options.plans, fold=fold)
        )
        case = next(scoring.found.read(scoring.channels))
        found = scoring.rebuilt(case, 0)
        images[{"bdfm": "BDFM", "simmim": "SimMIM"}[arm]] = found.image[-1].numpy()
    whole = max(scoring.regions, key=lambda name: len(scoring.regions[name]))
    lesion, image = masks_of(case.labels, scoring.regions)[whole].numpy(), case.image[-1].numpy()
    place = int(lesion.sum((1, 2)).argmax())
    title = f"a held-out tumour after {options.steps} steps, every voxel hidden when it was rebuilt"
    figure = reconstruction_figure(
        image, image, images, mask=found.hidden.numpy(), outline=lesion, index=place, title=title
    )
    save_figure(figure, options.figure, dpi=80)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-d", "--dataset", type=int, required=True, help="number of the labelled data set, planned and preprocessed")
    add("-p", "--plans", default="BDFMPlans", help="name of its plans (default: %(default)s)")
    add("-o", "--out", type=Path, required=True, help="folder of the trainings and scores")
    add("--search-fold", type=int, required=True, help="fold in which the rates are chosen")
    add("--folds", type=int, nargs="+", default=[0, 1], help="folds that are scored (default: 0 1)")
    add("--steps", type=int, default=300, help="of each training (default: %(default)s)")
    add("--batch", type=int, default=2, help="crops of a step (default: %(default)s)")
    add("--rates", type=float, nargs="+", default=[0.002, 0.006], help="to choose from (default: 0.002 0.006)")
    add("--seeds", type=int, default=3, help="default: %(default)s")
    add("--draws", type=int, default=4, help="of the masks that a case is scored with (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--figure", type=Path, metavar="FILE.png", help="draw a case too")
    add("--minutes", type=float, default=float("inf"), help="start nothing new after this time")
    return parser.parse_args(arguments)


def main() -> int:
    """Do what is left to do, as far as the time allows."""
    options = parse()
    until = time.monotonic() + 60 * options.minutes
    found: dict[str, dict[float, float]] = {arm: {} for arm in ARMS}
    for job in searches(options):
        if time.monotonic() > until:
            return 0
        found[job.arm][job.rate] = monitored(trained(options, job))
    rates = {arm: max(scores, key=lambda rate: scores[rate]) for arm, scores in found.items()}
    print(json.dumps({"psnr": found, "chosen": rates}))
    files: dict[str, list[Path]] = {arm: [] for arm in ARMS}
    for seed, arm, fold in product(range(options.seeds), ARMS, options.folds):
        if time.monotonic() > until:
            return 0
        files[arm].append(scored(options, Job(arm, rates[arm], fold, seed)))
    compared(options, files)
    if options.figure is not None:
        draw(options, rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
