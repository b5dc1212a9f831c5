"""Predictions for whole subjects: probabilities, values and risks of new cases by one or several folds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
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
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.mamba_stages import add_prompts_of
from bdfm_nnunet.networks.subject_network import AXES_OF_RUNS, HEADS, SubjectNetwork, build_subject_network
from bdfm_nnunet.nnunet_files import inputs_of, read_dataset_json, read_plans_file, resolve_configuration
from bdfm_nnunet.prediction.argument_checks import check_model
from bdfm_nnunet.prediction.known_inputs import KnownInputs
from bdfm_nnunet.prediction.saliency_maps import joined_crops, on_image_grid, write_map
from bdfm_nnunet.prediction.subject_images import ImageFiles, SubjectImages
from bdfm_nnunet.presets import SUBJECT_TRAINERS
from bdfm_nnunet.safe_names import file_name_of
from bdfm_nnunet.targets import TargetColumn
from bdfm_nnunet.tasks.subject_outputs import ENTRY_SHAPE, Member, TargetOutput, split_outputs, table_of

_SAME = ("name", "type", "classes", "unit")
"""What the folds of one training agree in."""
_SHARE_OF_DEVICE = 2
"""The weights of all folds may take one part in so many of what a device has free; else each comes for its turn."""


@dataclass(frozen=True)
class SubjectFold:
    """One fold of a subject-level training.

    Attributes:
        checkpoint: what its file tells; the weights are in the network alone.
        outputs: what the network gives for each target.
        network: with the weights of the fold.
    """

    checkpoint: Checkpoint
    outputs: tuple[TargetOutput, ...]
    network: SubjectNetwork


@dataclass(frozen=True)
class SubjectModel:
    """The folds of one subject-level training.

    Attributes:
        folder: with plans.json, dataset.json and a folder per fold.
        plans: nnU-Net's view of plans.json.
        dataset: content of dataset.json.
        configuration_name: the configuration of all folds.
        folds: the networks.
    """

    folder: Path
    plans: PlansManager
    dataset: dict[str, Any]
    configuration_name: str
    folds: tuple[SubjectFold, ...]

    @classmethod
    def read(cls, folder: Path, folds: Sequence[int | str], checkpoint: str = "checkpoint_best.pth") -> "SubjectModel":
        """Read and check the folds of a model, each once.

        Raises:
            InputError: the folder is no model's, a fold lacks the checkpoint, or one is of another task.
        """
        check_model(folder, folds, checkpoint)
        if twice := [fold for fold in folds if list(folds).count(fold) > 1]:
            raise InputError(f"fold {twice[0]} is named twice, and would count twice: name each fold once")
        plans, dataset = read_plans_file(folder / "plans.json"), read_dataset_json(folder / "dataset.json")
        read: list[SubjectFold] = []
        for fold in folds:
            found = read_checkpoint(folder / f"fold_{fold}" / checkpoint)
            outputs = _outputs_of(found)
            _check_alike([*(each.checkpoint for each in read), found], plans, folder)
            read.append(SubjectFold(replace(found, weights={}), outputs, _network_of(found, outputs, plans, dataset)))
        name = str(read[0].checkpoint.configuration)
        return cls(folder, PlansManager(plans), dataset, name, tuple(read))

    @cached_property
    def configuration(self) -> Any:
        """nnU-Net's view of the configuration."""
        return self.plans.get_configuration(self.configuration_name)

    @property
    def reads_runs(self) -> bool:
        """Whether its cases are 4-D runs."""
        return len(self.configuration.patch_size) == AXES_OF_RUNS

    def images_in(self, folder: Path) -> ImageFiles:
        """Return the cases in a folder of images, which lack channels only where every fold has learnt to do without.

        Raises:
            InputError: it holds no images, or a case lacks a channel.
        """
        some_suffice = all(each.checkpoint.channel_dropout for each in self.folds)
        return ImageFiles(self.plans, self.configuration, self.dataset, folder, some_suffice=some_suffice)

    @property
    def targets(self) -> list[TargetColumn]:
        """The targets that are predicted."""
        return [output.column for output in self.folds[0].outputs]


def _outputs_of(fold: Checkpoint) -> tuple[TargetOutput, ...]:
    """Return what the network of a fold gives for each target."""
    if fold.trainer not in SUBJECT_TRAINERS:
        raise InputError(
            f"{fold.path} was trained by {fold.trainer}, which predicts no targets of subjects: name a model of "
            f"{', '.join(SUBJECT_TRAINERS)} with -tr"
        )
    if fault := fault_of(fold.task, ENTRY_SHAPE) or _fault_of_values(fold.task):
        raise InputError(f"{fold.path} does not tell its targets ({fault}): restore it from the training")
    try:
        return tuple(TargetOutput.from_dict(entry) for entry in fold.task["targets"])
    except ValueError as error:
        raise InputError(f"{fold.path} has an unknown kind of target ({error}): update this package") from None


def _fault_of_values(task: Mapping[str, Any]) -> str:
    """Return why a task cannot be used though its shape is right; empty if it can."""
    names, crop, head = [entry["name"] for entry in task["targets"]], task["crop"], task.get("head", "linear")
    if not names or len(set(names)) < len(names):
        return f"it has the targets {names}"
    if head not in HEADS:
        return f"head is {head!r}"
    if len(crop) not in (3, AXES_OF_RUNS) or min(crop) < 1 or 4 * prod(crop) > memory_bytes():
        return f"crop is {list(crop)}"
    return "" if 0 <= task["overlap"] < 1 else f"overlap is {task['overlap']}"


def _check_alike(folds: Sequence[Checkpoint], plans: Mapping[str, Any], folder: Path) -> None:
    """Check that the last fold has the targets of the first, and a configuration of the plans."""
    first, last = folds[0], folds[-1]
    if last.configuration not in plans["configurations"]:
        raise InputError(
            f"{last.path} was trained with the configuration {last.configuration!r}, which {folder / 'plans.json'} "
            "does not have: take both from the same training"
        )
    one, two = ([[entry[key] for key in _SAME] for entry in fold.task["targets"]] for fold in (first, last))
    if one != two or first.configuration != last.configuration:
        raise InputError(f"{last.path} and {first.path} learned different targets: name folds of one training")


def _network_of(
    fold: Checkpoint, outputs: Sequence[TargetOutput], plans: Mapping[str, Any], dataset: dict[str, Any]
) -> SubjectNetwork:
    """Return the network of a fold; it takes the tensors of the checkpoint, so that they are held once."""
    settings = resolve_configuration(plans, str(fold.configuration))
    network = build_subject_network(
        settings,
        inputs=inputs_of(dataset, settings),
        outputs=sum(output.width for output in outputs),
        pooling=fold.task["pooling"],
        head=fold.task.get("head", "linear"),
        name=str(fold.path),
    )
    add_prompts_of(network, fold.weights)
    check_weights(network, fold)
    kinds = network.state_dict()
    network.load_state_dict({name: value.to(kinds[name].dtype) for name, value in fold.weights.items()}, assign=True)
    return network.eval()


def predict_subjects(
    model: SubjectModel,
    images: Path | SubjectImages,
    *,
    patients: Mapping[str, str] | None = None,
    saliency: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    strict_input: bool = False,
) -> Predictions:
    """Predict the targets of all cases.

    Args:
        model: the folds, which are averaged.
        images: folder of CASE_0000.nii.gz and further channels, or cases from elsewhere.
        patients: case to patient; by default every case is one.
        saliency: folder for maps of what each voxel adds to a prediction, CASE_TARGET.nii.gz on the grid of the
            image.
        device: where the networks run.
        workers: cases that are checked at once.
        strict_input: refuse all cases where one departs from the training cases, or where those are not known.

    Raises:
        InputError: an image cannot be used, or is refused; then nothing is predicted.
    """
    source = model.images_in(images) if isinstance(images, Path) else images
    inputs = KnownInputs(strict=strict_input)
    inputs.read(model.folder, model.dataset)
    source.check(workers=workers, with_maps=saliency is not None, inputs=inputs)
    rows: list[dict[str, Tensor]] = [{} for _ in model.folds]
    stays, names = _all_fit(model.folds, device), [target.name for target in model.targets]
    for case in tqdm(source.names, desc="predicting", unit="case", disable=None):
        content, properties = source.read(case)
        members = [_member(fold, content, saliency is not None, device, stays=stays) for fold in model.folds]
        for member, (outputs, _) in zip(rows, members, strict=True):
            member[case] = outputs
        for number, target in enumerate(names if saliency is not None else ()):
            values = np.mean([maps[number] for _, maps in members], axis=0)
            whole = on_image_grid(values, properties, model.plans.transpose_backward)
            path = Path(str(saliency)) / f"{case}_{file_name_of(target, names[:number])}.nii.gz"
            write_map(path, whole, properties, like=source.image(case), by_nibabel=source.by_nibabel)
    found = [Member(fold.outputs, member) for fold, member in zip(model.folds, rows, strict=True)]
    return table_of(found, patients or {})


def predict_preprocessed(
    model: SubjectModel, cases: Iterable[tuple[str, NDArray[np.float32]]], *, device: torch.device | str = "cpu"
) -> list[Member]:
    """Return what each fold gives for cases that are preprocessed as those of the training.

    Args:
        model: the folds.
        cases: id and images (C, *spatial) of each case.
        device: where the networks run.
    """
    rows: list[dict[str, Tensor]] = [{} for _ in model.folds]
    stays = _all_fit(model.folds, device)
    for case, images in cases:
        for member, fold in zip(rows, model.folds, strict=True):
            member[case], _ = _member(fold, images, False, device, stays=stays)
    return [Member(fold.outputs, member) for fold, member in zip(model.folds, rows, strict=True)]


def _all_fit(folds: Sequence[SubjectFold], device: torch.device | str) -> bool:
    """Return whether the networks of all folds can stay on a device beside a case."""
    if len(folds) == 1 or not str(device).startswith("cuda"):
        return True
    index = torch.device(device).index
    free, _ = torch.cuda.mem_get_info(torch.cuda.current_device() if index is None else index)
    whole = sum(each.numel() * each.element_size() for fold in folds for each in fold.network.state_dict().values())
    return whole <= free / _SHARE_OF_DEVICE


@torch.no_grad()
def _member(
    fold: SubjectFold, images: NDArray[np.float32], with_maps: bool, device: torch.device | str, *, stays: bool
) -> tuple[Tensor, list[NDArray[np.float32]]]:
    """Return the outputs of one fold for a case and, if wanted, a map for each target on the preprocessed grid."""
    task, network = fold.checkpoint.task, fold.network.to(device)
    crops, starts = cover(images, task["crop"], overlap=task["overlap"])
    bag = crops[None].to(device)
    outputs = network(bag)[0].float().cpu()
    parts = network.contributions(bag)[0].float().cpu() if with_maps else None  # (N, outputs, *positions)
    if not stays:
        network.to("cpu")
    if parts is None:
        return outputs, []
    maps = []
    numbers, places = split_outputs(fold.outputs, outputs[None]), split_outputs(fold.outputs, parts.movedim(1, -1))
    for target, own, part in zip(fold.outputs, numbers, places, strict=True):
        weighted = part @ target.weights_of_contributions(own[0])
        maps.append(joined_crops(weighted, starts, task["crop"], images.shape[1:]))
    return outputs, maps
