"""Raw releases to nnU-Net data sets: one table entry per release, one engine."""

import difflib
import os
from typing import Any

from bdfm_nnunet.dataset_conversion.conversion import convert_release
from bdfm_nnunet.dataset_conversion.dicom_folders import DICOM, convert_dicom
from bdfm_nnunet.dataset_conversion.reading.bids_layout import BIDS, bids_release
from bdfm_nnunet.dataset_conversion.reading.folder_layout import FOLDER, folder_release
from bdfm_nnunet.dataset_conversion.reading.functional_layout import FMRI_BIDS, FMRI_FOLDER, FMRIPREP
from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.releases import KNOWN_RELEASES
from bdfm_nnunet.dataset_conversion.releases.functional import FUNCTIONAL
from bdfm_nnunet.dataset_conversion.run_folders import convert_runs
from bdfm_nnunet.dataset_conversion.writing.manifest import ConversionReport
from bdfm_nnunet.errors import InputError

__all__ = [
    "RELEASES",
    "ConversionReport",
    "Release",
    "bids_release",
    "convert",
    "convert_dicom",
    "convert_release",
    "convert_runs",
    "find_release",
    "folder_release",
]

_OF_ANY_STUDY = (FOLDER, BIDS)
_RUNS_OF_ANY_STUDY = (FMRIPREP, FMRI_BIDS, FMRI_FOLDER)
RELEASES: dict[str, Release] = {
    **KNOWN_RELEASES,
    **{release.name: release for release in _OF_ANY_STUDY},
    **FUNCTIONAL,
    **{release.name: release for release in _RUNS_OF_ANY_STUDY},
    DICOM.name: DICOM,
}
"""Every release by name, in the order of the lists."""


def find_release(name: str) -> Release:
    """Return the table entry of a release.

    Raises:
        InputError: there is none of that name.
    """
    if name not in RELEASES:
        near = difflib.get_close_matches(name.lower(), RELEASES, n=1)
        hint = f"did you mean {near[0]}, or " if near else ""
        raise InputError(
            f"release {name!r} is not known: {hint}see `bdfm releases` for the list", entry="unknown-release"
        )
    return RELEASES[name]


def convert(
    release: str | Release, source: str | os.PathLike[str], *, dataset_id: int, **settings: Any
) -> ConversionReport:
    """Convert the download of a release.

    Args:
        release: its name, or an entry of your own.
        source: folder of the unpacked download.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        settings: further arguments of `convert_release`; of `convert_runs` for a release of 4-D runs, of
            `convert_dicom` for `dicom`.

    Raises:
        InputError: as `convert_release`, `convert_runs`, `convert_dicom` and `find_release`.
    """
    if release == DICOM.name:
        return convert_dicom(source, dataset_id=dataset_id, **settings)
    entry = find_release(release) if isinstance(release, str) else release
    engine = convert_release if entry.runs is None else convert_runs
    return engine(entry, source, dataset_id=dataset_id, **settings)
