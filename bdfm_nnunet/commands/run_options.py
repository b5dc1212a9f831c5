"""The options of `bdfm convert` for 4-D runs, and what they hand over."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import Add, each_once, positive, whole
from bdfm_nnunet.errors import InputError

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion import Release

PREPARATION = {
    "spacing": "spacing", "time_step": "time_step", "size": "size", "grid": "grid", "tr": "tr", "drop": "drop",
    "max_fd": "max_displacement", "min_frames": "min_frames", "standardise": "standardise",
    "store": "store", "legacy": "legacy",
}  # fmt: skip
"""Options to fields of `RunSettings`."""
OF_FILES = ("mask", "confounds", "space")
FMRI_FOLDER = "fmri-folder"


def add_run_options(add: Add) -> None:
    """Add the options for releases of 4-D runs."""
    add("--spacing", type=positive, metavar="MM", help="fMRI: stored voxels (default: 2)")
    add("--time-step", type=positive, metavar="S", help="fMRI: seconds between stored frames (default: 0.8)")
    add("--size", type=whole, metavar="N", help="fMRI: voxels per axis of the stored volume, 0 for all (default: 96)")
    add(
        "--grid",
        choices=("template", "own"),
        help="fMRI: store the same box of MNI space for all runs, or the middle of each run's own field of view "
        "(default: what the release is in)",
    )
    add("--tr", type=positive, metavar="S", help="fMRI: seconds between frames, instead of JSON files and headers")
    add("--drop", type=whole, metavar="N", help="fMRI: frames dropped at the start (default: by the confounds)")
    add("--max-fd", type=positive, metavar="MM", help="fMRI: refuse runs of a larger mean framewise displacement")
    add("--min-frames", type=whole, metavar="N", help="fMRI: refuse runs of fewer stored frames (default: 20)")
    add(
        "--standardise",
        choices=("run", "voxel"),
        help="fMRI: standard scores over the whole run, or of each voxel over time, without anatomy (default: run)",
    )
    add("--store", choices=("float16", "int16", "int8"), help="fMRI: number type (default: float16)")
    published = "fMRI: prepare runs as the public code of NeuroSTORM does, faults included"
    add("--legacy", action="store_true", default=None, help=published)
    add("--families", type=Path, metavar="TABLE.csv", help="fMRI: ids and families, which no split tears apart")
    add("--mask", metavar="PATTERN", help="for `fmri-folder`: where brain masks lie")
    add("--confounds", metavar="PATTERN", help="for `fmri-folder`: where tables of confounds lie, with their ending")
    add("--space", metavar="NAME", help="for fMRIPrep's derivatives: the space of the runs (MNI152NLin6Asym_res-2)")


def given_for_runs(settings: argparse.Namespace) -> list[str]:
    """Return the options for runs that were given."""
    names = (*PREPARATION, "families", *OF_FILES)
    return [f"--{name.replace('_', '-')}" for name in names if getattr(settings, name) is not None]


def run_arguments(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `convert_runs` that the options tell.

    Raises:
        InputError: an option is out of range, or is for volumes.
    """
    from bdfm_nnunet.dataset_conversion.run_settings import RunSettings

    of_volumes = {"--unlabelled": settings.unlabelled, "--link": settings.link != "copy"}
    for option, given in of_volumes.items():
        if given:
            raise InputError(f"{option} cannot be used here: it is for releases of volumes, and runs are written anew")
    values = {field: getattr(settings, name) for name, field in PREPARATION.items()}
    chosen = {field: value for field, value in values.items() if value is not None}
    return {"settings": RunSettings(**chosen), "families": settings.families}


def own_run_entry(settings: argparse.Namespace) -> "Release | None":
    """Return the table entry that the options for runs describe; None if the release's own is meant.

    Raises:
        InputError: the options do not fit together or to the release.
    """
    from bdfm_nnunet.dataset_conversion import find_release
    from bdfm_nnunet.dataset_conversion.reading.functional_layout import fmri_folder_release
    from bdfm_nnunet.dataset_conversion.releases.functional import in_space

    if settings.space is not None:
        return in_space(find_release(settings.release), settings.space)
    if settings.release != FMRI_FOLDER:
        return None
    images: Mapping[str, str] = each_once(settings.image, "--image", "channel")
    if len(images) > 1:
        raise InputError(f"{FMRI_FOLDER} has runs of one channel: give --image once, such as bold='**/{{case}}_bold'")
    if (settings.mask or settings.confounds) and not images:
        raise InputError("--mask and --confounds need the pattern of the runs: give --image bold='**/{case}_bold', too")
    named = {"name": settings.name, "run": next(iter(images.values()), None)}
    return fmri_folder_release(
        mask=settings.mask,
        confounds=settings.confounds,
        patient=settings.patient,
        **{key: value for key, value in named.items() if value is not None},
    )
