"""The blocks of settings in a plans file."""

import difflib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.presets import LEGACY_PRESETS, MIXTURE_TRAINER, PRESETS, TRAINER_PRESETS
from bdfm_nnunet.settings.crop_settings import CropSettings
from bdfm_nnunet.settings.objective_settings import (
    OBJECTIVE_SETTINGS,
    MixtureSettings,
    PretrainingSettings,
    WeightedObjective,
)
from bdfm_nnunet.settings.subject_settings import SubjectSettings
from bdfm_nnunet.settings.training_settings import FinetuningSettings, TrainingSettings, WeightSettings
from bdfm_nnunet.settings.value_checks import checked

BlockName = Literal["training", "pretraining", "finetuning"]
BLOCKS: dict[str, type] = {
    "training": TrainingSettings,
    "pretraining": PretrainingSettings,
    "finetuning": FinetuningSettings,
}
_FINETUNING: dict[type, str] = {FinetuningSettings: "segmentation", SubjectSettings: "subject-level tasks"}
_CROPS = tuple(field.name for field in fields(CropSettings))


def _names(kind: type) -> dict[str, Any]:
    """Return the names that a block of a kind may have, and their types."""
    hints = typing.get_type_hints(kind)
    names = {field.name: hints[field.name] for field in fields(kind)}
    return names | ({"legacy": bool} if _objective_of(kind) in LEGACY_PRESETS else {})


def _objective_of(kind: type) -> str | None:
    return next((name for name, each in OBJECTIVE_SETTINGS.items() if each is kind), None)


ALLOWED: dict[str, dict[str, Any]] = {name: _names(kind) for name, kind in BLOCKS.items()}
"""Block -> names that some training takes, and their types."""
for _kind in (*OBJECTIVE_SETTINGS.values(), MixtureSettings):
    ALLOWED["pretraining"] |= _names(_kind)
for _kind in _FINETUNING:
    ALLOWED["finetuning"] |= _names(_kind)


def read_block(configuration: Mapping[str, Any], name: BlockName, *, kind: type | None = None, **defaults: Any) -> Any:
    """Return the settings of one block of a configuration.

    Args:
        configuration: configuration of a plans file.
        name: name of the block; a missing block is empty.
        kind: class of the settings; by default `TrainingSettings`, `PretrainingSettings` or `FinetuningSettings`.
        defaults: defaults of the caller for settings that the block lacks; they override those of "legacy".

    Returns:
        An instance of `kind`.

    Raises:
        InputError: a name does not exist, or a value has a wrong type or range.

    Example:
        >>> read_block({"training": {"epochs": 100}}, "training").epochs
        100
        >>> read_block({"training": {"epoch": 100}}, "training")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: training.epoch is not a setting: did you mean training.epochs? [unknown-setting]
    """
    return _read(dict(configuration.get(name) or {}), name, kind or BLOCKS[name], defaults)


def finetuning_settings(configuration: Mapping[str, Any]) -> WeightSettings:
    """Return the "finetuning" block as the settings of the first kind of task that takes all of its names.

    Raises:
        InputError: a name does not exist, names belong to different tasks, or a value has a wrong type or range.

    Example:
        >>> type(finetuning_settings({"finetuning": {"targets": ["idh"]}})).__name__
        'SubjectSettings'
    """
    block = configuration.get("finetuning") or {}
    for key in block:
        _check_name("finetuning", key, ALLOWED["finetuning"])
    kinds = [kind for kind in _FINETUNING if set(block) <= set(_names(kind))]
    if not kinds:
        owners = {key: [task for kind, task in _FINETUNING.items() if key in _names(kind)] for key in block}
        told = ", ".join(f"{key} of {each[0]}" for key, each in owners.items() if len(each) == 1)
        raise InputError(f"finetuning has settings of several tasks, {told}: keep those of one")
    return typing.cast(WeightSettings, read_block(configuration, "finetuning", kind=kinds[0]))


def pretraining_settings(configuration: Mapping[str, Any], preset: str | None) -> CropSettings:
    """Return the settings of a preset's objective, or of a mixture for None, that the "pretraining" block changes.

    Raises:
        InputError: the block does not fit the objective.
    """
    if preset is None:
        return typing.cast(CropSettings, read_block(configuration, "pretraining", kind=MixtureSettings))
    chosen = PRESETS[preset]
    kind = OBJECTIVE_SETTINGS[chosen.objective]
    return typing.cast(CropSettings, read_block(configuration, "pretraining", kind=kind, **chosen.settings))


def pretrainer_of(configuration: Mapping[str, Any]) -> str:
    """Return the first trainer that takes the "pretraining" block of a configuration; of one for 4-D images, the last.

    Raises:
        InputError: none does.

    Example:
        >>> pretrainer_of({})
        'nnUNetTrainerBDFMPretrain'
        >>> pretrainer_of({"pretraining": {"temperature": 0.1}})
        'nnUNetTrainerSimCLR'
        >>> pretrainer_of({"patch_size": [96, 96, 96, 20]})
        'nnUNetTrainerNeuroSTORM'
    """
    kinds = [type(settings) for settings in pretraining_blocks(configuration)]
    of_clips = len(configuration.get("patch_size", ())) == 4
    presets = list(TRAINER_PRESETS.items())[:: -1 if of_clips else 1]
    fitting = (name for name, each in presets if OBJECTIVE_SETTINGS[PRESETS[each].objective] in kinds)
    return next(fitting, MIXTURE_TRAINER)


def methods_of(settings: CropSettings) -> list[str]:
    """Return the names of the methods that settings stand for: objectives, and "simmim" for masking in space alone.

    Example:
        >>> methods_of(PretrainingSettings()), methods_of(PretrainingSettings(frequency_decoder="none"))
        (['masked'], ['simmim'])
    """
    if isinstance(settings, MixtureSettings):
        return [name for each in settings.objectives for name in methods_of(each.settings)]
    if isinstance(settings, PretrainingSettings) and settings.frequency_decoder == "none":
        return ["simmim"]
    name = _objective_of(type(settings))
    return [] if name is None else [name]


def check_blocks(configuration: Mapping[str, Any]) -> None:
    """Check all blocks of a configuration; "pretraining" may be that of any objective.

    Raises:
        InputError: no trainer would take a block.
    """
    read_block(configuration, "training")
    finetuning_settings(configuration)
    pretraining_blocks(configuration)


def pretraining_blocks(configuration: Mapping[str, Any]) -> list[CropSettings]:
    """Return the "pretraining" block as settings of each objective that takes all of its names.

    Raises:
        InputError: none does.
    """
    block = configuration.get("pretraining") or {}
    for key in block:
        _check_name("pretraining", key, ALLOWED["pretraining"])
    kinds = [kind for kind in (*OBJECTIVE_SETTINGS.values(), MixtureSettings) if set(block) <= set(_names(kind))]
    if "objectives" not in block:
        kinds = [kind for kind in kinds if kind is not MixtureSettings]
    if not kinds:
        raise InputError(f"pretraining has settings of several objectives, {_owners(block)}: keep those of one")
    found, faults = [], []
    for kind in kinds:
        try:
            found.append(read_block(configuration, "pretraining", kind=kind))
        except InputError as error:
            faults.append(error)
    if not found:
        raise faults[0]
    return found


def _owners(block: Iterable[str]) -> str:
    """Return which objectives the names of a block belong to."""
    owners = {
        key: " or ".join(name for name, kind in OBJECTIVE_SETTINGS.items() if key in _names(kind)) or "a mixture"
        for key in block
        if key not in _CROPS
    }
    return ", ".join(f"{key} of {owner}" for key, owner in owners.items())


def _read(block: dict[str, Any], name: str, kind: type, defaults: Mapping[str, Any]) -> Any:
    allowed = _names(kind)
    for key in block:
        _check_fits(name, key, kind)
        _check_name(name, key, allowed)
    if kind is MixtureSettings:
        return _read_mixture(block, name)
    values = {key: checked(f"{name}.{key}", value, allowed[key]) for key, value in block.items()}
    published: Mapping[str, Any] = {}
    if values.pop("legacy", False):
        published = PRESETS[LEGACY_PRESETS[str(_objective_of(kind))]].settings
    return kind(**{**published, **defaults, **values})


def _read_mixture(block: dict[str, Any], name: str) -> MixtureSettings:
    entries = block.pop("objectives", None)
    if not isinstance(entries, (list, tuple)) or not entries or not all(isinstance(each, dict) for each in entries):
        raise InputError(
            f'{name}.objectives is {entries!r}, expected a list of tables like {{"name": "masked", "weight": 1.0}}'
        )
    crops = {key: checked(f"{name}.{key}", value, _names(CropSettings)[key]) for key, value in block.items()}
    parts = [_read_part(dict(entry), f"{name}.objectives[{i}]", crops) for i, entry in enumerate(entries)]
    usual = {part.settings.augmentation for part in parts}
    augmentation: Any = {"augmentation": usual.pop()} if len(usual) == 1 else {}
    return MixtureSettings(objectives=tuple(parts), **{**augmentation, **crops})


def _read_part(entry: dict[str, Any], name: str, crops: Mapping[str, Any]) -> WeightedObjective:
    objective = _one_of(f"{name}.name", entry.pop("name", None), list(OBJECTIVE_SETTINGS))
    weight = checked(f"{name}.weight", entry.pop("weight", 1.0), float)
    fitting = [key for key, preset in PRESETS.items() if preset.objective == objective]
    preset = entry.pop("preset", None)
    settings = {} if preset is None else PRESETS[_one_of(f"{name}.preset", preset, fitting)].settings
    for key in _CROPS:
        if key in entry:
            raise InputError(f"{name}.{key} belongs to all objectives of a mixture: name it as pretraining.{key}")
    kind = OBJECTIVE_SETTINGS[objective]
    return WeightedObjective(name=objective, weight=weight, settings=_read(entry, name, kind, {**settings, **crops}))


def _one_of(name: str, value: Any, allowed: list[str]) -> str:
    if value not in allowed:
        raise InputError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")
    return str(value)


def _check_fits(block: str, key: str, kind: type) -> None:
    """Refuse settings of another objective, which would otherwise train another method than the trainer's name says."""
    if block == "finetuning":
        tasks = [task for each, task in _FINETUNING.items() if key in _names(each)]
        if tasks and key not in _names(kind):
            raise InputError(f"{block}.{key} is a setting of {tasks[0]}, not of {_FINETUNING[kind]}")
        return
    objective = _objective_of(kind)
    if block == "pretraining" and key == "objectives" and objective is not None:
        raise InputError(f"pretraining.objectives lists what to train: use -tr {MIXTURE_TRAINER}, which does")
    others = [name for name, each in OBJECTIVE_SETTINGS.items() if each is not kind and key in _names(each)]
    if others and key not in _names(kind):
        meant = f"of {objective}" if objective else "one of this training"
        raise InputError(f"{block}.{key} is a setting of the objective {' or '.join(others)}, not {meant}")


def _check_name(block: str, key: str, allowed: Mapping[str, Any]) -> None:
    if key in allowed:
        return
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.4)
    hint = f"did you mean {block}.{near[0]}?" if near else f"the names are {', '.join(allowed)}"
    raise InputError(f"{block}.{key} is not a setting: {hint}", entry="unknown-setting")
