"""Checkpoints of 3D-Neuro-SimCLR (Kaczmarek et al. 2025, https://arxiv.org/abs/2509.10620)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE_FORMAT, nnunet_origin
from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages, Origin, Reader
from bdfm_nnunet.checkpoints.readers.renaming import Renamed, rename, without_wrappers
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors

COHORTS = ("adni", "aomic", "corr", "dlbs", "gsp", "habs-hd", "mcsa", "nifd", "ppmi", "sald", "soop")
"""The public cohorts of the published pre-training, 44,958 T1-weighted scans of 18,759 patients."""

NEURO_SIMCLR: dict[str, Any] = {
    "dataset": "3D-Neuro-SimCLR",
    "note": "which subjects 3D-Neuro-SimCLR was pre-trained on is unknown: its authors name 11 cohorts "
    f"({', '.join(COHORTS)}) and publish no list of subjects",
    "perhaps": dict.fromkeys(COHORTS, "the authors name this cohort, but not which of its subjects"),
}
"""What is known of the released weights, in the form of a run (see `bdfm_nnunet.exposure`)."""

_MARKS = {"encoder.conv1.weight", "encoder.layer1.0.conv1.weight", "encoder.layer2.0.downsample.0.bias"}
_PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class SimclrReader(Reader):
    """The released model, a 3-D ResNet-18 with a projector, and its encoder alone.

    Example:
        >>> SimclrReader().origin({}).images.normalisation
        ('ZScoreNormalization',)
    """

    kind = "simclr_reference"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the weights are a ResNet-18 with biased shortcuts, alone or with nothing but a projector."""
        if "network_weights" in content:
            return False  # nnU-Net's and ours, whose networks may have the same encoder
        weights = named_tensors(content)
        names = _with_prefix(without_wrappers(name) for name in weights if isinstance(name, str))
        return set(names) >= _MARKS and all(name.startswith(("encoder.", "projector.")) for name in names)

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return the weights as they are called; those of an encoder alone get its prefix."""
        return rename(dict(zip(_with_prefix(weights), weights.values(), strict=True)), ())

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what is known of the published training, unless the file lists its cases itself."""
        said = nnunet_origin(content)
        # arrays (z, y, x) at 1 mm in MNI space, standardised inside the brain
        images = ExpectedImages(
            axes=(0, 1, 2), normalisation=("ZScoreNormalization",), masked=(True,), spacing=(1.0, 1.0, 1.0)
        )
        seen = {"format": EXPOSURE_FORMAT, "runs": [NEURO_SIMCLR]} if said.exposure is None else said.exposure
        network = SourceNetwork(norm="batch", activation="ReLU", labels=False)
        return replace(said, images=said.images or images, exposure=seen, source_network=network)


def _with_prefix(names: Iterable[str]) -> list[str]:
    names = list(names)
    bare = all(name.split(".")[0] in _PARTS for name in names)
    return [f"encoder.{name}" for name in names] if bare else names
