"""Names in Swin encoders of Microsoft, Video Swin, SimMIM and BDFM, which differ little."""

import re
from collections.abc import Iterable

from bdfm_nnunet.checkpoints.readers.renaming import Table

SWIN: Table = (
    (r"(^|\.)relative_position_index$", None),
    (r"(^|\.)attn_mask$", None),
    (r"^(encoder\.)?patch_embed\.proj\.", r"encoder.patch_embed."),
    (r"^(encoder\.)?layers\.(\d+)\.blocks\.(\d+)\.", r"encoder.stages.\2.blocks.\3."),
    # a merging stands after its stage there and before the next one here
    (r"^(encoder\.)?layers\.(\d+)\.downsample\.", r"encoder.stages.\2+1.merging."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    # the parts that masked image modelling in 3-D, of which BDFM is a form, has around the encoder
    (r"^mask_token$", "mask_token.value"),
    (r"^conv3d_transpose\.", "pixel_decoder.expand."),
    (r"^conv3d_transpose_1\.", "pixel_decoder.project."),
    (r"^frequency_decoder\.final_norm\.", "frequency_decoder.norm."),
)
"""Their names to ours."""


def has_swin_names(names: Iterable[str]) -> bool:
    """Return whether these are names of a Swin encoder.

    >>> has_swin_names(["encoder.layers.0.blocks.1.attn.qkv.weight"])
    True
    """
    return any(re.search(r"(^|\.)layers\.\d+\.blocks\.\d+\.attn\.qkv\.", name) for name in names)
