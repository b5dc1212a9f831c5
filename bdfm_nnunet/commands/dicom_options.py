"""The options of `bdfm convert dicom`, and what they hand over."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import Add
from bdfm_nnunet.errors import InputError

DICOM = "dicom"
OPTIONS = ("--series", "--key", "--resample")


def add_dicom_options(add: Add) -> None:
    """Add the options for DICOM series."""
    add(
        "--series",
        type=Path,
        metavar="TABLE.csv",
        help="for `dicom`: the table of series and their channels; read if it is there, else written",
    )
    add(
        "--key",
        type=Path,
        metavar="KEY.json",
        help="for `dicom`: who is who, kept apart from the data; completed if it is there, else written",
    )
    add("--resample", metavar="CHANNEL", help="for `dicom`: put all channels of a case onto the grid of this one")


def dicom_arguments(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `convert_dicom` that the options tell.

    Raises:
        InputError: an option is for other releases.
    """
    if settings.link != "copy":
        raise InputError("--link cannot be used here: volumes of DICOM series are written anew")
    if settings.entry is not None:
        raise InputError("--entry cannot be used here: --series tells which series is which channel")
    named = {} if settings.name is None else {"name": settings.name}
    chosen = {"series": settings.series, "key": settings.key, "resample": settings.resample, **named}
    return {"unlabelled": settings.unlabelled, **chosen}
