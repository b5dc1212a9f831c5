"""Plans of the network of a NeuroSTORM checkpoint, whose sizes its weights show."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages

WINDOW = (4, 4, 4, 4)
"""Tokens per axis of the windows of all published models; files do not say it."""
CONFIGURATION = "4d"
_CLASS = "bdfm_nnunet.networks.neurostorm_network.NeuroSTORM"
_SPACING = (2.0, 2.0, 2.0, 0.8)
_AXES = len(WINDOW)
_RESAMPLING = "no_resampling_hack"

IMAGES = ExpectedImages(axes=(0, 1, 2, 3), normalisation=("NoNormalization",), masked=(False,), spacing=_SPACING)
"""The published preparation: standard scores in voxels of 2 mm, every 0.8 s."""


def neurostorm_plans(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return nnU-Net's plans, with one configuration "4d"; None where the weights do not show the network.

    The network is the published one, whose windows join opposite faces.

    Args:
        weights: under our names, of any order.

    Example:
        >>> neurostorm_plans({}) is None
        True
    """
    kwargs = arguments_of(weights)
    if kwargs is None:
        return None
    configuration = {
        "data_identifier": "sequences",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 1,
        "patch_size": kwargs["input_shape"],
        "spacing": list(IMAGES.spacing),
        "normalization_schemes": list(IMAGES.normalisation),
        "use_mask_for_norm": list(IMAGES.masked),
        **{f"resampling_fn_{what}": _RESAMPLING for what in ("data", "seg", "probabilities")},
        "architecture": {
            "network_class_name": _CLASS,
            "arch_kwargs": kwargs | {"full_last_window": True, "legacy": True},
            "_kw_requires_import": [],
        },
    }
    return {
        "dataset_name": "unknown",
        "plans_name": "NeuroSTORMPlans",
        "transpose_forward": list(range(_AXES)),
        "transpose_backward": list(range(_AXES)),
        "configurations": {CONFIGURATION: configuration},
    }


def arguments_of(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the sizes of a NeuroSTORM as its class takes them; None where parts are missing or do not fit together.

    Example:
        >>> import torch
        >>> block, first = "encoder.stages.0.blocks.0", "encoder.stages.0.positions"
        >>> weights = {"encoder.patch_embed.weight": torch.ones(4, 1, 2, 2, 2, 1),
        ...            f"{block}.norm1.weight": torch.ones(4), f"{block}.mlp.0.weight": torch.ones(16, 4),
        ...            f"{first}.space": torch.ones(3, 3, 3, 4), f"{first}.time": torch.ones(5, 4)}
        >>> arguments_of(weights)["input_shape"], arguments_of(weights)["features_per_stage"]
        ([6, 6, 6, 5], [4])
    """
    features: list[int] = []
    depths: list[int] = []
    while norm := _shape(weights, f"encoder.stages.{len(depths)}.blocks.0.norm1.weight", 1):
        prefix = f"encoder.stages.{len(depths)}.blocks."
        features.append(norm[0])
        depths.append(len({name.split(".")[4] for name in weights if name.startswith(prefix)}))
    kernel, hidden = _shape(weights, "encoder.patch_embed.weight", _AXES + 2), _shape(weights, _HIDDEN, 2)
    space, time = _shape(weights, f"{_FIRST}.space", _AXES), _shape(weights, f"{_FIRST}.time", 2)
    if not (features and kernel and hidden and space and time):
        return None
    token = list(kernel[2:])
    return {
        "input_shape": [*(count * step for count, step in zip(space[:-1], token)), time[0]],
        "strides": [[1] * _AXES, token, *[[2, 2, 2, 1]] * (len(depths) - 1)],
        "features_per_stage": features,
        "depths": depths,
        "window_size": list(WINDOW),
        "mlp_ratio": hidden[0] / features[0],
    }


_FIRST = "encoder.stages.0.positions"
_HIDDEN = "encoder.stages.0.blocks.0.mlp.0.weight"


def _shape(weights: Mapping[str, Tensor], name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor of so many axes; empty where there is none, or none with values."""
    tensor = weights.get(name)
    return tuple(tensor.shape) if tensor is not None and tensor.ndim == axes and tensor.numel() else ()
