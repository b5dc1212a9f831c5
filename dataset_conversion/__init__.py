"""Raw releases to nnU-Net data sets: one table entry per release, one engine."""

import difflib
import os
from pathlib import Path

from bdfm_nnunet.dataset_conversion.brats import BRATS
from bdfm_nnunet.dataset_conversion.engine import convert_release
from bdfm_nnunet.dataset_conversion.manifest import ConversionReport
from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.errors import InputError

__all__ = ["RELEASES", "ConversionReport", "Release", "convert", "convert_release", "find_release"]

RELEASES: dict[str, Release] = {**BRATS}


def find_release(name: str) -> Release:
    """The table entry of a release.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RELEASES:
        near = difflib.get_close_matches(name.lower(), RELEASES, n=1)
        hint = f"did you mean {near[0]}, or " if near else ""
        raise InputError(f"release {name!r} is not known: {hint}see `bdfm releases` for the list")
    return RELEASES[name]


def convert(
    release: str,
    source: str | os.PathLike[str],
    *,
    dataset_id: int,
    unlabelled: bool = False,
    link: str = "copy",
    workers: int = 1,
    dry_run: bool = False,
    manifest: str | os.PathLike[str] | None = None,
) -> ConversionReport:
    """Converts the download of a known release; the arguments are those of `convert_release`."""
    return convert_release(
        find_release(release),
        Path(source),
        dataset_id=dataset_id,
        unlabelled=unlabelled,
        link=link,
        workers=workers,
        dry_run=dry_run,
        manifest=manifest,
    )
