"""`bdfm probe`: what a pre-training has learned of the images, without any further training."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import Add, command, count, dataset, each_once, names, whole
from bdfm_nnunet.nnunet_folders import nnunet_folder


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    parser = commands.add_parser("probe", help="measure what a pre-training has learned of the images")
    probes = parser.add_subparsers(title="probes", metavar="PROBE", required=True)
    _add_spectrum(command(probes, "spectrum", spectrum, "which frequencies a linear decoder recovers from each stage"))
    _add_reconstruction(command(probes, "reconstruction", reconstruction, "how well labelled regions are rebuilt"))
    add = command(probes, "compare", compare, "which pre-training rebuilds regions better, by pairs of case and seed")
    add("--arm", action="append", nargs="+", required=True, metavar=("NAME", "FILE"),
        help="name and results of `bdfm probe reconstruction`, of several seeds and folds; the first arm is compared "
        "with")  # fmt: skip
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the comparison goes, beside the screen")


def _add_data(add: Add) -> None:
    dataset(add)
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the network runs (default: %(default)s)")


def _add_spectrum(add: Add) -> None:
    _add_data(add)
    add("--weights", type=Path, metavar="CKPT", help="checkpoint of the encoder (default: random weights)")
    add("--channels", choices=("single", "all"), default="single", help="of a case at once (default: %(default)s)")
    add("--crops", type=count, default=64, metavar="N", help="crops to fit on (default: %(default)s)")
    add("-f", "--fold", type=whole, default=0, metavar="F", help="fold whose cases are held out (default: %(default)s)")
    add("--shells", type=count, default=8, metavar="N", help="radial shells (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the shares go, beside the screen")


def _add_reconstruction(add: Add) -> None:
    add("weights", metavar="CKPT", help="checkpoint of a masked pre-training, or last:ID")
    _add_data(add)
    add("--labels", type=names, default=[], metavar="A,B", help="labels or regions of dataset.json (default: all)")
    add("--channels", type=names, default=[], metavar="A,B", help="channels, in this order (default: all)")
    add("-f", "--fold", type=whole, metavar="F", help="score the validation cases of this fold (default: all cases)")
    add("--cases", type=names, default=[], metavar="A,B", help="score these cases alone")
    add("--draws", type=count, default=4, metavar="N", help="draws of masks (default: %(default)s)")
    add("--output", choices=("pixel", "frequency"), default="pixel", help="of which decoder (default: %(default)s)")
    add("--seed", type=whole, default=0, metavar="S", help="of the masks (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the scores go, with two pictures beside them")


def spectrum(settings: argparse.Namespace) -> int:
    """Print the shares, and write them."""
    nnunet_folder("nnUNet_preprocessed")
    from bdfm_nnunet.studies.embedding_probe import Probe, probe_spectrum, table

    probe = Probe(
        settings.dataset,
        settings.plans,
        settings.configuration,
        weights=settings.weights,
        channels=settings.channels,
        crops=settings.crops,
        fold=settings.fold,
        shells=settings.shells,
        device=settings.device,
    )
    print(table(probe_spectrum(probe, out=settings.out)))
    return 0


def reconstruction(settings: argparse.Namespace) -> int:
    """Print the scores, and write them."""
    nnunet_folder("nnUNet_preprocessed")
    from bdfm_nnunet.probes.reconstruction_pictures import table
    from bdfm_nnunet.probes.reconstruction_probe import probe_reconstruction
    from bdfm_nnunet.probes.reconstruction_scoring import ReconstructionProbe

    probe = ReconstructionProbe(
        weights=settings.weights,
        dataset_id=settings.dataset,
        plans=settings.plans,
        configuration=settings.configuration,
        labels=settings.labels,
        channels=settings.channels,
        fold=settings.fold,
        cases=settings.cases,
        draws=settings.draws,
        output=settings.output,
        seed=settings.seed,
        device=settings.device,
    )
    result = probe_reconstruction(probe, out=settings.out)
    print(table(result))
    if result.extra["seen"]:
        print(result.extra["seen"])
    return 0


def compare(settings: argparse.Namespace) -> int:
    """Print the comparison, and write it."""
    from bdfm_nnunet.probes.arm_comparison import compare_arms
    from bdfm_nnunet.probes.reconstruction_pictures import comparison_table
    from bdfm_nnunet.results import write_result

    arms = each_once(((arm[0], [Path(file) for file in arm[1:]]) for arm in settings.arm), "--arm", "the arm")
    result = compare_arms(arms)
    if settings.out is not None:
        write_result(settings.out, result)
    print(comparison_table(result))
    return 0
