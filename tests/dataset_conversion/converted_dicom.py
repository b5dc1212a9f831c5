"""`bdfm convert dicom` in tests, and what it has written."""

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bdfm_nnunet.cli import main
from bdfm_nnunet.table_files import read_table
from tests.dicom_series import Series

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])


def convert(pacs: Path, *more: Any) -> int:
    return main(["convert", "dicom", str(pacs), "-d", "70", "--workers", "1", *map(str, more)])


def image(raw: Path, case: str, channel: int = 0, *, name: str = "DICOM", part: str = "Ts") -> nib.Nifti1Image:
    return nib.load(raw / f"Dataset070_{name}" / f"images{part}" / f"{case}_{channel:04d}.nii.gz")


def assert_is(found: nib.Nifti1Image, series: Series) -> None:
    """The image has the values of the series, each where it was."""
    assert np.array_equal(np.asarray(found.dataobj), series.values * np.float64(np.float32(series.slope)))
    for affine in (found.get_sform(), found.get_qform()):
        assert np.allclose(affine, LPS_TO_RAS @ series.affine, atol=1e-4)


def rows_of(table: Path) -> list[dict[str, str]]:
    header, *rows = read_table(table)
    return [dict(zip(header, row, strict=True)) for row in rows]


def everything_in(folder: Path) -> str:
    """All that stands in the files below a folder and in their names, unpacked."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(path.name)
        if path.is_file():
            content = path.read_bytes()
            texts.append((gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("latin-1"))
    return "\n".join(texts)
