"""Files whose headers hold what no library would write."""

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

VALUES = np.zeros((5, 6, 7), np.uint8)
VALUES[1:3, 2:4, 3:5] = 1
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])


def save_with(path: Path, values: Any = VALUES, affine: Any = LPS, **fields: Any) -> Path:
    """Writes a NIfTI-1 file with these fields of the header as they are given."""
    content = nib.Nifti1Image(values, affine).to_bytes()
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(content))
    for name, value in fields.items():
        header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = header.binaryblock + content[348:]
    path.write_bytes(gzip.compress(whole, mtime=0) if path.name.lower().endswith(".gz") else whole)
    return path
