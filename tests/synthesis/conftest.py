"""Tiny label maps in three forms of files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.synthesis.tiny_heads import tiny_labels


@pytest.fixture(scope="session")
def tiny_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three label maps: in LPS, in another orientation, stored as float. Read only."""
    folder = tmp_path_factory.mktemp("maps")
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(tiny_labels(0), lps), folder / "head_a.nii.gz")
    turned = np.array([[1.0, 0, 0, 0], [0, 0, 1.0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(tiny_labels(1)[::-1, ::-1].transpose(0, 2, 1)[:, ::-1], turned), folder / "head_b.nii.gz")
    nib.save(nib.Nifti1Image(tiny_labels(2).astype(np.float32), lps), folder / "head_c.nii")
    return folder
