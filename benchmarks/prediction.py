"""Predicting cases of four contrasts: nnU-Net's predictor beside ours, on the same trained weights.

The cases are made up (real anatomy, synthetic lesions), cut to the brain and normalised as nnU-Net does it. The
networks are trained for ten minutes on other made-up cases first, so that their answers have a structure to compare;
the weights are kept and used again. Timed is everything from the preprocessed image to the logits, of one case. The
Dice between the two segmentations is that of several cases: of each region the mean over the cases, and the least of
these means; in brackets the least and the largest of any case, where a small lesion loses 0.001 with a few voxels. With
mirroring, cases are cut to one window around the lesions. The floor is the network alone, in the same type and memory
layout, on the windows that must be computed.

    python benchmarks/prediction.py [--quick] [--networks swin,resenc] [--cases 5] [--rounds 2] [--weights DIR]
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from matplotlib.figure import Figure
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.data.demo import demo_grid, draw_cohort
from bdfm_nnunet.data.phantom import render
from bdfm_nnunet.networks import SwinUNet
from bdfm_nnunet.number_types import multiplies_bf16
from bdfm_nnunet.prediction.predictor import Options, Predictor
from bdfm_nnunet.prediction.sliding_windows import group_alike
from floors import left_out
from harness import FIGURES, QUICK_RESULTS, Result, Spread, Table, Times, alternate, options, parse, prose

REGIONS = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
LABELS = {"background": 0, **{name: list(values) for name, values in REGIONS.items()}}
DATASET = {"labels": LABELS, "regions_class_order": [2, 1, 3], "file_ending": ".nii.gz"}
PATCH = 96
CROP = 48
TRAINED_ON = 6
SHAPE = (140, 170, 140)
CPU = torch.device("cpu")


def resenc() -> nn.Module:
    """Return nnU-Net's ResEnc-M as planned for patches of 96^3."""
    return ResidualEncoderUNet(
        4, 5, [32, 64, 128, 256, 320], nn.Conv3d, [[3] * 3] * 5, [[1] * 3] + [[2] * 3] * 4, [1, 3, 4, 6, 6], 3,
        [1] * 4, conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, deep_supervision=False,
    )  # fmt: skip


def swin() -> nn.Module:
    """Return the Swin U-Net that `bdfm plan` chooses for patches of 96^3."""
    return SwinUNet(
        4, 3, strides=[[1] * 3, [4] * 3, [2] * 3, [2] * 3, [2] * 3], features_per_stage=[32, 96, 192, 384, 768],
        depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=[6] * 3,
    )  # fmt: skip


NETWORKS = {"swin": swin, "resenc": resenc}


# ------------------------------------------------------------------------------------------------- cases and weights


@dataclass(frozen=True)
class Case:
    """A preprocessed case: image (4, x, y, z), label map (x, y, z)."""

    image: Tensor
    labels: Tensor

    def cut(self, shape: Sequence[int]) -> "Case":
        """Return a box around the middle of the lesions, or all of the case along axes that are shorter."""
        middle = self.labels.nonzero().float().mean(0).tolist()
        lengths = list(zip(middle, self.labels.shape, shape, strict=True))
        starts = [max(0, min(round(centre - want / 2), have - want)) for centre, have, want in lengths]
        box = tuple(slice(start, start + want) for start, want in zip(starts, shape, strict=True))
        return Case(self.image[(slice(None), *box)].contiguous(), self.labels[box])


def made_up_cases(count: int, *, first: int = 0) -> Iterator[Case]:
    """Make cases at 1 mm, cut to the brain, each contrast with mean 0 and variance 1 in the brain and 0 outside."""
    grid = demo_grid(1.0, (152, 190, 152))
    for _, subject in draw_cohort(cases=count, seed=5, first_patient=first):
        images, labels = render(subject, grid)
        volume = np.stack(list(images.values())).astype(np.float32)
        brain = volume.any(axis=0)
        for channel in volume:
            channel[brain] = (channel[brain] - channel[brain].mean()) / channel[brain].std()
        box = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(brain))
        yield Case(torch.from_numpy(volume[(slice(None), *box)].copy()), torch.from_numpy(labels[box].copy()))


def trained_weights(name: str, folder: Path, *, steps: int) -> dict[str, Tensor]:
    """Return the weights of a network after a short training on crops of a few cases; kept in the folder."""
    path = folder / f"{name}_{steps}.pth"
    if path.is_file():
        kept: dict[str, Tensor] = torch.load(path, weights_only=True)
        return kept
    torch.manual_seed(0)
    network, cases = NETWORKS[name]().train(), list(made_up_cases(TRAINED_ON))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    for step in range(steps):
        image, target = _crop(cases[step % len(cases)])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=multiplies_bf16()):
            logits = network(image).float()
        overlap = 1 - 2 * (logits.sigmoid() * target).sum() / (logits.sigmoid() + target).sum().clamp_min(1)
        loss = functional.binary_cross_entropy_with_logits(logits, target) + overlap
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        print(f"{name}: step {step + 1}/{steps}, loss {loss.item():.3f}", end="\r", flush=True)
    print()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network.state_dict()


def _crop(case: Case) -> tuple[Tensor, Tensor]:
    """Draw a crop, one of three around a voxel of a lesion as nnU-Net does, and the masks of the regions."""
    voxels = case.labels.nonzero() if torch.rand(()) < 1 / 3 else case.image.any(0).nonzero()
    centre = voxels[torch.randint(len(voxels), (1,))[0]] + torch.randint(-CROP // 2, CROP // 2, (3,))
    starts = [int(min(max(c - CROP // 2, 0), n - CROP)) for c, n in zip(centre, case.labels.shape, strict=True)]
    box = tuple(slice(start, start + CROP) for start in starts)
    labels = case.labels[box]
    masks = [torch.isin(labels, torch.tensor(values)) for values in REGIONS.values()]
    return case.image[(slice(None), *box)][None], torch.stack(masks)[None].float()


# ----------------------------------------------------------------------------------------------------- predictors


def make(kind: type, name: str, weights: dict[str, Tensor], *, mirrored: bool = False, **settings: Any) -> Any:
    """Return a predictor of one of the two kinds with a separate network."""
    manager = PlansManager({"configurations": {"3d": {"patch_size": [PATCH] * 3, "architecture": {}}}})
    predictor = kind(device=CPU, use_mirroring=mirrored, allow_tqdm=False, **settings)
    predictor.manual_initialization(
        NETWORKS[name](), manager, manager.get_configuration("3d"), [weights], DATASET, "nnUNetTrainer", (0, 1, 2)
    )
    return predictor


def arms(name: str, weights: dict[str, Tensor], precisions: Sequence[str], *, mirrored: bool = False) -> dict[str, Any]:
    """Return the predictors that are compared, nnU-Net's first."""
    ours = {arm_named(precision): Options(precision=precision) for precision in precisions}
    made = {"nnU-Net": make(nnUNetPredictor, name, weights, mirrored=mirrored)}
    return made | {
        arm: make(Predictor, name, weights, mirrored=mirrored, options=chosen) for arm, chosen in ours.items()
    }


def arm_named(precision: str) -> str:
    """Return our arm with its type: what "auto" is depends on the processor."""
    return f"bdfm, auto ({'bf16' if multiplies_bf16() else 'fp32'})" if precision == "auto" else f"bdfm, {precision}"


Agreement = dict[str, list[float]]
"""Region to the Dice of two segmentations of each case."""


def compare(predictors: dict[str, Any], cases: Sequence[Case], rounds: int) -> tuple[Times, dict[str, Agreement]]:
    """Time the predictors on the first case, and compare their segmentations of all cases with nnU-Net's."""
    logits: dict[str, Tensor] = {}

    def predict(arm: str, case: Case) -> None:
        logits[arm] = predictors[arm].predict_logits_from_preprocessed_data(case.image)

    small = cases[0].cut([PATCH] * 3)  # the warm-up
    for predictor in predictors.values():
        mirroring, predictor.use_mirroring = predictor.use_mirroring, False
        predictor.predict_logits_from_preprocessed_data(small.image)
        predictor.use_mirroring = mirroring
    manager = next(iter(predictors.values())).label_manager
    agreement: dict[str, Agreement] = {arm: {region: [] for region in REGIONS} for arm in predictors}
    for case in (*cases[1:], cases[0]):
        for predictor in predictors.values():
            predictor.windows_seen = predictor.windows_computed = 0
        turns = {arm: partial(predict, arm, case) for arm in predictors}
        times = alternate(turns, rounds=rounds if case is cases[0] else 1, warmup=0)
        segmented = {arm: manager.convert_logits_to_segmentation(result) for arm, result in logits.items()}
        for arm, found in segmented.items():
            for region, score in dice(found, segmented["nnU-Net"]).items():
                agreement[arm][region].append(score)
    return times, agreement


def dice(first: Tensor, second: Tensor) -> dict[str, float]:
    """Compute the Dice of each region."""
    scores = {}
    for region, values in REGIONS.items():
        a, b = (torch.isin(torch.as_tensor(labels), torch.tensor(values)) for labels in (first, second))
        total = int(a.sum() + b.sum())
        scores[region] = 2 * int((a & b).sum()) / total if total else 1.0
    return scores


def floor(predictor: Predictor, passes: int, *, rounds: int = 2) -> float:
    """Time so many passes of the network alone, in the predictor's type and layout."""
    image = torch.randn(1, 4, PATCH, PATCH, PATCH)
    torch.set_num_threads(predictor.threads)
    with torch.inference_mode(), predictor._autocast():
        times = alternate({"pass": partial(predictor._run_network, image)}, rounds=rounds)
    return passes * min(times.seconds["pass"])


# ----------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Comparison:
    """The result of one of our arms on one case."""

    network: str
    arm: str
    shape: tuple[int, ...]
    mirrored: bool
    windows: int
    computed: int
    reference: Spread
    seconds: Spread
    ratio: Spread
    dice: Agreement
    floor: float

    @property
    def worst(self) -> float:
        """The mean Dice of the region that agrees least."""
        return min(statistics.fmean(scores) for scores in self.dice.values())

    def agreement(self) -> str:
        """Return the same with the range of all cases and regions."""
        scores = list(chain.from_iterable(self.dice.values()))
        return f"{self.worst:.5f} ({min(scores):.5f} to {max(scores):.5f})"

    def row(self) -> list[str]:
        """Return the comparison as a line of the table."""
        return [
            self.network, _size(self.shape), "yes" if self.mirrored else "no", self.arm,
            f"{self.windows}, {self.computed}", str(self.seconds), str(self.ratio), self.agreement(),
            f"{self.seconds.median / self.floor:.2f}",
        ]  # fmt: skip

    def goals(self) -> list[tuple[str, str, bool]]:
        """Return the goals, and whether they were reached."""
        where = f"{self.arm} against nnU-Net in fp32, {self.network}, {'mirrored' if self.mirrored else 'not mirrored'}"
        return [
            (f"{where}: at most half the time of a prediction on a CPU", str(self.ratio), self.ratio.median <= 0.5),
            (f"{where}: Dice with its segmentation at least 0.999 in each region", self.agreement(),
             self.worst >= 0.999),
        ]  # fmt: skip


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def add_rows(
    result: Result, name: str, weights: dict[str, Tensor], cases: Sequence[Case], *,
    rounds: int, mirrored: bool = False, precisions: Sequence[str] = ("auto",),
) -> list[Comparison]:  # fmt: skip
    """Compare the arms on some cases and add a row for each, and the raw figures."""
    predictors = arms(name, weights, precisions, mirrored=mirrored)
    times, agreement = compare(predictors, cases, rounds)
    shape = tuple(cases[0].labels.shape)
    first = [name, _size(shape), "yes" if mirrored else "no", "nnU-Net", "", str(times.of("nnU-Net")), "1", "", ""]
    result.tables[0].rows.append(first)
    found = []
    for arm, predictor in list(predictors.items())[1:]:
        ratios = [a / b for a, b in zip(times.seconds[arm], times.seconds["nnU-Net"], strict=True)]
        computed = predictor.windows_computed // rounds
        passes = computed * (8 if mirrored else 1)
        one = Comparison(
            network=name, arm=arm, shape=shape, mirrored=mirrored, windows=predictor.windows_seen // rounds,
            computed=computed, reference=times.of("nnU-Net"), seconds=times.of(arm), ratio=Spread.of(ratios),
            dice=agreement[arm], floor=floor(predictor, passes),
        )  # fmt: skip
        print(" | ".join(one.row()), flush=True)
        found.append(one)
    result.tables[0].rows += [one.row() for one in found]
    result.raw["rows"] = result.raw.get("rows", []) + [vars(one) for one in found]
    return found


def curve_figure(name: str, curves: dict[str, list[tuple[float, float]]]) -> Figure:
    """Draw seconds against millions of voxels, a line for each arm."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for arm, points in curves.items():
        axes.plot(*zip(*points), "o-", label=arm)
    axes.set_xlabel("voxels (millions)")
    axes.set_ylabel("seconds a case")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.set_title(f"Prediction of four contrasts, {name}, windows of {PATCH}³, no mirroring", fontsize=10)
    return figure


def add_curve(result: Result, name: str, measured: Sequence[Comparison]) -> None:
    """Draw the time against the size of the volume."""
    curves: dict[str, list[tuple[float, float]]] = {"nnU-Net": []}
    for one in measured:
        size = float(np.prod(one.shape)) / 1e6
        curves.setdefault(one.arm, []).append((size, one.seconds.median))
        if (size, one.reference.median) not in curves["nnU-Net"]:
            curves["nnU-Net"].append((size, one.reference.median))
    FIGURES.mkdir(parents=True, exist_ok=True)
    curve_figure(name, curves).savefig(FIGURES / "prediction_size.png", dpi=110)
    result.figures.append(("prediction_size.png", "Time of a prediction against the size of the volume."))
    result.raw["curve"] = curves


def windows_table(case: Case) -> Table:
    """Return windows of the case, and how many differ from one another, for several sizes."""
    shape = tuple(case.labels.shape)
    table = Table(f"Windows of the whole case, {_size(shape)}", ["window", "windows", "computed"])
    table.note = "Windows with nothing but background are computed once."
    for size in (32, 48, 64, 80, 96, 128):
        steps = compute_steps_for_sliding_window(shape, (size,) * 3, 0.5)
        windows = [(slice(None), *(slice(start, start + size) for start in place)) for place in product(*steps)]
        table.rows.append([_size((size,) * 3), str(len(windows)), str(len(group_alike(case.image, windows)))])
    return table


def main() -> None:
    """Run all and write benchmarks/results/prediction.json."""
    parser = options(__doc__, rounds=2)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=list(NETWORKS), help="swin,resenc")
    parser.add_argument("--weights", type=Path, default=QUICK_RESULTS, help="folder that keeps the trained weights")
    parser.add_argument("--cases", type=int, default=5, help="whose segmentations are compared (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="of the training before (default: %(default)s)")
    settings = parse(parser, quick={"rounds": 1, "steps": 300, "cases": 1})
    start = time.perf_counter()
    weights = {name: trained_weights(name, settings.weights, steps=settings.steps) for name in settings.networks}
    others = made_up_cases(4 * settings.cases, first=TRAINED_ON)
    cases = list(islice((case.cut(SHAPE) for case in others if case.labels.unique().numel() == 4), settings.cases))
    case = cases[0]
    columns = ["network", "volume", "mirrored", "arm", "windows, computed", "seconds", "time / nnU-Net's",
               "Dice", "time / floor"]  # fmt: skip
    table = Table("From the preprocessed image to the logits, one case", columns)
    table.note = f"Floor: the network alone, same type and layout, on the windows computed. {left_out()}".rstrip()
    result = Result(
        title="Prediction",
        about=prose(__doc__),
        settings=vars(settings),
        packages=("torch", "numpy", "nnunetv2", "dynamic-network-architectures"),
        tables=[table, windows_table(case)],
    )
    cube, full = (PATCH,) * 3, tuple(case.labels.shape)
    small = (PATCH, PATCH, full[2])
    for name in settings.networks:
        compare_on = partial(add_rows, result, name, weights[name])
        plain = compare_on([case.cut(small)] if settings.quick else cases, rounds=settings.rounds)
        mirrored = compare_on([case.cut(cube) for case in cases], rounds=1, mirrored=True)
        result.goals += [goal for one in (plain[0], mirrored[0]) for goal in one.goals()]
        if name == "swin" and not settings.quick:
            shapes = (cube, small, (PATCH, full[1], full[2]))
            smaller = [compare_on([case.cut(shape)], rounds=1, precisions=("auto", "fp32")) for shape in shapes]
            add_curve(result, name, [*chain.from_iterable(smaller), *plain])
    print(f"{time.perf_counter() - start:.0f} s")
    result.write(settings.json)


if __name__ == "__main__":
    main()
