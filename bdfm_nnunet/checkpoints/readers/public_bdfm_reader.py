"""Checkpoints of the public BDFM code."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE_FORMAT, nnunet_origin
from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages, Origin, Reader
from bdfm_nnunet.checkpoints.readers.renaming import without_wrappers
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors

PUBLIC_BDFM: dict[str, Any] = {
    "dataset": "BD-15k",
    "note": "the public BDFM checkpoint lists no cases: what its authors' lists name counts as seen, whole",
    "whole": {
        **{
            f"brats2023-{task}": "all training and validation cases are in the lists of the public code"
            for task in ("gli", "men", "met", "ped", "ssa")
        },
        "msd-brain-tumour": "inferred: the list called UPENN-GBM names the 750 cases of this release (BraTS 2016/17)",
        **dict.fromkeys(
            ("atlas-r2", "isles2022", "l2r-oasis", "brainptm2021", "mrbrains13"),
            "the authors' figure of the data counts all its scans",
        ),
    },
    "perhaps": {"upenn-gbm": "the authors' figure of the data counts it, but their list of it names other cases"},
    "releases": {
        "brats2023-gli": {"licence": "", "overlaps": ["brats2021", "brats2025-gli-pre"]},
        "msd-brain-tumour": {"licence": "", "overlaps": ["brats2018", "brats2019", "brats2020", "brats2021"]},
    },
}
"""What is known of the weights that the authors of BDFM gave out, in the form of a run (see `bdfm_nnunet.exposure`)."""

_OWN_NAMES = {"conv3d_transpose_1.weight", "encoder.patch_embed.proj.weight"}


class PublicBdfmReader(Reader):
    """The published model, a Swin encoder with a pixel and a frequency decoder.

    Example:
        >>> PublicBdfmReader().origin({}).images.normalisation
        ('RescaleTo01Normalization',)
    """

    kind = "bdfm_reference"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the weights have names that only the public BDFM code gives together."""
        return {without_wrappers(name) for name in named_tensors(content) if isinstance(name, str)} >= _OWN_NAMES

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what is known of the published training, unless the file lists its cases itself."""
        said = nnunet_origin(content)
        # volumes (x, y, z) are permuted to (z, x, y) and scaled to 0..1; their voxel sizes are left as they are
        images = ExpectedImages(axes=(0, 2, 1), normalisation=("RescaleTo01Normalization",), masked=(False,))
        seen = {"format": EXPOSURE_FORMAT, "runs": [PUBLIC_BDFM]} if said.exposure is None else said.exposure
        network = SourceNetwork(
            norm="layer", activation="GELU", merging_order="swin", legacy_attention=True, labels=False
        )
        return replace(said, images=said.images or images, exposure=seen, source_network=network)
