"""The entry by which checkpoints of nnssl tell how to reuse their weights; ours have it too.

nnssl (https://github.com/MIC-DKFZ/nnssl) writes it as `nnssl_adaptation_plan`, and nnU-Net's development branch, its
detection counterpart and other tools build a network and find encoder and stem by it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bdfm_nnunet.presets import PRIMUS_SIZES

ADAPTATION_PLAN, CITATIONS = "nnssl_adaptation_plan", "citations"
"""Entries of a checkpoint."""
ONE_MILLIMETRE, OTHER_SPACING = "onemmiso", "median"
"""Names of a configuration in nnssl, by its spacing."""

SHAPE = {
    "architecture_plans": {
        "arch_class_name": str,
        "arch_kwargs?": (dict, None),
        "arch_kwargs_requiring_import?": ([str], None),
    },
    "pretrain_plan": {
        "transpose_forward?": [int],
        "configurations": {
            str: {
                "patch_size": [int],
                "spacing?": ([(float, None)], None),
                "normalization_schemes?": [str],
                "use_mask_for_norm?": (bool, [(bool, None)], None),
            }
        },
    },
    "pretrain_num_input_channels": int,
    "pretrain_patch_size?": [int],
    "recommended_downstream_patchsize": [int],
    "key_to_encoder": str,
    "key_to_stem": str,
    "keys_to_in_proj": [str],
    "key_to_lpe?": (str, None),
}
"""The shape of the entry, as far as readers of it use it."""

_LIBRARY = "dynamic_network_architectures."
_PRIMUS, _TOKEN = "bdfm_nnunet.networks.primus.PrimusNet", 8
_OF_PLANS = (
    "dataset_name", "plans_name", "original_median_spacing_after_transp", "image_reader_writer", "transpose_forward",
    "transpose_backward", "experiment_planner_used",
)  # fmt: skip


def adaptation_plan(
    plans: Mapping[str, Any],
    configuration: Mapping[str, Any],
    *,
    network: Any,
    weights: Collection[str],
    channels: int,
    crop: Sequence[int] | None = None,
) -> dict[str, Any] | None:
    """Describe a pre-training as nnssl does.

    Args:
        plans: nnU-Net's plans of the training.
        configuration: its configuration with everything that it inherits.
        network: the planned network, or its class; it states `key_to_encoder`, `key_to_stem`, `keys_to_in_proj` and
            `key_to_lpe`, as those of dynamic-network-architectures do.
        weights: names in the checkpoint.
        channels: of the images that the encoder read.
        crop: voxels per axis of the samples; by default the patch of the plans.

    Returns:
        The entry, in plain JSON types; None for a network that does not say where its encoder is.

    Example:
        >>> from bdfm_nnunet.json_shapes import fault_of
        >>> class Network:
        ...     key_to_encoder, key_to_stem = "encoder.stages", "encoder.stem"
        ...     keys_to_in_proj, key_to_lpe = ("encoder.stem.conv",), None
        >>> architecture = {"network_class_name": "net.Net", "arch_kwargs": {}, "_kw_requires_import": []}
        >>> configuration = {"architecture": architecture, "spacing": [1.0, 1.0, 1.0], "patch_size": [8, 8, 8]}
        >>> names = ["encoder.stem.conv.weight", "encoder.stages.0.weight"]
        >>> entry = adaptation_plan({}, configuration, network=Network, weights=names, channels=1)
        >>> list(entry["pretrain_plan"]["configurations"]), entry["keys_to_in_proj"], fault_of(entry, SHAPE)
        (['onemmiso'], ['encoder.stem.conv'], '')
    """
    keys = _keys(network, weights)
    if keys is None:
        return None
    patch = [int(size) for size in configuration["patch_size"]]
    return {
        "architecture_plans": _architecture(configuration["architecture"]),
        "pretrain_plan": _plan(plans, configuration, patch if crop is None else [int(size) for size in crop]),
        "pretrain_num_input_channels": int(channels),
        "recommended_downstream_patchsize": patch,
        **keys,
    }


def pretraining_configuration(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a checkpoint of nnssl was trained with: the first in its plans, as nnU-Net takes.

    Args:
        entry: of the shape `SHAPE`.

    Example:
        >>> configurations = {"onemmiso": {"patch_size": [160, 160, 160], "spacing": [1, 1, 1]}}
        >>> pretraining_configuration({"pretrain_plan": {"configurations": configurations}})["spacing"]
        [1, 1, 1]
    """
    return dict(next(iter(entry["pretrain_plan"]["configurations"].values()), {}))


def _keys(network: Any, weights: Collection[str]) -> dict[str, Any] | None:
    """Return where encoder and stem are among the weights, which may have the prefix of an encoder alone."""
    encoder = getattr(network, "key_to_encoder", None)
    if encoder is None:
        return None
    found = [prefix for prefix in ("", "encoder.") if any(name.startswith(f"{prefix}{encoder}.") for name in weights)]
    if not found:
        return None
    prefix, lpe = found[0], getattr(network, "key_to_lpe", None)
    inputs = [f"{prefix}{key}" for key in network.keys_to_in_proj]
    return {
        "key_to_encoder": f"{prefix}{encoder}",
        "key_to_stem": f"{prefix}{network.key_to_stem}",
        "keys_to_in_proj": [key for key in inputs if f"{key}.weight" in weights],
        "key_to_lpe": f"{prefix}{lpe}" if f"{prefix}{lpe}" in weights else None,
    }


def _architecture(architecture: Mapping[str, Any]) -> dict[str, Any]:
    name, preset = architecture["network_class_name"], _primus_preset(architecture)
    if preset is not None:
        return {"arch_class_name": preset, "arch_kwargs": None, "arch_kwargs_requiring_import": None}
    return {
        # nnssl knows the networks of this library by their bare names
        "arch_class_name": name.rsplit(".", 1)[-1] if name.startswith(_LIBRARY) else name,
        "arch_kwargs": _plain(architecture["arch_kwargs"]),
        "arch_kwargs_requiring_import": list(architecture["_kw_requires_import"]),
    }


def _primus_preset(architecture: Mapping[str, Any]) -> str | None:
    """Return the name by which nnssl builds a Primus of the first version, of a published size and token."""
    if architecture["network_class_name"] != _PRIMUS:
        return None
    kwargs = architecture["arch_kwargs"]
    sizes = tuple(kwargs.get(key) for key in ("embed_dim", "eva_depth", "eva_numheads"))
    token = {math.prod(axis) for axis in zip(*kwargs.get("strides", ((_TOKEN,),)))}
    if kwargs.get("version", 1) != 1 or token != {_TOKEN}:
        return None
    return next((f"Primus{size.upper()}" for size, known in PRIMUS_SIZES.items() if known == sizes), None)


def _plan(plans: Mapping[str, Any], configuration: Mapping[str, Any], crop: list[int]) -> dict[str, Any]:
    spacing = [float(step) for step in configuration["spacing"]]
    name = ONE_MILLIMETRE if set(spacing) == {1.0} else OTHER_SPACING
    resampling = {
        f"resampling_fn_{theirs}{end}": configuration.get(f"resampling_fn_{ours}{end}")
        for theirs, ours in (("data", "data"), ("mask", "seg"))
        for end in ("", "_kwargs")
    }
    settings = {
        "data_identifier": configuration.get("data_identifier"),
        "preprocessor_name": configuration.get("preprocessor_name"),
        "spacing_style": name,
        "spacing": spacing,
        "patch_size": crop,
        "normalization_schemes": list(configuration.get("normalization_schemes", [])),
        "use_mask_for_norm": list(configuration.get("use_mask_for_norm", [])),
        **resampling,
    }
    told = {key: _plain(plans[key]) for key in _OF_PLANS if key in plans}
    return told | {"configurations": {name: _plain(settings)}}


def _plain(value: Any) -> Any:
    """Return lists for tuples and copies for tables, which later changes of the plans do not reach."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
