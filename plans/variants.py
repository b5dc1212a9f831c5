"""Variants: configurations that differ from another one in a few named settings."""

import difflib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of, write_json
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.plans.plans_lookup import DEFAULT_PLANS, RUN_CONFIGURATION, main_configuration, plans_path, read_plans
from bdfm_nnunet.plans.token_grid import fits_grid
from bdfm_nnunet.settings import ALLOWED, check_blocks
from bdfm_nnunet.step_checks import check_steps

logger = logging.getLogger(__name__)

DEFAULT_CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres", RUN_CONFIGURATION)
TOP_LEVEL = ("batch_size", "patch_size", "batch_dice")
_OF_A_STEP = ("batch_size", "patch_size")
_WAIT = 60.0
RECORD = "variant_settings"  # what a variant was made with, so that planning anew can make it again


def add_variant(
    dataset_id: int,
    *,
    plans_name: str = DEFAULT_PLANS,
    variant: str,
    base: str | None = None,
    settings: Mapping[str, Any],
) -> Path:
    """Add a configuration to a plans file: another one with some settings changed.

    Args:
        dataset_id: number of the data set.
        plans_name: the plans file.
        variant: name of the new configuration; one of that name is replaced.
        base: the configuration it derives from, which stays as it is; by default the one that was planned.
        settings: "training.NAME", "pretraining.NAME", "finetuning.NAME", "batch_size", "patch_size" or "batch_dice"
            to its value, or "architecture.NAME" to true or false, for a switch of the network's arguments.

    Returns:
        The plans file.

    Raises:
        InputError: a name that does not exist, a value that a trainer would refuse, or a patch size that does not fit
            the network. Nothing is written then.
    """
    path = plans_path(dataset_id, plans_name)
    plans = read_plans(dataset_id, plans_name)
    base = base or main_configuration(plans)
    if not variant or variant in DEFAULT_CONFIGURATIONS or variant == base:
        raise InputError(
            f"--variant {variant!r} would change a planned configuration: give the variant another name",
            entry="variant-of-a-plan",
        )
    derived = derive(plans, base, settings)
    lock, otherwise = path.with_name(f".{path.stem}.lock"), f"another process changes {path}: run the command again"
    with hold_lock(lock, otherwise=otherwise, wait=_WAIT):  # jobs of an array add theirs at the same time
        plans = read_plans(dataset_id, plans_name)
        replaced = variant in plans["configurations"]
        plans["configurations"][variant] = derived
        write_json(path, plans)
    logger.info("%s configuration %s (from %s) in %s", "replaced" if replaced else "added", variant, base, path)
    return path


def derive(plans: dict[str, Any], base: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that `settings` make of `base`, with every changed block already merged.

    nnU-Net's `inherits_from` replaces whole blocks, so a changed block holds the base's settings too.

    Raises:
        InputError: as in `add_variant`.
    """
    parent = resolve_configuration(plans, base)
    configuration: dict[str, Any] = {"inherits_from": base, RECORD: dict(settings)}
    for name, value in settings.items():
        block, _, key = name.partition(".")
        if key and block in ALLOWED:
            target = configuration.setdefault(block, deepcopy(parent.get(block) or {}))
            target.update(_FILES[name](value) if name in _FILES else {key: value})
        elif name in TOP_LEVEL:
            configuration[name] = value
        elif block == "architecture" and key:
            _switch(configuration, parent, key, value)
        else:
            raise InputError(f"{name} is not a setting: {_nearest(name)}")
    if "patch_size" in settings and "input_shape" in parent.get("architecture", {}).get("arch_kwargs", {}):
        own = configuration.setdefault("architecture", deepcopy(parent["architecture"]))
        own["arch_kwargs"]["input_shape"] = configuration["patch_size"]  # its positions are for one size
    if "costs" in parent and ("architecture" in configuration or any(name in settings for name in _OF_A_STEP)):
        configuration["costs"] = None  # those of the base were counted for another step
    resolved = {**parent, **configuration}
    check_blocks(resolved)
    _check_batch_size(resolved["batch_size"])
    if not isinstance(dice := resolved.get("batch_dice", False), bool):
        raise InputError(f"batch_dice is {dice!r}, expected true or false")
    _check_patch_size(resolved)
    check_steps(resolved)
    return configuration


def renew_variants(plans: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Bring the variants of older plans into new ones, merged with the new base; keep other configurations of the user.

    Args:
        plans: the new plans, changed in place.
        old: the plans of the same name before.

    Returns:
        The names of the variants.

    Raises:
        InputError: a variant does not fit the new plans (its patch size, say, or its base is gone).
    """
    waiting = {
        name: configuration
        for name, configuration in old["configurations"].items()
        if name not in DEFAULT_CONFIGURATIONS and name not in plans["configurations"]
    }
    names = list(waiting)
    while waiting:
        ready = [name for name, old_one in waiting.items() if old_one.get("inherits_from") not in waiting]
        if not ready:
            raise InputError(f"configurations {', '.join(waiting)} inherit from one another: remove them")
        for name in ready:
            configuration = waiting.pop(name)
            try:
                plans["configurations"][name] = (
                    derive(plans, configuration["inherits_from"], configuration[RECORD])
                    if RECORD in configuration
                    else configuration
                )
                resolve_configuration(plans, name)
            except InputError as error:
                raise InputError(
                    f"variant {name} does not fit the new plans ({error}): remove it or plan under another name with -p"
                ) from None
    return names


def _switch(configuration: dict[str, Any], parent: Mapping[str, Any], name: str, value: Any) -> None:
    """Turn a switch of the network on or off.

    Raises:
        InputError: the network of the plans has no such switch, or the value is none of a switch.
    """
    kwargs = (parent.get("architecture") or {}).get("arch_kwargs") or {}
    switches = [key for key, each in kwargs.items() if isinstance(each, bool)]
    if name not in switches:
        there = f"its switches are {', '.join(switches)}" if switches else "it has none in the plans"
        raise InputError(f"architecture.{name} is no switch of the planned network: {there}")
    if not isinstance(value, bool):
        raise InputError(f"architecture.{name} is {value!r}, expected true or false")
    own = configuration.setdefault("architecture", deepcopy(parent["architecture"]))
    own["arch_kwargs"][name] = value


def _named_weights(value: Any) -> dict[str, Any]:
    path = _existing(value, "finetuning.weights", "a checkpoint")
    return {"weights": str(path), "weights_sha256": sha256_of(path)}


def _named_atlas(value: Any) -> dict[str, Any]:
    return {"atlas": str(_existing(value, "pretraining.atlas", "a label map")) if value else value}


def _existing(value: Any, name: str, what: str) -> Path:
    """Return the full path, since a training may start in another folder."""
    path = Path(os.path.expanduser(str(value)))
    if not path.is_file():
        raise InputError(f"{name} {path} does not exist: give the path of {what}")
    return path.resolve()


_FILES = {"finetuning.weights": _named_weights, "pretraining.atlas": _named_atlas}
"""Settings that name a file, and what stands in the plans for them."""


def _nearest(name: str) -> str:
    names = [*TOP_LEVEL, *(f"{block}.{key}" for block, keys in ALLOWED.items() for key in keys)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    blocks = ", ".join(f"{block}.NAME" for block in ALLOWED)
    return f"did you mean {near[0]}?" if near else f"settings are {', '.join(TOP_LEVEL)} and {blocks}"


def _check_batch_size(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"batch_size is {value!r}, expected a whole number of at least 1")


def _check_patch_size(configuration: Mapping[str, Any]) -> None:
    patch = configuration["patch_size"]
    if "architecture" not in configuration:
        raise InputError(
            "the plans are of an old nnU-Net, whose configurations have no `architecture`: plan the data set again"
        )
    kwargs = configuration["architecture"]["arch_kwargs"]
    if "strides" not in kwargs:
        raise InputError(
            "the plans do not tell the strides of their network (arch_kwargs.strides): plan the data set again"
        )
    strides = [stride if isinstance(stride, Sequence) else [stride] * len(patch) for stride in kwargs["strides"]]
    axes = len(strides[0])
    if not isinstance(patch, (list, tuple)) or not all(type(size) is int and size > 0 for size in patch):
        raise InputError(f"patch_size is {json.dumps(patch)}, expected a list of {axes} whole numbers")
    if len(patch) != axes:
        raise InputError(f"patch_size is {list(patch)}, expected {axes} whole numbers, one per axis")
    windows = _dividing_windows(kwargs) or [None] * axes
    for axis, (size, window) in enumerate(zip(patch, windows)):
        steps = [stride[axis] for stride in strides]
        if not fits_grid(size, steps, window):
            near = _near_sizes(size, steps, window)
            raise InputError(f"patch_size {list(patch)} does not fit the network on axis {axis}: take {near} there")


def _dividing_windows(kwargs: Mapping[str, Any]) -> Any:
    """Return the windows that must divide the tokens of each stage; those that are scanned are cut at the border."""
    return None if "input_shape" in kwargs else kwargs.get("window_size")


def _near_sizes(size: int, steps: Sequence[int], window: int | None) -> str:
    unit = math.prod(steps) * (window or 1)
    fitting = [other for other in range(1, size + unit + 1) if fits_grid(other, steps, window)]
    below = [other for other in fitting if other < size][-1:]
    above = [other for other in fitting if other > size][:1]
    return " or ".join(str(other) for other in below + above)
