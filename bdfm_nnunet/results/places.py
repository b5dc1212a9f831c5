"""Paths as result files name them: without the name of a user, and so that they lead to the same file elsewhere.

A place is a path from the folder of the result file (`../labels`), one in a folder of nnU-Net
(`$nnUNet_raw/Dataset501_Demo`), one in the home folder (`~/scans`), or else an absolute path.
"""

import os
from pathlib import Path, PurePosixPath

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import VARIABLES

_FOREIGN = ("//", "\\")


def place_of(path: Path | str, *, beside: Path | str) -> str:
    """Return how a result file names a path.

    Args:
        path: of a file or folder.
        beside: folder of the result file.

    Example:
        >>> place_of("scans/labels", beside="scans/predictions"), place_of("out/a.pth", beside="out")
        ('../labels', 'a.pth')
    """
    target, folder, home = _absolute(path), _absolute(beside), Path.home()
    roots = {name: _absolute(root) for name in VARIABLES if (root := os.environ.get(name, "").strip())}
    variable = next((name for name, root in roots.items() if target.is_relative_to(root)), None)
    if variable is not None and not folder.is_relative_to(roots[variable]):
        return f"${variable}/{target.relative_to(roots[variable]).as_posix()}"
    if _are_near(target, folder, home):
        return Path(os.path.relpath(target, folder)).as_posix()
    return f"~/{target.relative_to(home).as_posix()}" if target.is_relative_to(home) else target.as_posix()


def find_place(place: str, *, beside: Path) -> Path:
    """Return the path that a place in a result file means here; a result file may come from anybody.

    Args:
        place: as `place_of` gives it.
        beside: folder of the result file.

    Raises:
        InputError: the environment variable in it is not set, or it cannot be a path of this machine.

    Example:
        >>> find_place("../labels", beside=Path("scans/predictions")).as_posix()
        'scans/predictions/../labels'
    """
    if not place.isprintable() or place.startswith(_FOREIGN):
        raise InputError(f"{place!r} is no path of a result file: restore the file, or write it anew")
    variable, slash, rest = place[1:].partition("/")
    if not place.startswith("$"):
        return Path(place).expanduser() if place.startswith("~/") else beside / place
    if variable not in VARIABLES or ".." in PurePosixPath(rest).parts or not slash or rest.startswith("/"):
        raise InputError(f"{place!r} is no path of a result file: restore the file, or write it anew")
    if not os.environ.get(variable, "").strip():
        raise InputError(f"{variable} is not set")
    return Path(os.environ[variable]) / rest


def _absolute(path: Path | str) -> Path:
    return Path(os.path.abspath(path))


def _are_near(target: Path, folder: Path, home: Path) -> bool:
    """Return whether a path from one to the other crosses neither a disk's root nor the homes of all users."""
    try:
        shared = Path(os.path.commonpath([target, folder]))
    except ValueError:  # on two drives of Windows
        return False
    return len(shared.parts) > 1 and shared != home.parent
