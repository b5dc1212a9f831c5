"""Preprocessed cases with labels, checked against the images that a pre-training was for."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.data.case_classes import dataset_class_of
from bdfm_nnunet.data.checked_cases import reading
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.scored_regions import target_of_dataset
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json, resolve_configuration
from bdfm_nnunet.nnunet_folders import dataset_folders, dataset_name, nnunet_folder
from bdfm_nnunet.patients import CaseList, read_cases
from bdfm_nnunet.plans.plans_lookup import read_plans
from bdfm_nnunet.probes.masked_model import MaskedModel
from bdfm_nnunet.split_files import SPLITS, read_splits

HEALTHY, TOGETHER = "healthy", "all_labels"


@dataclass(frozen=True)
class LabelledCase:
    """A preprocessed case.

    Attributes:
        name: case id.
        image: (C, *spatial), the chosen channels.
        labels: (*spatial), label values; below 0 outside the image.
    """

    name: str
    image: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class LabelledCases:
    """Preprocessed cases of a data set.

    Attributes:
        folder: of the data set in nnUNet_preprocessed.
        plans: content of the plans.
        configuration: one of their configurations with everything that it inherits.
        dataset: content of dataset.json.
        cases: ids of those that are read.
        listed: all cases of the data set and their patients.
    """

    folder: Path
    plans: Mapping[str, Any]
    configuration: Mapping[str, Any]
    dataset: Mapping[str, Any]
    cases: Sequence[str]
    listed: CaseList

    @property
    def unlabelled(self) -> bool:
        """Whether the labels are brain masks, for want of others."""
        return bool(self.listed.content.get("unlabelled"))

    @property
    def spacing(self) -> tuple[float, ...]:
        """Mm along the axes of the images."""
        return tuple(float(step) for step in self.configuration["spacing"])

    def regions(self, labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return region name -> label values: those asked for, or all, and where there are several all together.

        Raises:
            InputError: there is no such label.
        """
        path = self.folder / "dataset.json"
        found = target_of_dataset(self.dataset, name=self.folder.name, path=str(path)).regions
        if HEALTHY in found:
            raise InputError(f"{path} has a label {HEALTHY!r}, the name of what bears no label here: rename it")
        if unknown := [name for name in labels if name not in found]:
            raise InputError(f"{path} has no label {unknown[0]!r}: choose among {', '.join(found)}")
        chosen = {name: values for name, values in found.items() if name in labels or not labels}
        union = tuple(sorted({value for values in chosen.values() for value in values}))
        if all(set(values) != set(union) for values in chosen.values()):
            chosen[TOGETHER] = union
        return chosen

    def channel_numbers(self, names: Sequence[str]) -> list[int]:
        """Return the places of channels by name, those of all without names.

        Raises:
            InputError: there is no such channel.
        """
        found = channels_of(self.dataset)
        if unknown := [name for name in names if name not in found]:
            raise InputError(
                f"{self.folder / 'dataset.json'} has no channel {unknown[0]!r}: choose among {', '.join(found)}"
            )
        return [found.index(name) for name in names] or list(range(len(found)))

    def read(self, channels: Sequence[int], cases: Sequence[str] = ()) -> Iterator[LabelledCase]:
        """Yield cases, by default all.

        Raises:
            InputError: a case is missing or damaged.
        """
        data = str(self.folder / self.configuration["data_identifier"])
        dataset = dataset_class_of(data)(data, list(cases or self.cases))
        for case in cases or self.cases:
            images, labels, *_ = dataset.load_case(case)
            with reading(dataset, case):
                array, values = np.asarray(images[...]), np.asarray(labels[...])
            image = torch.from_numpy(array[list(channels)].astype(np.float32))
            yield LabelledCase(case, image, torch.from_numpy(values[0].astype(np.int32)))


def labelled_cases(
    dataset_id: int, plans_name: str, configuration: str, *, fold: int | None = None, cases: Sequence[str] = ()
) -> LabelledCases:
    """Find preprocessed cases of a data set with labels.

    Args:
        dataset_id: number of the data set.
        plans_name: name of its plans.
        configuration: one of their configurations.
        fold: its validation cases alone; by default all cases.
        cases: ids of those to take; by default all.

    Raises:
        InputError: the data set, its plans, its preprocessed cases or its labels are missing.
    """
    found = preprocessed_cases(dataset_id, plans_name, configuration, fold=fold, cases=cases)
    if found.unlabelled:
        raise InputError(
            f"{found.folder} was converted with --unlabelled, so its labels are brain masks: name a data set with "
            "labels"
        )
    return found


def preprocessed_cases(
    dataset_id: int, plans_name: str, configuration: str, *, fold: int | None = None, cases: Sequence[str] = ()
) -> LabelledCases:
    """Find preprocessed cases of a data set, whose labels may be brain masks.

    Args:
        dataset_id: number of the data set.
        plans_name: name of its plans.
        configuration: one of their configurations.
        fold: its validation cases alone; by default all cases.
        cases: ids of those to take; by default all.

    Raises:
        InputError: the data set, its plans or its preprocessed cases are missing.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset_id)
    plans = read_plans(dataset_id, plans_name)
    chosen = resolve_configuration(plans, configuration)
    if not (folder / chosen["data_identifier"]).is_dir():
        raise InputError(
            f"{folder / chosen['data_identifier']} does not exist: preprocess the data set with "
            f"`bdfm plan -d {dataset_id}`"
        )
    return LabelledCases(
        folder=folder,
        plans=plans,
        configuration=chosen,
        dataset=read_dataset_json(folder / "dataset.json"),
        cases=_chosen(folder, folder / chosen["data_identifier"], fold, cases),
        listed=read_cases(*dataset_folders(dataset_id)),
    )


def _chosen(folder: Path, data: Path, fold: int | None, cases: Sequence[str]) -> list[str]:
    found = sorted(dataset_class_of(data).get_identifiers(str(data)))
    if fold is not None:
        splits = read_splits(folder / SPLITS)
        if not 0 <= fold < len(splits):
            raise InputError(f"{folder / SPLITS} has no fold {fold}: it has {len(splits)}, from 0 on")
        held_out = set(splits[fold]["val"])
        found = [case for case in found if case in held_out]
    if unknown := [case for case in cases if case not in found]:
        within = f"fold {fold} of " if fold is not None else ""
        raise InputError(f"{within}{folder} has no preprocessed case {unknown[0]!r}: it has {', '.join(found[:5])} ...")
    if not found:
        raise InputError(f"{data} holds no cases: preprocess the data set again with `bdfm plan`")
    return [case for case in found if case in cases or not cases]


def check_images(model: MaskedModel, found: LabelledCases, channels: Sequence[int]) -> None:
    """Raise InputError unless cases are images of the kind that a pre-training was for."""
    path, expected = model.checkpoint.path, model.checkpoint.images
    how = "--like" if model.checkpoint.plans is None else "--weights"
    remedy = f"plan with `bdfm plan {how} {path}`, which takes over what the training had"
    axes, spacing = tuple(found.plans["transpose_forward"]), found.spacing
    if model.objective.view.axes != len(found.configuration["patch_size"]) or len(spacing) != model.objective.view.axes:
        raise InputError(f"{path} is of a {model.objective.view.axes}-D network: choose a configuration of such images")
    if expected is not None and expected.axes != axes:
        raise InputError(f"{path} is for axes in the order {expected.axes}, the plans have {axes}: {remedy}")
    if model.spacing and any(abs(a / b - 1) > 0.02 for a, b in zip(model.spacing, spacing, strict=True)):
        had, have = ("x".join(f"{step:g}" for step in each) for each in (model.spacing, spacing))
        raise InputError(f"{path} is for voxels of {had} mm, {found.folder.name} was preprocessed to {have}: {remedy}")
    _check_channels(model, found, channels, expected, remedy)


def _check_channels(
    model: MaskedModel, found: LabelledCases, channels: Sequence[int], expected: ExpectedImages | None, remedy: str
) -> None:
    path, names = model.checkpoint.path, channels_of(found.dataset)
    chosen = [names[number] for number in channels]
    trained = list(model.checkpoint.source_network.channel_names)
    inputs = model.objective.view.in_channels
    fits = len(chosen) == inputs and (not trained or trained == chosen)
    if not model.single_channel and not fits:
        raise InputError(
            f"{path} reads {inputs} channels together ({', '.join(trained) or 'not named'}), not {', '.join(chosen)}: "
            "choose them in this order with --channels"
        )
    schemes = {found.configuration["normalization_schemes"][number] for number in channels}
    if expected is not None and not schemes <= set(expected.normalisation):
        had = ", ".join(dict.fromkeys(expected.normalisation))
        raise InputError(
            f"{path} is for images normalised by {had}, {found.folder.name} by {', '.join(schemes)}: {remedy}"
        )
