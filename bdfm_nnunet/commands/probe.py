"""`bdfm probe`: what a frozen encoder has kept of the images."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import command, count, dataset, whole
from bdfm_nnunet.nnunet_folders import nnunet_folder


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    parser = commands.add_parser("probe", help="measure what a frozen encoder has kept of the images")
    probes = parser.add_subparsers(title="probes", metavar="PROBE", required=True)
    add = command(probes, "spectrum", spectrum, "which frequencies a linear decoder recovers from each stage")
    dataset(add)
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("--weights", type=Path, metavar="CKPT", help="checkpoint of the encoder (default: random weights)")
    add("--channels", choices=("single", "all"), default="single", help="of a case at once (default: %(default)s)")
    add("--crops", type=count, default=64, metavar="N", help="crops to fit on (default: %(default)s)")
    add("-f", "--fold", type=whole, default=0, metavar="F", help="fold whose cases are held out (default: %(default)s)")
    add("--shells", type=count, default=8, metavar="N", help="radial shells (default: %(default)s)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the encoder runs (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="FILE.json", help="where the shares go, beside the screen")


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
