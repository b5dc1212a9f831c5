"""Regions of an atlas in clips of runs, for masks that hide whole regions."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bdfm_nnunet.data.region_maps import Atlas, Regions, read_atlas
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import SequenceHeader


class AtlasRegions:
    """A label map in the space of the runs; it is read when the first clip asks.

    Args:
        path: NIfTI file.

    Example:
        >>> import nibabel
        >>> from types import SimpleNamespace
        >>> nibabel.save(nibabel.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), "atlas.nii.gz")
        >>> header = SimpleNamespace(affine=np.eye(4))
        >>> AtlasRegions(Path("atlas.nii.gz")).of(header, (0, 0, 0), (3, 1, 1)).flatten()
        tensor([0, 4, 0], dtype=torch.int32)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._on_grid = lru_cache(maxsize=4)(self._sampled)  # runs in one space have one grid

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return AtlasRegions, (self.path,)

    @cached_property
    def _atlas(self) -> Atlas:
        return read_atlas(self.path)

    def of(
        self, header: SequenceHeader, corner: Sequence[int], size: Sequence[int], *, name: str = "the run"
    ) -> Tensor:
        """Return the region of each voxel of a clip, (X, Y, Z), by the nearest voxel of the atlas; 0 for none.

        Args:
            header: of the run.
            corner: first voxel of the clip.
            size: its voxels along x, y and z.
            name: of the run, in messages.

        Raises:
            InputError: the atlas cannot be read, or does not lie where the clip does.
        """
        affine = np.array(header.affine, dtype=np.float64)
        affine[:3, 3] += affine[:3, :3] @ np.asarray(corner)
        found = self._on_grid(tuple(map(tuple, affine.tolist())), tuple(size))
        if not found.any():
            raise InputError(
                f"no region of {self.path} lies where run {name} does: give an atlas in the space of the runs as "
                "pretraining.atlas"
            )
        return torch.from_numpy(found)

    def _sampled(self, affine: Sequence[Sequence[float]], size: Sequence[int]) -> Regions:
        return self._atlas.on(affine, size)
