"""Checkpoints of NeuroSTORM (Wang et al. 2025, https://arxiv.org/abs/2506.11167)."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.neurostorm_plans import CONFIGURATION, IMAGES, WINDOW, neurostorm_plans
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE_FORMAT, nnunet_origin
from bdfm_nnunet.checkpoints.readers.reader import Origin, Reader
from bdfm_nnunet.checkpoints.readers.renaming import Renamed, Table, rename, without_wrappers
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork, described_network
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors
from bdfm_nnunet.errors import InputError

COHORTS = ("ukb", "abcd", "hcp-ya", "hcp-a", "hcp-d")
"""The cohorts of the published pre-training."""

NEUROSTORM: dict[str, Any] = {
    "dataset": "NeuroSTORM",
    "note": "which subjects NeuroSTORM was pre-trained on is unknown: its authors name UK Biobank, ABCD and HCP and "
    "publish no list of subjects",
    "perhaps": dict.fromkeys(COHORTS, "the authors name this cohort, but not which of its subjects"),
}
"""What is known of the released weights, in the form of a run (see `bdfm_nnunet.exposure`)."""

_AXES = len(WINDOW)
_ASSUMED = (
    "the file does not say its windows and images: taken to be those of the published models, windows of 4 x 4 x 4 x 4 "
    "tokens, whole ones in the last stage, standard scores in voxels of 2 mm every 0.8 s"
)
_TABLE: Table = (
    (r"^output_head\.", None),
    (r"^patch_embed\.fc\.", "encoder.patch_embed."),
    (r"^pos_embeds\.(\d+)\.pos_embed$", r"encoder.stages.\1.positions.space"),
    (r"^pos_embeds\.(\d+)\.time_embed$", r"encoder.stages.\1.positions.time"),
    (r"^layers\.(\d+)\.blocks\.", r"encoder.stages.\1.blocks."),
    # a merging stands after its stage there and before the next one here
    (r"^layers\.(\d+)\.downsample\.", r"encoder.stages.\1+1.merging."),
    (r"^mask_token$", "mask_tokens.random"),
    (r"^(window|atlas)_mask_token$", r"mask_tokens.\1"),
    (r"^first_patch_expanding\.", "decoder.expanding.0."),
    (r"^layers_up\.(\d+)\.blocks\.", r"decoder.stages.\1.blocks."),
    (r"^layers_up\.(\d+)\.upsample\.", r"decoder.expanding.\1+1."),
    (r"^norm_up\.", "decoder.norm."),
    (r"^decoder_pred\.", "decoder.project."),
    (r"\.mlp\.linear1\.", ".mlp.0."),
    (r"\.mlp\.linear2\.", ".mlp.2."),
)
"""Their names to ours."""
_MARKS = (r"^layers\.0\.blocks\.0\.mamba\.A_log$", r"^pos_embeds\.0\.time_embed$", r"^patch_embed\.fc\.weight$")


class NeurostormReader(Reader):
    """Its masked auto-encoder and its fine-tuned encoders, whose heads are left out.

    Until April 2026 the auto-encoder had a single mask token, the one of masked windows.

    Example:
        >>> import torch
        >>> weights = {"patch_embed.fc.weight": torch.zeros(4, 8), "layers.0.downsample.reduction.weight": None}
        >>> NeurostormReader().recognises(weights)
        False
    """

    kind = "neurostorm_reference"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the weights have names that only the public NeuroSTORM code gives together."""
        names = [_bare(name) for name in named_tensors(content) if isinstance(name, str)]
        return all(any(re.search(mark, name) for name in names) for mark in _MARKS)

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return the weights under our names and in our orders; prompts are what a network may lack."""
        bare = {_bare(name): tensor for name, tensor in weights.items()}
        if len(bare) < len(weights):
            raise InputError("it holds the same weights with and without prefixes: give a checkpoint of one network")
        renamed = rename(bare, (*_layout(bare), *_TABLE))
        turned = {name: _turned(name, tensor) for name, tensor in renamed.weights.items()}
        dropped = {name: _why(name) for name in renamed.dropped}
        prompts = dict.fromkeys((name for name in turned if name.endswith(".prompt")), "prompts belong to their task")
        return Renamed(turned, dropped, prompts)

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what is known of the published training, unless the file lists its cases itself."""
        said = nnunet_origin(content)
        seen = {"format": EXPOSURE_FORMAT, "runs": [NEUROSTORM]} if said.exposure is None else said.exposure
        weights = {_bare(name): tensor for name, tensor in named_tensors(content).items() if isinstance(name, str)}
        stages = sum(bool(re.search(r"^pos_embeds\.\d+\.pos_embed$", name)) for name in weights)
        patch = cubic_patch(weights["patch_embed.fc.weight"].shape[-1:].numel())
        strides: tuple[tuple[int, ...], ...] = ((1,) * _AXES, patch or (1,) * _AXES, *[(2, 2, 2, 1)] * (stages - 1))
        network = SourceNetwork(norm="layer", activation="GELU", strides=strides, merging_order="swin", labels=False)
        plans = said.plans or self._plans(weights)
        if plans is not None and said.plans is None:
            configuration = plans["configurations"][CONFIGURATION]
            network = described_network(configuration, norm="layer", activation="GELU", labels=False)
            said = replace(said, plans=plans, configuration=CONFIGURATION, images=IMAGES, notes=(*said.notes, _ASSUMED))
        return replace(said, exposure=seen, source_network=network, window=WINDOW)

    def _plans(self, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Return the plans of the network that the weights show; None where they show none, or two of a name."""
        try:
            return neurostorm_plans(self.rename(weights).weights)
        except InputError:
            return None


def cubic_patch(voxels: int) -> tuple[int, ...] | None:
    """Return the patch of one frame and one channel that has so many voxels; None where it is no cube.

    Example:
        >>> cubic_patch(216), cubic_patch(10)
        ((6, 6, 6, 1), None)
    """
    side = round(max(voxels, 1) ** (1 / 3))
    return (side, side, side, 1) if side**3 == voxels else None


def _bare(name: str) -> str:
    """Return a name without the prefixes of DDP, torch.compile and Lightning."""
    return without_wrappers(without_wrappers(name).removeprefix("model."))


def _layout(weights: Mapping[str, Tensor]) -> Table:
    """Return what the layout until April 2026 names otherwise: its only token is the one of windows."""
    single = weights.get("mask_token")
    return ((r"^mask_token$", "mask_tokens.window"),) if single is not None and single.ndim > 1 else ()


def _why(name: str) -> str:
    return "a head belongs to its task" if name.startswith("output_head.") else "derived from other entries"


def _turned(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor in our order of axes; one of another shape than expected as it is, to be refused later."""
    if not tensor.numel():
        return tensor
    if name == "encoder.patch_embed.weight" and tensor.ndim == 2 and (patch := cubic_patch(tensor.shape[1])):
        return tensor.reshape(-1, 1, *patch)
    if name.endswith(".positions.space") and tensor.ndim == _AXES + 2:
        return tensor[0, ..., 0].movedim(0, -1).contiguous()
    if name.endswith(".positions.time") and tensor.ndim == _AXES + 2:
        return tensor[0, :, 0, 0, 0].T.contiguous()
    if name.endswith(".prompt") and tensor.ndim == 3:
        return tensor[0]
    if ".merging." in name and tensor.shape[-1:].numel() % 8 == 0:
        return _first_axis_fastest(tensor)
    return tensor


def _first_axis_fastest(tensor: Tensor) -> Tensor:
    """Turn the order of eight neighbours in the last axis from last axis fastest to first axis fastest."""
    neighbours = tensor.unflatten(-1, (2, 2, 2, -1))
    return neighbours.transpose(-4, -2).flatten(-4)
