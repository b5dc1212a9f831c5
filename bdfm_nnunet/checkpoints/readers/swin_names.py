"""What parameters are called elsewhere: one table of names per project, None for what is dropped on purpose."""

import re
from collections.abc import Mapping

from torch import Tensor

Table = tuple[tuple[str, str | None], ...]

# Swin encoders as Microsoft, Video Swin, SimMIM and BDFM name their parameters
SWIN: Table = (
    (r"(^|\.)relative_position_index$", None),
    (r"(^|\.)attn_mask$", None),
    (r"^(encoder\.)?patch_embed\.proj\.", r"encoder.patch_embed."),
    (r"^(encoder\.)?layers\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\2.blocks.\3."),
    (r"^(encoder\.)?layers\.(\d+)\.downsample\.", r"encoder.stages.\2+1.merging."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)
# the rest of the public BDFM model
BDFM: Table = (
    (r"^mask_token$", "mask_token.value"),
    (r"^conv3d_transpose\.", "pixel_decoder.expand."),
    (r"^conv3d_transpose_1\.", "pixel_decoder.project."),
    (r"^frequency_decoder\.final_norm\.", "frequency_decoder.norm."),
)
# networks of dynamic-network-architectures hold their encoder a second time inside the decoder
ALIASES: Table = ((r"^decoder\.encoder\.", None),)


def translate(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Renames parameters of known projects to this package's names.

    Returns:
        The tensors by their names here, and for each dropped name the reason.
    """
    table = ALIASES
    if any(re.search(r"(^|\.)layers\.\d+\.blocks\.\d+\.attn\.qkv\.", name) for name in weights):
        table = (*ALIASES, *SWIN, *BDFM)
    renamed: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for name, tensor in weights.items():
        new = _rename(name, table)
        if new is None:
            dropped[name] = "derived from other entries"
        else:
            renamed[new] = tensor
    return renamed, dropped


def _rename(name: str, table: Table) -> str | None:
    for pattern, replacement in table:
        if not re.search(pattern, name):
            continue
        if replacement is None:
            return None
        name = re.sub(pattern, replacement, name)
    # a merging stands after its stage elsewhere and before the next one here
    return re.sub(r"\.(\d+)\+1\.", lambda found: f".{int(found[1]) + 1}.", name)
