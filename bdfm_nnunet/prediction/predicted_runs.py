"""Runs of functional MRI whose subjects are predicted: converted data sets, or the runs that folds leave out."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bdfm_nnunet.data.clip_batches import clip_corner, clip_starts, read_clip
from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import RUN_SCORES
from bdfm_nnunet.nnunet_folders import nnunet_folder

_SAME_STEP = 0.02


class RunFiles:
    """The runs of a folder.

    Args:
        folder: a data set that `bdfm convert fmri-...` has written, its folder of runs, or that of preprocessed ones.
        configuration: of the model; its spacing and kind of standard scores are what runs must have.
        cases: ids of the runs; all of them by default.

    Attributes:
        names: ids of the runs.
        folder: as given.

    Raises:
        InputError: the folder holds no runs, or not those.
    """

    def __init__(self, folder: Path, configuration: Any, cases: Sequence[str] | None = None) -> None:
        self.runs = SequenceCases(folder, cases)
        self.folder, self.names = folder, list(self.runs.cases)
        self.spacing = tuple(float(step) for step in configuration.spacing)
        self.standardised: str = configuration.configuration.get("standardised", RUN_SCORES)

    def check(self) -> None:
        """Read the header and a frame of each run.

        Raises:
            InputError: a run is damaged, or has other voxels, another time between frames or other standard scores than
                those of the training.
        """
        for case in self.names:
            header = self.runs.header(case)
            steps = (*header.spacing, header.repetition_time)
            if any(abs(has / wants - 1) > _SAME_STEP for has, wants in zip(steps, self.spacing, strict=True)):
                raise InputError(
                    f"run {case} in {self.folder} has {_told(steps)}, the model is for {_told(self.spacing)}: convert "
                    f"it with --spacing {self.spacing[0]:g} --time-step {self.spacing[3]:g}"
                )
            if header.standardised != self.standardised:
                raise InputError(
                    f"run {case} in {self.folder} has standard scores of each {header.standardised}, the model is for "
                    f"those of each {self.standardised}: convert it with --standardise {self.standardised}"
                )
            self.runs.mask(case)
            self.runs.clip(case, header.shape[3] - 1, 1)

    def clips(self, case: str, size: Sequence[int]) -> Iterator[tuple[Tensor, tuple[int, int, int, int]]]:
        """Yield all clips of a run (1, X, Y, Z, T) in order, and their first voxel and frame.

        Args:
            case: id of the run.
            size: voxels of a clip along x, y and z, and frames; the last clip may have fewer.

        Raises:
            InputError: the run is damaged.
        """
        header = self.runs.header(case)
        corner = clip_corner(header, size)
        for start in clip_starts(header.shape[3], size[3]):
            frames = min(size[3], header.shape[3] - start)
            yield read_clip(self.runs, case, start, (*size[:3], frames), corner)[0], (*corner, start)


def _told(steps: Sequence[float]) -> str:
    return f"voxels of {'x'.join(f'{step:g}' for step in steps[:3])} mm every {steps[3]:g} s"


def runs_of_cases(configuration: Any, dataset: str, cases: Sequence[str]) -> RunFiles:
    """Return runs of a data set: from nnUNet_raw, else as they were preprocessed.

    Args:
        configuration: of the model.
        dataset: name of the data set.
        cases: ids.

    Raises:
        InputError: they are not there.
    """
    raw = Path(os.environ.get("nnUNet_raw", "").strip() or "/nowhere") / dataset
    if (raw / "dataset.json").is_file():
        return RunFiles(raw, configuration, cases)
    return RunFiles(
        nnunet_folder("nnUNet_preprocessed") / dataset / configuration.data_identifier, configuration, cases
    )
