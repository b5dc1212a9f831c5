"""Tables of confounds of a run: how much the head moved, and which frames came before the steady state.

Names of columns differ between versions of fMRIPrep (`framewise_displacement`, `FramewiseDisplacement`), so they are
compared without regard to capitals and underscores.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import read_regular
from bdfm_nnunet.table_files import read_table, says

RADIUS = 50.0
"""mm of the sphere on which rotations count as ways (Power et al. 2012, https://doi.org/10.1016/j.neuroimage.2011.10.018)."""
_DISPLACEMENT = ("framewisedisplacement", "fd")
_MOTION = (
    ("transx", "transy", "transz", "rotx", "roty", "rotz"),
    ("x", "y", "z", "rotx", "roty", "rotz"),
)
_NON_STEADY = re.compile(r"nonsteadystateoutlier\d+")


@dataclass(frozen=True)
class Confounds:
    """What a table says of the frames of a run.

    Attributes:
        frames: its rows.
        displacement: framewise displacement in mm, NaN where it is not known; None where the table does not tell it.
        non_steady: frames up to the last one that is marked as not in steady state.
        motion: translations in mm and rotations in radians, (frames, 6), NaN where they are not known; None where the
            table does not tell them.
    """

    frames: int
    displacement: NDArray[np.float64] | None
    non_steady: int = 0
    motion: NDArray[np.float64] | None = None

    def mean_displacement(self, dropped: int) -> float | None:
        """Return the mean over the frames that are kept, None where none is known."""
        if self.displacement is None:
            return None
        known = self.displacement[dropped:]
        known = known[np.isfinite(known)]
        return float(f"{known.mean():.6g}") if known.size else None


def read_confounds(path: Path, name: str) -> Confounds:
    """Read a table of confounds: of fMRIPrep with named columns, or the numbers of HCP's `Movement_Regressors.txt`.

    Without a column of framewise displacement it is computed from the six parameters of motion (Power et al. 2012).

    Args:
        path: the file.
        name: name of the file in messages.

    Raises:
        Refusal: the file cannot be read, or a number in it is none.
    """
    try:
        if path.suffix.lower() == ".txt":
            return _without_names(read_regular(path), name)
        rows = read_table(path, name)
    except InputError as error:
        raise Refusal(str(error).replace(str(path), name, 1)) from None
    if len(rows) < 2:
        raise Refusal(f"{name} has no row of numbers below the names of its columns: make it anew or leave it out")
    columns = {re.sub(r"[^a-z0-9]", "", cell.casefold()): index for index, cell in enumerate(rows[0])}
    marked = [_column(rows, columns[key], name) for key in columns if _NON_STEADY.fullmatch(key)]
    flagged = [int(frame) for values in marked for frame in np.flatnonzero(values > 0)]
    told = [_column(rows, columns[key], name) for key in _DISPLACEMENT if key in columns]
    motion = _motion(rows, columns, name)
    displacement = told[0] if told else None if motion is None else framewise_displacement(motion)
    return Confounds(len(rows) - 1, displacement, max(flagged, default=-1) + 1, motion)


def _motion(rows: list[list[str]], columns: dict[str, int], name: str) -> NDArray[np.float64] | None:
    for keys in _MOTION:
        if all(key in columns for key in keys):
            return np.stack([_column(rows, columns[key], name) for key in keys], axis=1)
    return None


def _column(rows: list[list[str]], index: int, name: str) -> NDArray[np.float64]:
    cells = [row[index] if index < len(row) else "" for row in rows[1:]]
    try:
        return np.array([float(cell) if says(cell) else np.nan for cell in cells])
    except ValueError as error:
        column = rows[0][index]
        raise Refusal(f"{name} has no number in column {column} ({error}): make it anew or leave it out") from None


def _without_names(content: bytes, name: str) -> Confounds:
    """Read motion in mm and degrees, six columns or more between white space, as HCP's pipelines write it."""
    lines = [line.split() for line in content.decode("utf-8", "replace").splitlines() if line.strip()]
    try:
        motion = np.array([[float(cell) for cell in line[:6]] for line in lines]).reshape(len(lines), 6)
        motion[:, 3:] = np.deg2rad(motion[:, 3:])
        return Confounds(len(motion), framewise_displacement(motion), motion=motion)
    except ValueError:
        raise Refusal(f"{name} is no table of six or more numbers a frame: make it anew or leave it out") from None


def framewise_displacement(motion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Power's framewise displacement in mm, (frames), NaN for the first frame.

    Args:
        motion: translations in mm and rotations in radians of each frame, (frames, 6).
    """
    steps = np.abs(np.diff(motion, axis=0))
    way = steps[:, :3].sum(axis=1) + RADIUS * steps[:, 3:].sum(axis=1)
    return np.concatenate([[np.nan], way])
