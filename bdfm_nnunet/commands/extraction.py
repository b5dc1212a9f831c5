"""`bdfm features` and `bdfm connectivity`: one vector per case, of a frozen encoder or of time courses."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import (
    Add,
    command,
    count,
    dataset,
    dataset_id,
    not_negative,
    options_given,
    reading,
    reading_of,
)
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.safe_names import printable

_OF_VECTORS = ("stages", "pool", "foreground", "window", "npy")
"""Options of one vector per case."""


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(commands, "features", features, "write the features of images by a frozen encoder")
    add("images", nargs="*", type=Path, metavar="IMAGES",
        help="NIfTI files or folders, channels ending in _0000, _0001 (default: preprocessed cases of -d)")  # fmt: skip
    add("--weights", required=True, metavar="CKPT",
        help="checkpoint of the encoder, the folder of a training (nnU-Net's too), or last:ID")  # fmt: skip
    add("-o", "--out", required=True, type=Path, metavar="FILE|DIR",
        help="FILE.npz or FILE.csv for one vector per case; a folder for a CASE.npy each, or with IMAGES for CASE.npz, "
        "features.csv and .json")  # fmt: skip
    add("-d", "--dataset", type=dataset_id, metavar="ID", help="data set; with IMAGES, whose network reads the weights")
    add("-p", "--plans", metavar="NAME", help="its plans (default: those of the weights, or else BDFMPlans)")
    add("-c", "--configuration", metavar="CONFIG", help="configuration (default: that of the weights, or 3d_fullres)")
    add("--stages", default="last", metavar="S", help="last, all, or numbers like 0,2 (default: %(default)s)")
    add("--pool", choices=("mean", "max", "mean+std", "covariance"), default="mean",
        help="how positions become a vector (default: %(default)s)")  # fmt: skip
    add("--foreground", action="store_true", help="count only voxels that are not background around the head")
    add("--window", choices=("patch", "whole"), default="patch",
        help="what the encoder sees at once: patches that cover the image, or all (default: %(default)s)")  # fmt: skip
    add("--npy", action="store_true", help="write CASE.npy into a folder for IMAGES too")
    add("--maps", action="store_true", help="write the feature maps of every stage too (IMAGES into a folder)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the encoder runs (default: %(default)s)")
    reading(add)
    _add_connectivity(command(commands, "connectivity", connectivity, "write how regions of 4-D runs go together"))


def _add_connectivity(add: Add) -> None:
    dataset(add)
    add("-o", "--out", required=True, type=Path, metavar="FILE|DIR", help="FILE.npz or FILE.csv, or a folder")
    add("--atlas", type=Path, metavar="FILE", help="label map of regions in the space of the runs (default: blocks)")
    add("--blocks", type=count, default=100, metavar="N",
        help="blocks of equal size that fill the brain, without an atlas (default: %(default)s)")  # fmt: skip
    add("--partial", action="store_true", help="partial correlations of a shrunken covariance")
    add("--high-pass", type=not_negative, default=128.0, metavar="SECONDS",
        help="shortest period that is taken for drift, 0 for none (default: %(default)s)")  # fmt: skip
    add("--global-signal", action="store_true", help="take the mean over the brain out of the time courses")
    add("--confounds", type=Path, metavar="DIR", help="folder of the download, to take out motion of its tables")


def features(settings: argparse.Namespace) -> int:
    """Write the features, and tell how the images were prepared."""
    from bdfm_nnunet.probes.feature_tables import is_table

    if settings.out.is_file() and not is_table(settings.out):
        raise InputError(f"{settings.out} is a file: name a folder for the features, or a table FILE.npz or FILE.csv")
    if settings.out.is_dir() and is_table(settings.out):
        raise InputError(f"{settings.out} is a folder: name a file for the table")
    if not settings.images and settings.dataset is None:
        raise InputError("no images are named: give IMAGES, or a data set with -d ID for its preprocessed cases")
    if settings.images and not is_table(settings.out) and not settings.npy:
        return _maps_of_files(settings)
    return _vectors(settings, one_table=is_table(settings.out))


def _maps_of_files(settings: argparse.Namespace) -> int:
    from bdfm_nnunet.studies.image_features import write_features

    if given := [name for name in _OF_VECTORS if getattr(settings, name) not in (False, "last", "mean", "patch")]:
        raise InputError(f"--{given[0]} is for one vector per case: name a table with -o FILE.npz, or give --npy")
    described = write_features(
        settings.images,
        weights=settings.weights,
        out=settings.out,
        planned=_planned(settings),
        maps=settings.maps,
        device=settings.device,
        reading=reading_of(settings),
    )
    print(f"{len(described['cases'])} cases in {settings.out}: {_told(described)}")
    for note in described["notes"]:
        print(f"  {note}")
    return 0


def _planned(settings: argparse.Namespace) -> Any:
    """Return the planned network that reads the weights of images; None for that of the file."""
    from bdfm_nnunet.studies.image_features import Planned

    if settings.dataset is None:
        return None
    return Planned(
        dataset_id=settings.dataset,
        plans=settings.plans or "BDFMPlans",
        configuration=settings.configuration or "3d_fullres",
    )


def _vectors(settings: argparse.Namespace, *, one_table: bool) -> int:
    if settings.maps:
        raise InputError("--maps are written for IMAGES into a folder: name images and a folder, or leave it out")
    if settings.npy and one_table:
        raise InputError(f"--npy writes a file per scan, but -o {settings.out} is one table: name a folder")
    from bdfm_nnunet.probes.subject_features import FeatureSettings, dataset_features, file_features

    chosen = FeatureSettings(
        stages=settings.stages,
        pooling=settings.pool,
        foreground=settings.foreground,
        window=settings.window,
        device=settings.device,
    )
    if settings.images:
        table = file_features(
            settings.images, settings.weights, settings.out, chosen, planned=_planned(settings),
            reading=reading_of(settings),
        )  # fmt: skip
    else:
        nnunet_folder("nnUNet_preprocessed")
        table = dataset_features(
            settings.dataset, settings.weights, settings.out, chosen, plans=settings.plans,
            configuration=settings.configuration, reading=reading_of(settings),
        )  # fmt: skip
    print(f"{len(table.cases)} cases with {table.features.shape[1]} features each in {settings.out}")
    for note in table.description["notes"]:
        print(f"  {note}")
    return 0


def connectivity(settings: argparse.Namespace) -> int:
    """Write the connectivity of the runs of a data set."""
    from bdfm_nnunet.probes.functional_connectivity import ConnectivitySettings, connectivity_features

    if settings.atlas is not None and options_given(settings, ["blocks"]):
        raise InputError("--atlas and --blocks were given: name an atlas, or a number of blocks")
    chosen = ConnectivitySettings(
        atlas=settings.atlas, blocks=settings.blocks, partial=settings.partial, high_pass=settings.high_pass,
        global_signal=settings.global_signal, confounds=settings.confounds,
    )  # fmt: skip
    table = connectivity_features(settings.dataset, settings.out, chosen)
    print(f"{len(table.cases)} runs with {table.features.shape[1]} connections each in {settings.out}")
    for note in table.description["notes"]:
        print(f"  {printable(note)}")
    return 0


def _told(described: dict[str, Any]) -> str:
    images, last = described["images"], described["stages"][-1]
    spacing = "x".join(f"{step:g}" for step in images["spacing"])
    schemes, stride = ", ".join(dict.fromkeys(images["normalisation"])), "x".join(map(str, last["stride"]))
    spaced = f"resampled to {spacing} mm" if spacing else "at their own spacing"
    return f"{last['channels']} features of stride {stride}, images {spaced}, {schemes}"
