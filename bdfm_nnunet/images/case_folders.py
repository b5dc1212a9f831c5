"""Folders with one image file per case; entries that are not cases are counted, named or refused."""

import logging
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_read, is_unfinished
from bdfm_nnunet.images.volume_endings import NOT_READ
from bdfm_nnunet.leftovers import is_leftover, is_leftover_folder

logger = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
_VOLUMES = (*NOT_READ, ".img", ".hdr", ".tif", ".tiff")
_COMPANIONS = (".json", ".csv", ".npz", ".pkl", ".txt", ".md", ".log", ".png", ".pdf", ".yaml", ".yml",
               ".lock")  # fmt: skip
"""Endings of what nnU-Net and our commands write beside segmentations, and of notes to read."""
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
          stat.S_IFSOCK: "a socket"}  # fmt: skip
MOST_NAMED = 5


@dataclass(frozen=True)
class CaseFolder:
    """The content of a folder of images.

    Attributes:
        files: name without ending -> its file, sorted by name.
        leftovers: names of left-overs of operating systems and of killed processes.
        others: names of other entries that are neither images nor files that usually accompany them.
    """

    files: dict[str, Path]
    leftovers: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def list_cases(folder: Path, *, endings: Sequence[str] = NIFTI, what: str = "segmentations") -> CaseFolder:
    """List the image files of a folder by name without ending.

    The log counts left-overs and names entries that are not images. An entry that may be meant as an image but cannot
    be read as one is refused.

    Args:
        folder: folder of the images; subfolders are not searched.
        endings: file name endings of the images.
        what: name of the files in messages.

    Raises:
        InputError: the folder is missing or has no images; an entry looks like an image but is a folder, a broken link,
            a pipe, a hidden file, a file of another format or with an ending in capitals; or two files are one case.

    Example:
        >>> import nibabel, numpy
        >>> for name in ("case_1.nii.gz", "case_2.nii.gz"):
        ...     nibabel.save(nibabel.Nifti1Image(numpy.zeros((4, 4, 4), "uint8"), numpy.eye(4)), name)
        >>> list(list_cases(Path(".")).files)
        ['case_1', 'case_2']
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder} is not a folder: give the folder that holds the {what}")
    found = CaseFolder({})
    for path in sorted(_entries(folder)):
        _sort(path, found, endings)
    if not found.files:
        raise InputError(f"{folder} holds no {' or '.join(endings)} file: give the folder that holds the {what}")
    _tell(folder, found)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise cannot_read(folder, error) from None


def _sort(path: Path, found: CaseFolder, endings: Sequence[str]) -> None:
    if is_leftover(path.name) or is_leftover_folder(path.name) or is_unfinished(path.name):
        found.leftovers.append(path.name)
        return
    ending = next((end for end in endings if path.name.lower().endswith(end.lower())), None)
    if ending is None:
        _check_no_image(path, endings)
        if path.is_dir() or not path.name.lower().endswith(_COMPANIONS):
            found.others.append(path.name)
        return
    _check_file(path, ending)
    case = path.name[: -len(ending)]
    if case in found.files:
        raise InputError(f"{path} and {found.files[case].name} are the same case: remove one of the two")
    found.files[case] = path


def _check_no_image(path: Path, endings: Sequence[str]) -> None:
    name = path.name.lower()
    if name.endswith(_VOLUMES) or ".nii" in name:
        raise InputError(
            f"{path} looks like an image but does not end in {' or '.join(endings)}: convert it to that format, or "
            "move it away"
        )


def _check_file(path: Path, ending: str) -> None:
    """Refuse an entry that has the name but not the form of an image file."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError as error:
        raise cannot_read(path, error) from None
    if kind != stat.S_IFREG:
        raise InputError(
            f"{path} is {_KINDS.get(kind, 'no regular file')}, expected a file: replace it by the file of the case, or "
            "move it away"
        )
    if not path.name.endswith(ending):
        raise InputError(
            f"{path} ends in {path.name[-len(ending) :]}, which nnU-Net does not take for {ending}: rename it"
        )
    if path.name.startswith("."):
        raise InputError(f"{path} is hidden (its name begins with a dot): rename it, or move it away")


def _tell(folder: Path, found: CaseFolder) -> None:
    if found.leftovers:
        logger.info("%s: %d left-overs of other programs passed over", folder, len(found.leftovers))
    if found.others:
        more = f" and {len(found.others) - MOST_NAMED} more" if len(found.others) > MOST_NAMED else ""
        named = ", ".join(found.others[:MOST_NAMED])
        logger.warning("%s: %s%s are no cases and were passed over", folder, named, more)
