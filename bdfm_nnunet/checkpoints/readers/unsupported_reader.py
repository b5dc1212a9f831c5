"""Weights that are recognised and refused, because no network that plans can name computes what theirs does."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.families import family_of
from bdfm_nnunet.checkpoints.readers.reader import Reader
from bdfm_nnunet.checkpoints.readers.renaming import Renamed
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors
from bdfm_nnunet.errors import InputError

_INSTEAD = "give weights of nnssl, nnU-Net, MONAI's SwinUNETR, BDFM or 3D-Neuro-SimCLR, or pre-train with `bdfm train`"
REFUSED = {
    "sam-med3d": "a SAM-Med3D, whose image encoder is a vision transformer with a neck",
    "vit": "a plain vision transformer (ViT, as in MAE, DINO, UNETR or BrainIAC's newer release), which is no Primus",
    "mednext": "a MedNeXt, whose blocks of depth-wise convolutions no planned network has",
    "segresnet": "a SegResNet of MONAI (as CT-FM is), whose group norms before the convolutions no planned network has",
    "yucca u-net": "a U-Net of yucca (AMAES, FOMO25's baseline), which pools by maxima where nnU-Net's has strides",
    "nnu-net v1": "a network of nnU-Net v1 (STU-Net is one), whose layers have other names and, in part, other orders",
    "models genesis": "a U-Net of Models Genesis, which pools by maxima and has batch norm",
    "3d-unet": "a U-Net of pytorch-3dunet (Brain-ID, BrainFM), which pools by maxima and has group norm",
    "uniformer": "a UniFormer (BrainMVP), whose blocks mix convolutions and attention",
}
"""Kind of encoder and what it is."""


class UnsupportedReader(Reader):
    """Refuses a file with the name of its network, the reason, and what to take instead.

    Example:
        >>> import torch
        >>> names = {"conv_blocks_context.0.blocks.0.conv.weight": torch.zeros(2)}
        >>> UnsupportedReader().recognises({"state_dict": names})
        True
    """

    kind = "unsupported"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether no network here could use the weights."""
        return bool(unsupported(named_tensors(content)))

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Refuse the file.

        Raises:
            InputError: always.
        """
        raise InputError(f"it is of {unsupported(weights)}: {_INSTEAD}")


def unsupported(weights: Mapping[Any, Tensor]) -> str:
    """Return what network the weights are of, if no network here could use them; empty otherwise.

    Example:
        >>> import torch
        >>> unsupported({"enc_block_0.0.conv1.weight": torch.zeros(2)})[:9]
        'a MedNeXt'
        >>> unsupported({"encoder.stages.0.0.convs.0.conv.weight": torch.zeros(2)})
        ''
    """
    named = {name: tensor for name, tensor in weights.items() if isinstance(name, str)}
    family = family_of(named)
    if family in ("swin", "our swin", "embedding"):
        return _other_swin(named)
    return _other_resnet(named) if family == "resnet" else REFUSED.get(family or "", "")


def _other_swin(weights: Mapping[str, Tensor]) -> str:
    if any(re.search(r"attn\.(logit_scale$|cpb_mlp\.)", name) for name in weights):
        return "a Swin transformer V2, whose attention compares directions and computes its position biases"
    patch = _ending(weights, "patch_embed.proj.weight")
    if patch is not None and patch.ndim == 4:
        return "a Swin transformer for 2-D images"
    if _ending(weights, "patch_embed.norm.weight") is not None:
        return "a Swin transformer with a norm after its patch embedding, which the Swin U-Net here does not have"
    return ""


def _other_resnet(weights: Mapping[str, Tensor]) -> str:
    first, shortcut = _ending(weights, "conv1.weight"), _ending(weights, "layer2.0.downsample.0.weight")
    if first is not None and first.ndim == 4:
        return "a ResNet for 2-D images"
    other = ""
    if any(re.search(r"layer1\.0\.conv3\.", name) for name in weights):
        other = "bottleneck blocks"
    elif any(re.search(r"layer1\.2\.", name) for name in weights):
        other = "more blocks than ResNet-18"
    elif shortcut is not None and _ending(weights, "layer2.0.downsample.0.bias") is None:
        other = "shortcuts without bias"
    if not other:
        return ""
    return f"a ResNet with {other} (MedicalNet, BrainIAC), where the planned ResNet-18 U-Net has those of Neuro-SimCLR"


def _ending(weights: Mapping[str, Tensor], end: str) -> Tensor | None:
    found = [tensor for name, tensor in weights.items() if f".{name}".endswith(f".{end}")]
    return min(found, key=lambda tensor: tensor.numel()) if found else None
