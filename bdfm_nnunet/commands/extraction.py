"""`bdfm features`: what a frozen encoder makes of images."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import command, dataset_id, reading, reading_of
from bdfm_nnunet.errors import InputError


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(commands, "features", features, "write the features of images by a frozen encoder")
    add("images", nargs="+", type=Path, metavar="IMAGES", help="NIfTI files or folders; channels end in _0000, _0001")
    add("--weights", required=True, metavar="CKPT", help="checkpoint of the encoder, or last:ID")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="folder for CASE.npz, features.csv and .json")
    add("-d", "--dataset", type=dataset_id, metavar="ID", help="data set whose planned network reads the weights")
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="its plans (default: %(default)s)")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("--maps", action="store_true", help="write the feature maps of every stage too")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the encoder runs (default: %(default)s)")
    reading(add)


def features(settings: argparse.Namespace) -> int:
    """Write the features, and tell how the images were prepared."""
    if settings.out.is_file():
        raise InputError(f"{settings.out} is a file: name a folder for the features")
    from bdfm_nnunet.studies.image_features import Planned, write_features

    planned = settings.dataset and Planned(
        dataset_id=settings.dataset, plans=settings.plans, configuration=settings.configuration
    )
    described = write_features(
        settings.images,
        weights=settings.weights,
        out=settings.out,
        planned=planned or None,
        maps=settings.maps,
        device=settings.device,
        reading=reading_of(settings),
    )
    print(f"{len(described['cases'])} cases in {settings.out}: {_told(described)}")
    for note in described["notes"]:
        print(f"  {note}")
    return 0


def _told(described: dict[str, Any]) -> str:
    images, last = described["images"], described["stages"][-1]
    spacing = "x".join(f"{step:g}" for step in images["spacing"])
    schemes, stride = ", ".join(dict.fromkeys(images["normalisation"])), "x".join(map(str, last["stride"]))
    spaced = f"resampled to {spacing} mm" if spacing else "at their own spacing"
    return f"{last['channels']} features of stride {stride}, images {spaced}, {schemes}"
