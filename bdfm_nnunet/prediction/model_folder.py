"""A trained model's folder, whoever made it: read and checked before anything in it is used."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from os.path import join
from pathlib import Path
from typing import Any

import nnunetv2
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.exact_weights import check_weights
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_classes import check_network_classes
from bdfm_nnunet.nnunet_files import (
    channels_of,
    inputs_of,
    outputs_of,
    read_dataset_json,
    read_plans_file,
    resolve_configuration,
)
from bdfm_nnunet.old_plans import architecture_of
from bdfm_nnunet.prediction.fold_weights import FoldWeights
from bdfm_nnunet.presets import PRETRAINERS, REIDENTIFICATION_TRAINER, SUBJECT_TRAINERS
from bdfm_nnunet.training_costs import FINETUNINGS

_BUILT_FROM_PLANS = ("nnUNetTrainer", *FINETUNINGS)
"""Trainers whose network is the one that the plans describe, so that nobody has to look for their classes."""


@dataclass(frozen=True)
class TrainedModel:
    """The parts that nnU-Net's predictor is initialised with.

    Attributes:
        network: with the weights of the first fold.
        build: makes such a network anew, untrained.
        plans: nnU-Net's view of plans.json.
        configuration: nnU-Net's view of the configuration that was trained.
        weights: of each fold, read when they are wanted.
        dataset: content of dataset.json.
        trainer: class name of the trainer.
        mirroring: image axes that may be mirrored, or None.
        some_suffice: whether every fold has learnt to do without some channels.
    """

    network: nn.Module
    build: Callable[[], nn.Module]
    plans: PlansManager
    configuration: ConfigurationManager
    weights: FoldWeights
    dataset: dict[str, Any]
    trainer: str
    mirroring: tuple[int, ...] | None
    some_suffice: bool = False


def read_model(folder: Path, folds: Sequence[int | str], checkpoint: str) -> TrainedModel:
    """Read the model of some folds.

    Nothing in the folder is executed or located by an unchecked name: plans, dataset.json and checkpoints are data.

    Args:
        folder: with plans.json, dataset.json and a folder per fold.
        folds: numbers, or "all".
        checkpoint: name of the file in each fold's folder.

    Raises:
        InputError: something in the folder cannot be used.
    """
    plans, dataset = read_plans_file(folder / "plans.json"), read_dataset_json(folder / "dataset.json")
    files = [folder / f"fold_{fold}" / checkpoint for fold in folds]
    first = read_checkpoint(files[0])
    trainer, name = _trainer_of([first]), _configuration_of([first])
    if name not in plans["configurations"]:
        raise InputError(
            f"{first.path} was trained with the configuration {name!r}, which {folder / 'plans.json'} does not have "
            f"(it has {', '.join(plans['configurations'])}): take both from the same training"
        )
    settings = resolve_configuration(plans, name)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(name)
    _check_agreement(folder, settings, dataset, manager)
    _check_classes(folder / "plans.json", manager, configuration)
    build = partial(_build, trainer, settings, manager, configuration, dataset, folder / "plans.json")
    network = build()
    check_weights(network, first)
    network.load_state_dict(first.weights)
    mirroring = _mirroring_of(first, len(settings["patch_size"]))
    first, some_suffice = replace(first, weights={}), first.channel_dropout > 0
    for file in files[1:]:  # one after the other: only one of them is in memory
        each = read_checkpoint(file)
        _trainer_of([first, each]), _configuration_of([first, each])
        check_weights(network, each)
        some_suffice &= each.channel_dropout > 0
    weights = FoldWeights(files)
    return TrainedModel(network, build, manager, configuration, weights, dataset, trainer, mirroring, some_suffice)


def _trainer_of(read: Sequence[Checkpoint]) -> str:
    for each in read:
        if each.trainer is None:
            raise InputError(
                f"{each.path} does not name its trainer as nnU-Net's checkpoints do (trainer_name must be the name of "
                "a class): give a checkpoint of a finished training"
            )
        if each.trainer in PRETRAINERS:
            raise InputError(
                f"{each.path} is of a pre-training ({each.trainer}), which segments nothing: fine-tune from it first, "
                "with BDFM_WEIGHTS or `bdfm weights`",
                entry="pretraining-predicts-nothing",
            )
        if each.trainer == REIDENTIFICATION_TRAINER:
            raise InputError(
                f"{each.path} is of {each.trainer}, which segments nothing: use `bdfm features --weights` with it"
            )
        if each.trainer in SUBJECT_TRAINERS:
            raise InputError(
                f"{each.path} is of {each.trainer}, which segments nothing: use `bdfm predict-subjects` with it"
            )
    return _same([str(each.trainer) for each in read], "trainer", read)


def _configuration_of(read: Sequence[Checkpoint]) -> str:
    for each in read:
        if each.configuration is None:
            raise InputError(
                f"{each.path} does not name its configuration (init_args.configuration): give a checkpoint of nnU-Net"
            )
    return _same([str(each.configuration) for each in read], "configuration", read)


def _same(values: Sequence[str], what: str, read: Sequence[Checkpoint]) -> str:
    for value, each in zip(values, read):
        if value != values[0]:
            raise InputError(
                f"{each.path} has the {what} {value} but {read[0].path} has {values[0]}: name folds of one training"
            )
    return values[0]


def _mirroring_of(checkpoint: Checkpoint, axes: int) -> tuple[int, ...] | None:
    found = checkpoint.mirroring
    if found is None:
        return None
    good = isinstance(found, (list, tuple)) and all(type(axis) is int and 0 <= axis < axes for axis in found)
    if not good or len(set(found)) != len(found):
        raise InputError(
            f"{checkpoint.path} mirrors along the axes {found!r}, expected some of 0 to {axes - 1}: give an undamaged "
            "checkpoint, or take --disable_tta with one that names none"
        )
    return tuple(found)


def _check_agreement(folder: Path, settings: Mapping[str, Any], dataset: Mapping[str, Any], manager: Any) -> None:
    """Refuse plans and dataset.json that contradict each other."""
    schemes, channels = settings["normalization_schemes"], channels_of(dataset)
    if len(schemes) != len(channels) or len(settings["use_mask_for_norm"]) != len(channels):
        raise InputError(
            f"{folder / 'plans.json'} normalises {len(schemes)} channels, {folder / 'dataset.json'} has "
            f"{len(channels)}: take both from the same training"
        )
    try:
        manager.get_label_manager(dict(dataset))
    except Exception as error:  # nnU-Net asserts
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{folder / 'dataset.json'} has labels that nnU-Net does not take ({reason}): restore it from the training"
        ) from error


def _check_classes(path: Path, manager: Any, configuration: Any) -> None:
    """Check that nnU-Net finds what the plans name; the names are known to be plain words."""
    folder = join(nnunetv2.__path__[0], "preprocessing", "normalization")
    home = "nnunetv2.preprocessing.normalization"
    wanted: dict[str, Callable[[], Any]] = {
        "image_reader_writer": lambda: manager.image_reader_writer_class,
        "preprocessor_name": lambda: configuration.preprocessor_class,
        "resampling_fn_data": lambda: configuration.resampling_fn_data,
        "resampling_fn_seg": lambda: configuration.resampling_fn_seg,
        "resampling_fn_probabilities": lambda: configuration.resampling_fn_probabilities,
        **{
            f"normalization_schemes {scheme}": partial(recursive_find_python_class, folder, scheme, home)
            for scheme in configuration.normalization_schemes
        },
    }
    if not str(manager.plans.get("image_reader_writer", "")).isidentifier():
        raise InputError(f"{path} names no reader of images (image_reader_writer): restore it from the training")
    for what, find in wanted.items():
        try:
            found = find()
        except (RuntimeError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise _unknown(path, what) from error
        if found is None:
            raise _unknown(path, what)


def _unknown(path: Path, what: str) -> InputError:
    return InputError(
        f"{path} names a class or function for {what} that the installed nnU-Net does not have: install the version "
        "that the model was trained with, or restore the file"
    )


def _build(
    trainer: str, settings: Mapping[str, Any], manager: Any, configuration: Any, dataset: dict[str, Any], path: Path
) -> nn.Module:
    inputs, outputs = inputs_of(dataset, settings), outputs_of(dataset)
    if trainer in _BUILT_FROM_PLANS:
        return build_network(settings, inputs=inputs, outputs=outputs, deep_supervision=False, name=str(path))
    check_network_classes({**settings, "architecture": architecture_of(settings, str(path))}, str(path))
    try:
        kind = recursive_find_trainer_class_by_name(trainer)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"the model was trained by {trainer}, which is not known here: add the folder of that trainer to "
            "nnUNet_extTrainer"
        ) from error
    build = kind.build_network_architecture
    old = (configuration.network_arch_class_name, configuration.network_arch_init_kwargs,
           configuration.network_arch_init_kwargs_req_import, inputs, outputs)  # fmt: skip
    new = (manager, configuration, inputs, outputs)
    try:
        network: nn.Module = build(
            *(new if "plans_manager" in inspect.signature(build).parameters else old), enable_deep_supervision=False
        )
    except Exception as error:  # code of any trainer
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{trainer} cannot build the network of {path} ({reason}): check the plans") from error
    return network
