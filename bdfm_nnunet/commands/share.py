"""`bdfm info` and `bdfm export`."""

import argparse
import json
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import SwitchOnce, command
from bdfm_nnunet.errors import InputError

STOCK = "nnUNetTrainer"


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    add = command(commands, "info", info, "tell what a file of weights is: network, plans, training data, licence")
    add("path", type=Path, metavar="CKPT", help="a checkpoint of any project that is known, or a model hub's folder")
    add("--json", action="store_true", help="print it as JSON")

    add = command(commands, "export", export, "write weights for others: a model hub's folder, or a stock model")
    add("path", type=Path, metavar="CKPT", help="a checkpoint; with --as a model's folder too")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="the folder to write, which must not exist")
    add("--as", dest="trainer", choices=(STOCK,), help="write a model that stock nnU-Net predicts with instead")
    add("--name", metavar="TITLE", help="title of the page about the weights (default: the folder's name)")
    add("--licence", metavar="TEXT", help="licence of the weights, CC BY 4.0 say (default: the one they state)")
    add(
        "--cases",
        action=SwitchOnce,
        default=True,
        help="list the ids of the cases that were seen, so that bdfm exposure recognises them (default: list them)",
    )


def info(settings: argparse.Namespace) -> int:
    """Print what a file of weights is."""
    from bdfm_nnunet.sharing import describe_weights

    found = describe_weights(settings.path)
    print(json.dumps(found.as_dict(), indent=2) if settings.json else found)
    return 0


def export(settings: argparse.Namespace) -> int:
    """Write weights into a folder for others."""
    if settings.trainer is None:
        from bdfm_nnunet.sharing import export_weights

        export_weights(settings.path, settings.out, name=settings.name, licence=settings.licence, cases=settings.cases)
        return 0
    for option, value in (("--name", settings.name), ("--licence", settings.licence)):
        if value is not None:
            raise InputError(f"{option} cannot go with --as: it belongs to the page about exported weights")
    if not settings.cases:
        raise InputError("--no-cases cannot go with --as: export the weights without --as to leave the ids out")
    from bdfm_nnunet.sharing import export_model

    export_model(settings.path, settings.out)
    return 0
