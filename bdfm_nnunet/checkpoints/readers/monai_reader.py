"""Checkpoints of MONAI's SwinUNETR and of its encoder `swinViT` (Tang et al. 2021, https://arxiv.org/abs/2111.14791).

Self-supervised weights of BTCV's and BraTS' examples, BrainSegFounder (https://arxiv.org/abs/2406.10395), SuPreM and
others are of this kind.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.adapting import cubic_window
from bdfm_nnunet.checkpoints.readers.families import family_of
from bdfm_nnunet.checkpoints.readers.monai_orders import turned_kernel, turned_merging, turned_table
from bdfm_nnunet.checkpoints.readers.monai_plans import assumed_images, monai_plans
from bdfm_nnunet.checkpoints.readers.nnunet_reader import nnunet_origin
from bdfm_nnunet.checkpoints.readers.reader import Merging, Origin, Reader, ReadingSettings
from bdfm_nnunet.checkpoints.readers.renaming import Renamed, Table, rename
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors
from bdfm_nnunet.errors import InputError

_HEADS = r"^(rotation_head|contrastive_head|conv|mask_token|projector|head|decoder_pred)(\.|$)"
_DECODER = r"^(encoder\d+|decoder\d+|out)\."
MONAI: Table = (
    (r"(^|\.)relative_position_index$", None),
    (r"^norm\.", None),
    (_HEADS, None),
    (_DECODER, None),
    (r"^patch_embed\.proj\.", r"encoder.patch_embed."),
    *((rf"^layers{stage}\.0\.blocks\.", rf"encoder.stages.{stage - 1}.blocks.") for stage in range(1, 9)),
    # a merging stands after its stage there and before the next one here
    *((rf"^layers{stage}\.0\.downsample\.", rf"encoder.stages.{stage}.merging.") for stage in range(1, 9)),
    (r"\.mlp\.(fc|linear)1\.", ".mlp.0."),
    (r"\.mlp\.(fc|linear)2\.", ".mlp.2."),
)
"""MONAI's names to ours."""
_WHY = {
    "norm.": "MONAI never uses this norm",
    "rotation_head": "a head of its pre-training",
    "contrastive_head": "a head of its pre-training",
    "conv": "a head of its pre-training",
    "encoder": "a part of MONAI's decoder",
    "decoder": "a part of MONAI's decoder",
    "out": "a part of MONAI's decoder",
}
DEFAULT_MERGING: Merging = "monai-1.4"
_TOLD = {
    "monai-1.4": "MONAI's default up to version 1.4, in which two of eight neighbours are joined twice and two never",
    "monai-1.5": "MONAI's default from version 1.5 on",
    "mergingv2": 'MONAI\'s downsample="mergingv2"',
}


@dataclass(frozen=True)
class MonaiReader(Reader):
    """MONAI's Swin encoder, turned from axes (x, y, z) to (z, y, x) and to our order of merged tokens.

    Which order of merging a file was trained with, only its authors know: names and shapes are the same. All public
    weights up to 2024 are of MONAI up to 1.4, which is the default. Features are exactly those of MONAI in a network
    with `legacy="reversed"` and, for that default, `merging_order="monai-1.4"`, see `SwinEncoder`.

    Attributes:
        merging: the order of the file.
        assumed: whether it is assumed.

    Example:
        >>> import torch
        >>> one = torch.zeros(1)
        >>> MonaiReader().recognises({"state_dict": {"layers1.0.blocks.0.attn.qkv.weight": one}})
        True
        >>> list(MonaiReader().rename({"layers1.0.blocks.0.mlp.fc1.bias": one, "norm.weight": one}).weights)
        ['encoder.stages.0.blocks.0.mlp.0.bias']
    """

    merging: Merging = DEFAULT_MERGING
    assumed: bool = True

    kind = "monai"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the names are those of MONAI's Swin transformer."""
        return family_of(name for name in named_tensors(content) if isinstance(name, str)) == "monai swin"

    def configured(self, content: Mapping[str, Any], settings: ReadingSettings) -> "MonaiReader":
        """Return the reader of the order asked for."""
        return MonaiReader(settings.merging or DEFAULT_MERGING, settings.merging is None)

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return the weights under our names, for axes (z, y, x) and our order of merged tokens.

        Raises:
            InputError: the file is of version 2, with convolutions before each stage, or in 2-D; or a bias table is not
                one of a window with equal sides.
        """
        _check(weights)
        renamed = rename(weights, MONAI)
        turned = {name: self._turned(name, tensor) for name, tensor in renamed.weights.items()}
        dropped = {name: _why_dropped(name, why) for name, why in renamed.dropped.items()}
        return Renamed(turned, dropped, _last_merging(turned))

    def _turned(self, name: str, tensor: Tensor) -> Tensor:
        if name.endswith("relative_position_bias_table"):
            window = cubic_window(len(tensor), 3) if tensor.ndim == 2 else None
            if window is None:
                raise InputError(f"{name} has the shape {tuple(tensor.shape)}, expected a window with equal sides")
            return turned_table(tensor, window)
        if ".merging." in name and tensor.ndim and tensor.shape[-1] and tensor.shape[-1] % 8 == 0:
            return turned_merging(tensor, self.merging)
        return turned_kernel(tensor) if tensor.ndim == 5 else tensor

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what is known of the network, and what had to be assumed."""
        weights = rename(self.tensors(content), MONAI).weights
        pretraining = any(name.startswith(("rotation_head", "contrastive_head")) for name in self.tensors(content))
        images = assumed_images(weights, pretraining=pretraining)
        order = "swin" if self.merging != "monai-1.4" else self.merging
        plans = monai_plans(weights, images, merging_order=order)
        known: dict[str, Any] = {
            "merging_order": order,
            "legacy_attention": True,
            "norm": "layer",
            "activation": "GELU",
        }
        if plans is not None:
            arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
            known |= {
                "class_name": plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"],
                "arch_kwargs": arguments,
                "heads": tuple(arguments["num_heads"]),
                "strides": tuple(tuple(stride) for stride in arguments["strides"]),
                "input_channels": weights["encoder.patch_embed.weight"].shape[1],
            }
        return replace(
            nnunet_origin(content),
            plans=plans,
            configuration=None if plans is None else "3d_fullres",
            images=images,
            source_network=SourceNetwork(labels=self._labels(content), **known),
            notes=self._notes(),
        )

    def _labels(self, content: Mapping[str, Any]) -> bool | None:
        names = self.tensors(content)
        if any(name.startswith("out.") for name in names):
            return True
        return False if any(name.startswith(("rotation_head", "contrastive_head")) for name in names) else None

    def _notes(self) -> tuple[str, ...]:
        taken = f"merging is taken to be {_TOLD[self.merging]}"
        merging = f"{taken}; the file does not tell: merging chooses another order" if self.assumed else taken
        return (
            merging,
            "weights were turned from axes (x, y, z) to (z, y, x)",
            'padding takes part in its attention: features are exact with legacy="reversed" in the plans',
            "spacing and normalisation are not in the file: taken to be those of its project's examples",
        )


def _check(weights: Mapping[str, Tensor]) -> None:
    if any(name.startswith("layers") and "c.0." in name for name in weights):
        raise InputError(
            "it is of a SwinUNETR with use_v2=True (as VoCo's are), whose residual convolutions before each stage "
            "no network here has: give weights of SwinUNETR without use_v2, or of another project"
        )
    kernel = weights.get("patch_embed.proj.weight")
    if kernel is not None and kernel.ndim != 5:
        raise InputError("it is of a 2-D Swin transformer: give weights that were trained in 3-D")
    if "patch_embed.norm.weight" in weights:
        raise InputError("it has a norm after its patch embedding, which no network here has: give other weights")


def _last_merging(weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the parts of the merging after the last stage, whose result only MONAI's decoder reads."""
    numbers = [found[1] for name in weights if (found := re.match(r"encoder\.stages\.(\d{1,3})\.blocks\.", name))]
    last = f"encoder.stages.{max(map(int, numbers), default=0) + 1}.merging."
    return {name: "MONAI merges once more after its last stage" for name in weights if name.startswith(last)}


def _why_dropped(name: str, why: str) -> str:
    return next((reason for start, reason in _WHY.items() if name.startswith(start)), why)
