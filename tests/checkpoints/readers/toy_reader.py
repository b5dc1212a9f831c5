"""The checkpoints of a made-up project, "PatchFormer": other names, kernels that end in their channels, a buffer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers import ExpectedImages, Origin, Reader, Renamed, Table, rename

NAMES: Table = (
    (r"^trunk\.(\d+)\.conv(\d)\.", r"encoder.stages.\1.0.convs.\2.conv."),
    (r"^trunk\.(\d+)\.norm(\d)\.", r"encoder.stages.\1.0.convs.\2.norm."),
    (r"\.mean$", ".running_mean"),
    (r"\.variance$", ".running_var"),
    (r"^projector\.", None),
)


class PatchFormerReader(Reader):
    """Its files hold a table `patchformer` beside the weights."""

    kind = "patchformer"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the file names its project."""
        return isinstance(content.get("patchformer"), Mapping)

    def tensors(self, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the averaged weights, which this project keeps under a key of its own."""
        averaged = content.get("averaged")
        return dict(averaged) if isinstance(averaged, Mapping) else {}

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return the weights with kernels (out, in, z, y, x) instead of (out, x, y, z, in)."""
        renamed = rename(weights, NAMES)
        turned = {
            name: tensor.permute(0, 4, 3, 2, 1) if tensor.ndim == 5 else tensor
            for name, tensor in renamed.weights.items()
        }
        return Renamed(turned, renamed.dropped)

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return how its images looked and which data set they are of."""
        dataset = content["patchformer"].get("dataset")
        seen = {"format": 1, "runs": [{"dataset": dataset}]} if isinstance(dataset, str) else None
        return Origin(
            images=ExpectedImages(axes=(2, 1, 0), normalisation=("RescaleTo01Normalization",), masked=(False,)),
            exposure=seen,
            notes=("images are scaled to 0..1; kernels were turned from (x, y, z) to (z, y, x)",),
        )
