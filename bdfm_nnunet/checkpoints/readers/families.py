r"""The kinds of encoders that files hold, told apart by names that only they have.

Names are sought behind any prefix; which prefixes are in front of all of them is found out here too.
"""

import re
from collections.abc import Iterable

FAMILIES: tuple[tuple[str, str], ...] = (
    ("sam-med3d", r"image_encoder\.blocks\.\d+\."),
    ("neurostorm", r"(layers|stages)\.\d+\.blocks\.\d+\.mamba\."),
    ("monai swin", r"layers[1-9]\d*c?\.0\.(blocks\.\d+\.|conv|norm)"),
    ("swin", r"layers\.\d+\.blocks\.\d+\.(attn|norm1|mlp)\."),
    ("primus", r"eva\.blocks\.\d+\.|down_projection\."),
    ("our swin", r"stages\.\d+\.blocks\.\d+\.(attn|norm1|mlp)\."),
    ("residual u-net", r"stages\.\d+\.blocks\.\d+\.conv\d\.|encoder\.stem\.convs\.\d+\."),
    ("plain u-net", r"stages\.\d+\.\d+\.convs\.\d+\."),
    ("mednext", r"enc_block_\d+\.\d+\.conv1\."),
    ("segresnet", r"convInit\.conv\.|conv_init\.|down_layers\.\d+\."),
    ("yucca u-net", r"encoder\.(in_conv|encoder_conv\d)\."),
    ("nnu-net v1", r"conv_blocks_(context|localization)\."),
    ("uniformer", r"(patch_embed[1-4]\.proj|blocks[1-4]\.\d+)\."),
    ("models genesis", r"down_tr\d+\."),
    ("3d-unet", r"encoders\.\d+\.basic_module\."),
    ("resnet", r"layer[1-4]\.\d+\.(conv|bn|downsample)"),
    ("vit", r"blocks\.\d+\.(attn|norm1|mlp)\."),
    ("embedding", r"patch_embed\.(proj\.)?(weight|bias)$"),
)
"""Kind of encoder and an expression for names that it has, behind any prefix; the first that fits tells the kind."""

PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "architecture.", "swinViT.", "swin_vit.",
    "student.", "teacher.", "ema.", "model_ema.",
)  # fmt: skip
"""What wrappers and training codes put in front of every name of an encoder."""

_KINDS = tuple((kind, re.compile(rf"(?:^|\.)(?:{pattern})")) for kind, pattern in FAMILIES)


def family_of(names: Iterable[str]) -> str | None:
    """Return the kind of the encoder that has these names; None where none is known.

    Example:
        >>> family_of(["module.swinViT.layers1.0.blocks.0.attn.qkv.weight", "rotation_head.weight"])
        'monai swin'
        >>> family_of(["projector.0.weight"]) is None
        True
    """
    names = list(names)
    return next((kind for kind, pattern in _KINDS if any(pattern.search(name) for name in names)), None)


def encoder_names(names: Iterable[str]) -> list[str]:
    """Return the names that belong to the encoder, without copies of it inside a decoder.

    Example:
        >>> encoder_names(["encoder.stages.0.blocks.0.conv1.conv.weight", "decoder.seg_layers.0.weight"])
        ['encoder.stages.0.blocks.0.conv1.conv.weight']
    """
    names = list(names)
    pattern = dict(_KINDS).get(family_of(names) or "")
    found = [] if pattern is None else [name for name in names if pattern.search(name)]
    return [name for name in found if "decoder." not in name] or found


def shared_prefix(names: Iterable[str]) -> str:
    """Return the prefixes that are in front of every name of the encoder; empty where there are none.

    Example:
        >>> shared_prefix(["model.net.encoder.stages.0.blocks.0.conv1.conv.weight", "criterion.weight"])
        'model.net.'
        >>> shared_prefix(["net.layers.0.blocks.0.attn.qkv.weight", "layers.0.blocks.1.attn.qkv.weight"])
        ''
    """
    left = encoder_names(names)
    found = ""
    while left and (prefix := _next_prefix(left)):
        found += prefix
        left = [name.removeprefix(prefix) for name in left]
    return found


def without_prefix(name: str, prefix: str) -> str:
    """Return a name without the prefix of the encoder's names, or without as many of its parts as the name has.

    Example:
        >>> [without_prefix(name, "model.swinViT.") for name in ("model.swinViT.norm.bias", "model.head.bias")]
        ['norm.bias', 'head.bias']
    """
    for part in prefix.split(".")[:-1]:
        if not name.startswith(f"{part}."):
            break
        name = name.removeprefix(f"{part}.")
    return name


def _next_prefix(names: list[str]) -> str:
    return next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in names)), "")
