"""`bdfm predict`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import count
from bdfm_nnunet.folders import nnunet_folder, trainer_search_path

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
PURPOSE = (
    "nnUNetv2_predict, faster, with our trainers; takes its arguments (or -m FOLDER for -d, -c, -tr, -p) and these"
)


def add_commands(commands: Any) -> None:
    """Adds the parser; what it shows under `--help` is made by `predict`."""
    commands.add_parser("predict", help=PURPOSE, description=PURPOSE, add_help=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bdfm predict", description=PURPOSE, usage="%(prog)s [our options] [options of nnU-Net's command]",
        add_help=False, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    precision = "type of the network's products; auto: nnU-Net's fp16 on CUDA, bf16 on a CPU made for it, else fp32"
    windows = "windows in one pass, mirrored copies counted (default: 1 on a CPU, what fits on CUDA)"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)
    add("--windows", type=count, metavar="N", help=windows)
    add("--compile", action="store_true", help="compile the network first, where it can be")
    add(
        "--postprocess",
        type=Path,
        metavar="RULES.json",
        help="apply the rules of `bdfm postprocess tune` to each case of this run",
    )
    return parser


def predict(arguments: Sequence[str]) -> int:
    """Runs nnU-Net's prediction command with our predictor."""
    parser = _parser()
    ours, rest = parser.parse_known_args(list(arguments))
    if {"-h", "--help"} & set(rest):
        parser.print_help()
    elif "-m" not in rest:
        nnunet_folder("nnUNet_results")
    _run(rest, ours)
    return 0


def _run(arguments: Sequence[str], ours: argparse.Namespace) -> None:
    os.environ["nnUNet_extTrainer"] = trainer_search_path()
    from bdfm_nnunet.evaluation.postprocessing import read_rules

    rules = read_rules(ours.postprocess) if ours.postprocess is not None else None  # before hours of prediction
    from bdfm_nnunet.prediction.command import Options, run_command

    options = Options(precision=ours.precision, windows=ours.windows, compile=ours.compile, rules=rules)
    run_command(arguments, options)
