"""Predictions for whole subjects: probabilities, values and risks of new cases by one or several folds."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.exact_weights import check_weights
from bdfm_nnunet.data.subject_bags import cover
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import Predictions
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.subject_network import SubjectNetwork, build_subject_network
from bdfm_nnunet.nnunet_files import inputs_of, read_dataset_json, read_plans_file, resolve_configuration
from bdfm_nnunet.prediction.argument_checks import check_model
from bdfm_nnunet.prediction.case_images import check_cases, find_cases
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.saliency_maps import joined_crops, on_image_grid, write_map
from bdfm_nnunet.presets import SUBJECT_TRAINERS
from bdfm_nnunet.tasks.subject_outputs import ENTRY_SHAPE, TargetOutput, split_outputs, table_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SubjectModel:
    """The folds of one subject-level training.

    Attributes:
        folder: with plans.json, dataset.json and a folder per fold.
        folds: their checkpoints.
    """

    folder: Path
    folds: Sequence[Checkpoint]

    @classmethod
    def read(cls, folder: Path, folds: Sequence[int | str], checkpoint: str = "checkpoint_best.pth") -> "SubjectModel":
        """Read and check the folds of a model.

        Raises:
            InputError: the folder is no model's, a fold lacks the checkpoint, or one is of another task.
        """
        check_model(folder, folds, checkpoint)
        model = cls(folder, [read_checkpoint(folder / f"fold_{fold}" / checkpoint) for fold in folds])
        for each in model.folds:
            model._check(each)
        return model

    def _check(self, fold: Checkpoint) -> None:
        if fold.trainer not in SUBJECT_TRAINERS:
            raise InputError(
                f"{fold.path} was trained by {fold.trainer}, which predicts no targets of subjects: name a model of "
                f"{', '.join(SUBJECT_TRAINERS)} with -tr"
            )
        if fault := fault_of(fold.task, ENTRY_SHAPE):
            raise InputError(f"{fold.path} does not tell its targets ({fault}): restore it from the training")
        first, columns = self.folds[0], [entry["name"] for entry in fold.task["targets"]]
        if columns != [entry["name"] for entry in first.task["targets"]]:
            raise InputError(f"{fold.path} and {first.path} learned different targets: name folds of one training")
        check_weights(self.network, fold)

    @cached_property
    def plans(self) -> PlansManager:
        """nnU-Net's view of plans.json."""
        return PlansManager(read_plans_file(self.folder / "plans.json"))

    @cached_property
    def dataset(self) -> dict[str, Any]:
        """Content of dataset.json."""
        return dict(read_dataset_json(self.folder / "dataset.json"))

    @cached_property
    def configuration(self) -> Any:
        """nnU-Net's view of the configuration."""
        name = self.folds[0].configuration
        if name not in self.plans.plans["configurations"]:
            raise InputError(
                f"{self.folds[0].path} was trained with the configuration {name!r}, which {self.folder / 'plans.json'} "
                "does not have: take both from the same training"
            )
        return self.plans.get_configuration(name)

    def outputs(self, fold: Checkpoint) -> list[TargetOutput]:
        """Return what the network of a fold gives for each target."""
        try:
            return [TargetOutput.from_dict(entry) for entry in fold.task["targets"]]
        except ValueError as error:
            raise InputError(f"{fold.path} has an unknown kind of target ({error}): update this package") from None

    @cached_property
    def network(self) -> SubjectNetwork:
        """The network, without weights of a fold."""
        settings = resolve_configuration(self.plans.plans, str(self.folds[0].configuration))
        first = self.folds[0]
        return build_subject_network(
            settings,
            inputs=inputs_of(self.dataset, settings),
            outputs=sum(output.width for output in self.outputs(first)),
            pooling=first.task["pooling"],
            name=str(self.folder / "plans.json"),
        ).eval()


def predict_subjects(
    model: SubjectModel,
    images: Path,
    *,
    patients: Mapping[str, str] | None = None,
    saliency: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
) -> Predictions:
    """Predict the targets of all cases of a folder.

    Args:
        model: the folds, which are averaged.
        images: folder of CASE_0000.nii.gz and further channels.
        patients: case to patient; by default every case is one.
        saliency: folder for maps of what each voxel adds to a prediction, CASE_TARGET.nii.gz on the grid of the
            image.
        device: where the network runs.
        workers: cases that are checked at once.

    Raises:
        InputError: an image cannot be used; then nothing is predicted.
    """
    wanted = ImagesWanted.of(model.plans, model.configuration, model.dataset)
    cases = find_cases(str(images), wanted)
    check_cases(cases, [None] * len(cases), wanted, workers=workers)
    if saliency is not None and wanted.ending not in NIFTI:
        raise InputError(f"--saliency writes NIfTI, the images of this model end in {wanted.ending}: leave it out")
    rows: list[dict[str, Tensor]] = [{} for _ in model.folds]
    model.network.to(device)
    for files in tqdm(cases, desc="predicting", unit="case", disable=None):
        case = Path(files[0]).name.removesuffix(f"_0000{wanted.ending}")
        content, properties = _preprocessed(model, files)
        options: Any = {"with_maps": saliency is not None, "device": device}
        members = [_member(model, fold, content, **options) for fold in model.folds]
        for member, (outputs, _) in zip(rows, members, strict=True):
            member[case] = outputs
        for number, target in enumerate(model.outputs(model.folds[0]) if saliency is not None else ()):
            values = np.mean([maps[number] for _, maps in members], axis=0)
            whole = on_image_grid(values, properties, model.plans.transpose_backward)
            path = Path(str(saliency)) / f"{case}_{target.column.name}.nii.gz"
            write_map(path, whole, properties, like=Path(files[0]), by_nibabel=wanted.by_nibabel)
    first, *others = rows
    return table_of(model.outputs(model.folds[0]), first, patients or {}, others=others)


def predict_preprocessed(
    model: SubjectModel, cases: Iterable[tuple[str, NDArray[np.float32]]], *, device: torch.device | str = "cpu"
) -> list[dict[str, Tensor]]:
    """Return the outputs of each fold for cases that are preprocessed as those of the training, by case.

    Args:
        model: the folds.
        cases: id and images (C, *spatial) of each case.
        device: where the network runs.
    """
    rows: list[dict[str, Tensor]] = [{} for _ in model.folds]
    model.network.to(device)
    for case, images in cases:
        for member, fold in zip(rows, model.folds, strict=True):
            member[case], _ = _member(model, fold, images, with_maps=False, device=device)
    return rows


def _preprocessed(model: SubjectModel, files: Sequence[str]) -> tuple[NDArray[np.float32], dict[str, Any]]:
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    images, _, properties = preprocessor.run_case(list(files), None, model.plans, model.configuration, model.dataset)
    return images, properties


@torch.no_grad()
def _member(
    model: SubjectModel, fold: Checkpoint, images: NDArray[np.float32], *, with_maps: bool, device: torch.device | str
) -> tuple[Tensor, list[NDArray[np.float32]]]:
    """Return the outputs of one fold for a case and, if wanted, a map for each target on the preprocessed grid."""
    task, network = fold.task, model.network
    network.load_state_dict(fold.weights)
    crops, starts = cover(images, task["crop"], overlap=task["overlap"])
    bag = crops[None].to(device)
    outputs = network(bag)[0].float().cpu()
    if not with_maps:
        return outputs, []
    parts = network.contributions(bag)[0].float().cpu()  # (N, outputs, *positions)
    targets = model.outputs(fold)
    maps = []
    numbers, places = split_outputs(targets, outputs[None]), split_outputs(targets, parts.movedim(1, -1))
    for target, own, part in zip(targets, numbers, places, strict=True):
        weighted = part @ target.weights_of_contributions(own[0])
        maps.append(joined_crops(weighted, starts, task["crop"], images.shape[1:]))
    return outputs, maps
