"""Predictions of subjects from their runs of functional MRI: clip by clip, the mean over the clips counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import Predictions
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.images.nifti_bytes import packed_values
from bdfm_nnunet.images.sequence_files import SequenceHeader
from bdfm_nnunet.prediction.predicted_runs import RunFiles
from bdfm_nnunet.prediction.saliency_maps import joined_crops
from bdfm_nnunet.safe_names import file_name_of
from bdfm_nnunet.tasks.subject_outputs import Member, TargetOutput, split_outputs, table_of


@dataclass(frozen=True, kw_only=True)
class RunPredictions:
    """Tables of predictions.

    Attributes:
        runs: a row per run, the mean over its clips.
        subjects: a row per subject, the mean over the clips of all his or her runs.
    """

    runs: Predictions
    subjects: Predictions


@dataclass(frozen=True, kw_only=True)
class RunMaps:
    """Where maps of what each voxel adds to a prediction go.

    Attributes:
        folder: gets RUN_TARGET.nii.gz.
        frames: a map for each frame, 4-D, in place of their sum.
    """

    folder: Path
    frames: bool = False


def predict_runs(
    model: Any, runs: RunFiles, *, patients: Mapping[str, str], maps: RunMaps | None = None, device: str = "cpu"
) -> RunPredictions:
    """Predict the targets of all runs, and of their subjects.

    Args:
        model: a `SubjectModel`, whose folds are averaged.
        runs: the runs.
        patients: run to subject.
        maps: where maps go, in the space of the runs; by default there are none.
        device: where the networks run.

    Raises:
        InputError: a run cannot be used, then nothing is predicted; or the head gives no maps.
    """
    runs.check()
    if maps is not None and model.folds[0].checkpoint.task.get("head") == "v3":
        raise InputError("--saliency cannot be for a model with head v3, whose outputs are no sums over positions")
    rows: list[dict[str, Tensor]] = [{} for _ in model.folds]
    for case in tqdm(runs.names, desc="predicting", unit="run", disable=None):
        drawn = []
        for fold, own in zip(model.folds, rows, strict=True):
            own[case] = _outputs(fold, runs, case, device)
            if maps is not None:
                drawn.append(_maps(fold, runs, case, own[case].mean(0), device, frames=maps.frames))
        for number, target in enumerate(model.targets if maps is not None else ()):
            names = [each.name for each in model.targets[:number]]
            path = maps.folder / f"{case}_{file_name_of(target.name, names)}.nii.gz"  # type: ignore[union-attr]
            _write(path, np.mean([each[number] for each in drawn], axis=0), runs.runs.header(case))
    of_runs = [{case: each.mean(0) for case, each in own.items()} for own in rows]
    subjects = {subject: [case for case in runs.names if patients[case] == subject] for subject in patients.values()}
    joined = [
        {name: torch.cat([own[case] for case in cases]).mean(0) for name, cases in subjects.items()} for own in rows
    ]
    clips = {case: len(each) for case, each in rows[0].items()}
    of_subjects = {subject: sum(clips[case] for case in cases) for subject, cases in subjects.items()}
    outputs = [fold.outputs for fold in model.folds]
    return RunPredictions(
        runs=table_of([Member(*each) for each in zip(outputs, of_runs, strict=True)], patients, clips=clips),
        subjects=table_of([Member(*each) for each in zip(outputs, joined, strict=True)], {}, clips=of_subjects),
    )


@torch.no_grad()
def _outputs(fold: Any, runs: RunFiles, case: str, device: str) -> Tensor:
    """Return the outputs of each clip of a run, (clips, outputs)."""
    network = fold.network.to(device)
    size = fold.checkpoint.task["crop"]
    return torch.cat([network(clip[None, None].to(device)).float().cpu() for clip, _ in runs.clips(case, size)])


@torch.no_grad()
def _maps(
    fold: Any, runs: RunFiles, case: str, mean: Tensor, device: str, *, frames: bool
) -> list[NDArray[np.float32]]:
    """Return for each target what each voxel, or voxel and frame, of a run adds to its mean outputs."""
    network, size, shape = fold.network.to(device), fold.checkpoint.task["crop"], runs.runs.header(case).shape
    totals = [np.zeros(shape if frames else shape[:3], dtype=np.float32) for _ in fold.outputs]
    clips = 0
    for clip, start in runs.clips(case, size):
        clips += 1
        parts = network.contributions(clip[None, None].to(device))[0, 0].float().cpu()  # (outputs, *places, T)
        for total, weighted in zip(totals, _weighted(fold.outputs, mean, parts), strict=True):
            added = _spread(weighted if frames else weighted.sum(-1, keepdim=True), start[:3], size[:3], shape[:3])
            if frames:
                total[..., start[3] : start[3] + added.shape[-1]] += added
            else:
                total += added[..., 0]
    return [(total / clips).astype(np.float32) for total in totals]


def _weighted(outputs: Sequence[TargetOutput], mean: Tensor, parts: Tensor) -> list[Tensor]:
    """Return what each place and frame adds to the prediction of each target."""
    numbers, places = split_outputs(outputs, mean[None]), split_outputs(outputs, parts.movedim(0, -1))
    return [
        part @ target.weights_of_contributions(own[0])
        for target, own, part in zip(outputs, numbers, places, strict=True)
    ]


def _spread(places: Tensor, corner: Sequence[int], size: Sequence[int], shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the map (x, y, z, frames) of a run from the numbers (*places, frames) of a clip of it."""
    frames = [joined_crops(frame[None], [corner], size, shape) for frame in places.unbind(-1)]
    return np.stack(frames, -1)


def _write(path: Path, values: NDArray[np.float32], header: SequenceHeader) -> None:
    """Write a map in the space of a run."""
    image = nib.Nifti1Image(np.empty(values.shape, dtype=np.float32), np.asarray(header.affine))
    image.header.set_zooms((*header.spacing, header.repetition_time)[: values.ndim])
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_data_offset(image.header.single_vox_offset)
    with write_atomically(path) as temporary:
        temporary.write_bytes(packed_values(values.astype(np.float32), like=image.header))
