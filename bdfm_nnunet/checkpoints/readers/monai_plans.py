"""Plans for a network that computes what a Swin encoder of MONAI does, from the shapes of its weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.adapting import cubic_window
from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages

_NETWORK = "bdfm_nnunet.networks.SwinUNet"
_PATCH = 96
_Z, _UNIT = "ZScoreNormalization", "RescaleTo01Normalization"
_RESAMPLING = "resample_data_or_seg_to_shape"


def assumed_images(weights: Mapping[str, Tensor], *, pretraining: bool) -> ExpectedImages:
    """Return the images of the public weights of this kind, which no file tells.

    Segmentation of BraTS has four channels, standardised over the brain; pre-training scales to 0..1 (of one channel
    CT, of two T1 and FLAIR).

    Args:
        weights: under our names.
        pretraining: whether the file has heads of pre-training.

    Example:
        >>> assumed_images({}, pretraining=True).normalisation
        ('RescaleTo01Normalization',)
    """
    kernel = weights.get("encoder.patch_embed.weight")
    channels = 1 if kernel is None or kernel.ndim < 2 else kernel.shape[1]
    scaled = pretraining or channels == 2
    return ExpectedImages(
        axes=(0, 1, 2),
        normalisation=(_UNIT if scaled else _Z,) * channels,
        masked=(not scaled,) * channels,
        spacing=(1.0, 1.0, 1.0),
    )


def monai_plans(weights: Mapping[str, Tensor], images: ExpectedImages, *, merging_order: str) -> dict[str, Any] | None:
    """Return nnU-Net's plans, with one configuration "3d_fullres"; None where the weights do not show the network.

    Args:
        weights: under our names, of any order.
        images: the images to plan for.
        merging_order: of `SwinEncoder`.

    Example:
        >>> monai_plans({}, assumed_images({}, pretraining=True), merging_order="swin") is None
        True
    """
    kwargs = _arguments(weights)
    if kwargs is None:
        return None
    kwargs |= {"legacy": "reversed", "merging_order": merging_order}
    configuration = {
        "data_identifier": "MonaiPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [_PATCH] * 3,
        "spacing": list(images.spacing),
        "normalization_schemes": list(images.normalisation),
        "use_mask_for_norm": list(images.masked),
        **{f"resampling_fn_{what}": _RESAMPLING for what in ("data", "seg", "probabilities")},
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
        "architecture": {"network_class_name": _NETWORK, "arch_kwargs": kwargs, "_kw_requires_import": []},
    }
    return {
        "dataset_name": "unknown",
        "plans_name": "MonaiPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
    }


def _arguments(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments of a SwinUNet of as many stages as have blocks; None where parts are missing."""
    features: list[int] = []
    depths: list[int] = []
    heads: list[int] = []
    windows: set[tuple[int, ...] | None] = set()
    while True:
        prefix = f"encoder.stages.{len(depths)}.blocks."
        numbers = {name.split(".")[4] for name in weights if name.startswith(prefix)}
        if not numbers:
            break
        norm, table = (
            weights.get(f"{prefix}0.{part}") for part in ("norm1.weight", "attn.relative_position_bias_table")
        )
        if norm is None or table is None or norm.ndim != 1 or table.ndim != 2 or not len(norm):
            return None
        features.append(len(norm))
        depths.append(len(numbers))
        heads.append(table.shape[1])
        windows.add(cubic_window(len(table), 3))
    kernel, hidden = weights.get("encoder.patch_embed.weight"), weights.get("encoder.stages.0.blocks.0.mlp.0.weight")
    if kernel is None or kernel.ndim != 5 or hidden is None or not hidden.ndim or len(windows) != 1 or None in windows:
        return None
    return {
        "strides": [[1, 1, 1], list(kernel.shape[2:])[::-1], *[[2, 2, 2]] * (len(depths) - 1)],
        "features_per_stage": [max(features[0] // 2, 8), *features],
        "depths": depths,
        "num_heads": heads,
        "window_size": list(windows.pop() or ()),
        "mlp_ratio": len(hidden) / features[0],
        "n_conv_per_stage_decoder": 1,
    }
