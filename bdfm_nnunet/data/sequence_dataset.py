"""Preprocessed 4-D runs as nnU-Net's trainers know data sets, with checks that they are as `bdfm plan` left them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.data.sequence_cases import Box, SequenceCases
from bdfm_nnunet.images.sequence_files import FRAMES, HEADER, MASK, SequenceHeader


class SequenceDataset:
    """The runs of a folder of preprocessed data.

    A file is compared with its checksum when a process first reads of it, where `bdfm plan` has noted one.

    Args:
        folder: that of the runs, `nnUNet_preprocessed/DATASET/sequences`.
        identifiers: ids of the runs; all of them by default.
        folder_with_segs_from_previous_stage: nothing else than None; runs have no segmentations.

    Attributes:
        source_folder: the folder.
        identifiers: ids of the runs, sorted.
        cases: what reads them, without checksums.

    Raises:
        InputError: the folder is missing, or none or not all of the runs are in it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        identifiers: Sequence[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> None:
        assert folder_with_segs_from_previous_stage is None
        self.source_folder = os.fspath(folder)
        self.folder_with_segs_from_previous_stage = None
        self.cases = SequenceCases(folder, None if identifiers is None else [*identifiers])
        self.identifiers = list(self.cases.cases)
        self._checksums = Checksums.of(Path(folder))

    @staticmethod
    def get_identifiers(folder: str | os.PathLike[str]) -> list[str]:
        """Return the ids of all runs of a folder, sorted.

        Raises:
            InputError: there is none.
        """
        return list(SequenceCases(folder).cases)

    @staticmethod
    def unpack_dataset(folder: str, *_: Any, **__: Any) -> None:
        """Do nothing, as nnU-Net's class of compressed arrays: blocks are decompressed when they are read."""

    def header(self, identifier: str) -> SequenceHeader:
        """Return what is known of a run; see `SequenceCases`."""
        self._verify(identifier, HEADER)
        return self.cases.header(identifier)

    def mask(self, identifier: str, box: Box | None = None) -> NDArray[np.bool_]:
        """Return the brain mask of a run, (x, y, z), or the part of it in a box; see `SequenceCases`."""
        self._verify(identifier, HEADER, MASK)
        return self.cases.mask(identifier, box)

    def clip(self, identifier: str, start: int, frames: int, box: Box | None = None) -> NDArray[np.float32]:
        """Return successive frames of a run as standard scores, (x, y, z, t); see `SequenceCases`."""
        self._verify(identifier, HEADER, FRAMES)
        return self.cases.clip(identifier, start, frames, box)

    def _verify(self, identifier: str, *endings: str) -> None:
        """Raise InputError if a file of a run is not as it was."""
        if self._checksums is not None:
            for ending in endings:
                self._checksums.verify(f"{identifier}{ending}")
