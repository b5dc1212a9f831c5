"""One vector per run of functional MRI from a frozen encoder: the mean over all clips of the run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.data.clip_batches import run_clips
from bdfm_nnunet.data.sequence_dataset import SequenceDataset
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import FRAMES
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.probes.labelled_cases import LabelledCases
from bdfm_nnunet.probes.pooled_features import PooledStage, Pooling

Clip = tuple[Tensor, Tensor]
"""A clip (1, X, Y, Z, T), and the brain (X, Y, Z) in it."""


@dataclass
class PreprocessedRuns:
    """The preprocessed runs of a data set.

    Attributes:
        found: the runs.
        tile: voxels along x, y and z, and frames, that the encoder sees at once.
        plans: name of the plans.
        configuration: name of the configuration.
        notes: sentences.
    """

    found: LabelledCases
    tile: Sequence[int]
    plans: str
    configuration: str
    notes: tuple[str, ...] = ()

    @property
    def cases(self) -> Sequence[str]:
        """Ids of the runs."""
        return self.found.cases

    @property
    def folder(self) -> Path:
        """The folder of the runs."""
        return self.found.folder / str(self.found.configuration["data_identifier"])

    def shown(self, cases: Sequence[str]) -> Iterator[tuple[str, Iterable[Clip]]]:
        """Yield some of the runs; their clips are read when they are asked for."""
        dataset = SequenceDataset(self.folder)
        for case in cases:
            yield case, run_clips(dataset, case, self.tile)

    def described(self) -> dict[str, Any]:
        """Return the data set and its plans."""
        names = {"dataset": self.found.folder.name, "plans": self.plans, "configuration": self.configuration}
        return {**names, "notes": list(self.notes)}

    def files(self) -> list[Path]:
        """Return the files whose change changes the features."""
        return [self.folder / f"{case}{FRAMES}" for case in self.cases]


def vectors_of_runs(
    view: EncoderView, stages: Sequence[int], poolings: Sequence[Pooling], *, brain: bool, device: str
) -> Callable[[Iterable[Clip]], list[NDArray[np.float32]]]:
    """Return the function from the clips of a run to a vector per pooling.

    Every place of every frame of every clip counts once; with `brain`, by the share of its voxels that is brain.

    Args:
        view: the encoder, which is put into eval mode on the device.
        stages: numbers of the stages that are pooled.
        poolings: see `PooledStage`.
        brain: count the brain alone.
        device: where the encoder runs.
    """
    view.module.to(device).eval()

    @torch.no_grad()
    def vectors(clips: Iterable[Clip]) -> list[NDArray[np.float32]]:
        sums = {stage: [PooledStage(pooling) for pooling in poolings] for stage in stages}
        for clip, inside in clips:
            maps = view.module(clip[None].to(device))
            weights = inside.float() if brain else torch.ones(inside.shape)
            for stage, of_stage in sums.items():
                stride = view.strides[stage][:3]
                places = functional.avg_pool3d(weights[None, None], stride, stride)[0, 0]
                added = places[..., None].expand(*places.shape, clip.shape[-1]).to(maps[stage].device)
                for each in of_stage:
                    each.add(maps[stage][0], added)
        return [np.concatenate([sums[stage][at].vector() for stage in stages]) for at in range(len(poolings))]

    return vectors


def check_runs(found: LabelledCases, view: EncoderView, spacing: Sequence[float], name: str) -> None:
    """Raise InputError where an encoder does not read the runs of a data set.

    Args:
        found: the runs.
        view: the encoder.
        spacing: of the images of its training; empty if unknown.
        name: of its file, for messages.
    """
    axes = len(found.configuration["patch_size"])
    if view.axes != axes:
        what = "runs" if axes > view.axes else "images"
        raise InputError(f"{name} is of a {view.axes}-D network, {found.folder.name} holds {what}: give other weights")
    here = found.spacing
    if len(spacing) == len(here) and any(abs(a / b - 1) > 0.02 for a, b in zip(spacing, here, strict=True)):
        had, has = ("x".join(f"{step:g}" for step in each) for each in (spacing, here))
        raise InputError(
            f"{name} is for voxels and frames of {had} (mm, s), {found.folder.name} has {has}: convert the runs with "
            "--spacing and --time-step of the weights"
        )
