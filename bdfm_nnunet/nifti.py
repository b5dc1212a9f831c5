"""NIfTI files, read so that damage is noticed."""

import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError


def read_nifti(path: Path) -> tuple[Any, NDArray[Any]]:
    """Nibabel's image of a file and its values, as they are stored.

    Not by SimpleITK: it reads NaN as 0, and fills up a file that ends early, both without a word.

    Raises:
        InputError: the file cannot be read, or is not whole.
    """
    try:
        image: Any = nibabel.load(path)
        return image, np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError):
        raise InputError(f"{path} cannot be read as NIfTI (truncated or damaged): copy or write it again") from None
