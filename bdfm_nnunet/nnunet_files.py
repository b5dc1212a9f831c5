"""Reading of dataset.json and plans files; their content is checked before it is used."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import memory_bytes, read_json
from bdfm_nnunet.json_shapes import Anything, fault_of
from bdfm_nnunet.safe_names import check_name

_SIZES, _NUMBERS, _PER_AXIS = [int], [float], [(int, [int])]
DATASET = {
    "channel_names?": {str: str},
    "modality?": {str: str},
    "labels": {str: (int, [int])},
    "numTraining?": int,
    "file_ending": str,
    "regions_class_order?": ([int], None),
    "dataset?": {str: {"images": [str], "label?": (str, None)}},
    "overwrite_image_reader_writer?": (str, None),
}
"""The shape of dataset.json, as nnU-Net takes it."""
PLANS = {
    "dataset_name": str,
    "plans_name": str,
    "transpose_forward": _SIZES,
    "transpose_backward": _SIZES,
    "image_reader_writer?": str,
    "label_manager?": str,
    "foreground_intensity_properties_per_channel?": {str: dict},
    "configurations": {str: {"inherits_from?": str}},
}
"""The shape of a plans file."""
CONFIGURATION = {
    "data_identifier": str,
    "preprocessor_name": str,
    "batch_size": int,
    "patch_size": _SIZES,
    "spacing": _NUMBERS,
    "normalization_schemes": [str],
    "use_mask_for_norm": [(bool, None)],
    "resampling_fn_data": str,
    "resampling_fn_seg": str,
    "resampling_fn_probabilities": str,
    "batch_dice?": bool,
    "architecture?": {
        "network_class_name": str,
        "arch_kwargs": {"strides?": _PER_AXIS, "kernel_sizes?": _PER_AXIS, "input_shape?": _SIZES},
        "_kw_requires_import": [str],
    },
    "UNet_class_name?": str,
    "training?": (dict, None),
    "pretraining?": (dict, None),
    "finetuning?": (dict, None),
    "variant_settings?": dict,
    "previous_stage?": (str, None),
    "next_stage?": (str, [str], None),
    **{f"resampling_fn_{what}_kwargs?": dict for what in ("data", "seg", "probabilities")},
    "costs?": Anything,
}
"""The shape of a configuration with everything that it inherits."""
_CLASSES = ("preprocessor_name", "resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")


def read_dataset_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and check a dataset.json.

    Raises:
        InputError: as `read_json` and `check_dataset`.
    """
    return check_dataset(read_json(path), str(path))


def check_dataset(content: Any, name: str) -> dict[str, Any]:
    """Check the content of a dataset.json and return it.

    Args:
        content: content of the file.
        name: name of the file in messages.

    Raises:
        InputError: it has another shape, lacks channels or background, or has a case name that cannot be a file name.
    """
    fault = fault_of(content, DATASET)
    if not fault and not (content.get("channel_names") or content.get("modality")):
        fault = "channel_names is missing"
    if not fault and "background" not in content["labels"]:
        fault = "labels.background is missing"
    if not fault and not content["file_ending"].startswith("."):
        fault = f"file_ending is {content['file_ending']!r}, expected one such as .nii.gz"
    if fault:
        raise InputError(f"{name} is no dataset.json of nnU-Net ({fault}): restore it, or convert the data set again")
    check_name(f"x{content['file_ending']}", f"file_ending of {name}")
    for case in content.get("dataset", {}):
        check_name(case, f"case id in {name}")
    return dict(content)


def channels_of(dataset: Mapping[str, Any]) -> list[str]:
    """Return the names of the channels of a dataset.json, in their order.

    Example:
        >>> channels_of({"channel_names": {"1": "T2", "0": "T1"}})
        ['T1', 'T2']
    """
    names = dataset.get("channel_names") or dataset["modality"]
    return [names[key] for key in sorted(names, key=lambda key: (len(key), key))]


def inputs_of(dataset: Mapping[str, Any], configuration: Mapping[str, Any]) -> int:
    """Return the number of input channels of a network: images, and in a cascade one per label of the previous stage.

    Args:
        dataset: content of dataset.json.
        configuration: configuration of the plans with everything that it inherits.
    """
    labels = labels_of(dataset) - {0} if configuration.get("previous_stage") is not None else ()
    return len(channels_of(dataset)) + len(labels)


def refuse_cascade(configuration: Mapping[str, Any], what: str) -> None:
    """Raise InputError for the second stage of a cascade, whose network reads more than images.

    Args:
        configuration: configuration of the plans with everything that it inherits.
        what: what has this configuration, for the message.
    """
    if (stage := configuration.get("previous_stage")) is not None:
        raise InputError(
            f"{what} is the second stage of a cascade, whose network reads the segmentations of {stage} beside the "
            f"images, and no pre-training has those: choose 3d_fullres or {stage}, or nnU-Net's own trainers for it"
        )


def outputs_of(dataset: Mapping[str, Any]) -> int:
    """Return the number of output channels of a segmentation network as nnU-Net counts them: classes or regions."""
    wanted = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if not any(isinstance(value, (list, tuple)) and len(value) > 1 for value in dataset["labels"].values()):
        return len(set(_flat(wanted.values())))
    return sum(set(_flat([value])) != {0} for value in wanted.values())


def token_of(arch_kwargs: Mapping[str, Any]) -> list[int] | None:
    """Return the voxels per axis of a token of a transformer; None if the network of these arguments is none.

    Example:
        >>> token_of({"strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "window_size": [4, 4, 4]})
        [4, 4, 4]
    """
    if "window_size" in arch_kwargs:
        return list(arch_kwargs["strides"][1])
    if "input_shape" in arch_kwargs:
        return [math.prod(axis) for axis in zip(*arch_kwargs["strides"])]
    return None


def labels_of(dataset: Mapping[str, Any]) -> set[int]:
    """Return the label values of a dataset.json, including the background."""
    return set(_flat(value for name, value in dataset["labels"].items() if name != "ignore"))


def _flat(values: Iterable[Any]) -> Iterator[int]:
    for value in values:
        yield from value if isinstance(value, (list, tuple)) else [value]


def read_plans_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a plans file and check every configuration.

    Raises:
        InputError: as `read_json` and `check_plans`.
    """
    return check_plans(read_json(path), str(path))


def check_plans(content: Any, name: str) -> dict[str, Any]:
    """Check the shapes, sizes and names of plans and return them; `networks.network_classes` checks class names.

    Args:
        content: content of a plans file, or the plans of a checkpoint.
        name: name of the file in messages.

    Raises:
        InputError: the plans cannot be used.
    """
    if fault := fault_of(content, PLANS):
        raise _no_plans(name, fault)
    for key in ("dataset_name", "plans_name"):
        check_name(content[key], f"{key} in {name}")
    for key in ("label_manager", "image_reader_writer"):
        if not content.get(key, "x").isidentifier():
            raise _no_plans(name, f"{key} is {content[key]!r}, expected the name of a class")
    axes = len(content["transpose_forward"])
    for key in ("transpose_forward", "transpose_backward"):
        if sorted(content[key]) != list(range(axes)):
            raise _no_plans(name, f"{key} is {list(content[key])}, expected each axis once")
    for configuration in content["configurations"]:
        check_name(configuration, f"configuration in {name}")
        _check_configuration(resolve_configuration(content, configuration), configuration, axes, name)
    return dict(content)


def resolve_configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with everything that it inherits, resolved as in nnU-Net (a shallow update, nearest last).

    Raises:
        InputError: the configuration does not exist, or inherits from itself.
    """
    configurations = plans["configurations"]
    chain: list[str] = []
    current: Any = name
    while current is not None:
        if not isinstance(current, str) or current not in configurations:
            raise InputError(f"the plans have no configuration {current!r}: choose one of {', '.join(configurations)}")
        if current in chain:
            raise InputError(f"configuration {name!r} inherits from itself ({' -> '.join([*chain, current])})")
        chain.append(current)
        current = configurations[current].get("inherits_from")
    resolved: dict[str, Any] = {}
    for link in reversed(chain):
        resolved.update(configurations[link])
    return resolved


def _check_configuration(settings: Mapping[str, Any], configuration: str, axes: int, name: str) -> None:
    where = f"configurations.{configuration}"
    if fault := fault_of(settings, CONFIGURATION, where):
        raise _no_plans(name, fault)
    if "architecture" not in settings and "UNet_class_name" not in settings:
        raise _no_plans(name, f"{where}.architecture is missing")
    check_name(settings["data_identifier"], f"data_identifier of {where} in {name}")
    for key in _CLASSES:
        if not settings[key].isidentifier():
            raise _no_plans(name, f"{where}.{key} is {settings[key]!r}, expected the name of a class or function")
    for scheme in settings["normalization_schemes"]:
        if not scheme.isidentifier():
            raise _no_plans(name, f"{where}.normalization_schemes has {scheme!r}, expected the name of a class")
    if settings.get("previous_stage") is not None:  # a folder of results
        check_name(settings["previous_stage"], f"previous_stage of {where} in {name}")
    _check_strides(settings.get("architecture", {}).get("arch_kwargs", {}), where, name)
    patch, spacing = settings["patch_size"], settings["spacing"]
    fixed = settings.get("architecture", {}).get("arch_kwargs", {}).get("input_shape", patch)
    if list(fixed) != list(patch):
        raise _no_plans(
            name,
            f"{where} has patches of {list(patch)} voxels, but its network is for {list(fixed)}; "
            "`bdfm plan --variant NAME --set patch_size=...` changes both",
        )
    if not 2 <= len(patch) <= axes or len(spacing) not in (len(patch), axes):
        raise _no_plans(name, f"{where} has a patch of {len(patch)} axes and a spacing of {len(spacing)}")
    if not all(0.001 <= step <= 1000 for step in spacing):
        raise _no_plans(name, f"{where}.spacing is {list(spacing)}, expected 0.001 to 1000 mm")
    if min(patch) < 1 or settings["batch_size"] < 1:
        raise _no_plans(name, f"{where} has a patch or batch without voxels")
    if 4 * settings["batch_size"] * math.prod(patch) > memory_bytes():
        raise _no_plans(
            name, f"{where} has batches of {settings['batch_size']} x {math.prod(patch)} voxels, more than memory holds"
        )


def _check_strides(kwargs: Mapping[str, Any], where: str, name: str) -> None:
    """Check the strides of every stage: one per axis, or one for all axes."""
    strides = kwargs.get("strides", [1])
    steps = [each if isinstance(each, (list, tuple)) else [each] for each in strides]
    if (
        not strides
        or not all(each and min(each) >= 1 for each in steps)
        or len({len(each) for each in steps} - {1}) > 1
    ):
        raise _no_plans(
            name, f"{where}.architecture.arch_kwargs.strides is {strides!r:.60}, expected 1 or more, one per axis"
        )


def _no_plans(name: str, fault: str) -> InputError:
    return InputError(f"{name} is no usable nnU-Net plans file ({fault}): plan the data set again with `bdfm plan`")
