"""The released encoders of Frepa (https://arxiv.org/abs/2407.14651), ViT-B and Swin V2-B for 2-D images."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.image_transformers import HEAD_CHANNELS, ImageTransformer, ShiftedWindowTransformer
from bdfm_nnunet.networks.slice_encoder import SliceEncoder

logger = logging.getLogger(__name__)

SEEN = "UCSF-PDGM and BraTS 2021"
"""Brain MRI in the pre-training of the released encoders."""


def load_frepa_encoder(path: str | Path, *, axis: int = 0, slices_at_once: int = 8) -> SliceEncoder:
    """Load a released encoder for frozen features of volumes, slice by slice.

    A warning tells that UCSF-PDGM and BraTS 2021 were in its pre-training. Widths and depths are read from the shapes
    of the file; the decoder of the file is left out.

    Args:
        path: a checkpoint of the public Frepa code, with or without its decoder.
        axis: axis of the volumes that is cut into slices, from 0.
        slices_at_once: slices per call of the encoder.

    Returns:
        A frozen module: volumes (B, 1, *spatial) to features (B, slices, C, H, W).

    Raises:
        InputError: the file is no such checkpoint, or it is incomplete.

    Example:
        A file with the names of the public code, of a model far smaller than the released one:

        >>> import torch
        >>> small = ImageTransformer(4, 64, depth=1, grid=2, patch=8, out_channels=16)
        >>> torch.save({f"encoder.{name}": value for name, value in small.state_dict().items()}, "frepa.pth")
        >>> encoder = load_frepa_encoder("frepa.pth")
        >>> encoder.training, encoder(torch.rand(1, 1, 3, 20, 20)).shape
        (False, torch.Size([1, 3, 16, 2, 2]))
    """
    weights = read_checkpoint(path).weights
    mine = {name: value for name, value in weights.items() if name.startswith("encoder.")} or weights
    weights = {name.removeprefix("encoder."): value for name, value in mine.items()}
    network = _network_of(weights, path)
    # the public code keeps the features of torchvision's network alone
    target = network.features if isinstance(network, ShiftedWindowTransformer) else network
    _check_complete(target, weights, path)
    target.load_state_dict(weights)
    logger.warning("%s: its pre-training held %s; say so where it is scored on them", path, SEEN)
    return SliceEncoder(network, edges=network.in_channels == 4, axis=axis, slices_at_once=slices_at_once)


def _network_of(weights: Mapping[str, Tensor], path: str | Path) -> ImageTransformer | ShiftedWindowTransformer:
    """Return an untrained network of the shapes of a file."""
    try:
        return _transformer(weights) if "patch_embed.proj.weight" in weights else _shifted_windows(weights)
    except (IndexError, KeyError, ValueError):
        raise InputError(
            f"{path} is no encoder of Frepa: expected the tensors encoder.patch_embed.proj.weight of its ViT or "
            "encoder.0.0.weight of its Swin Transformer"
        ) from None


def _transformer(weights: Mapping[str, Tensor]) -> ImageTransformer:
    channels, inputs, patch, _ = weights["patch_embed.proj.weight"].shape
    if channels % HEAD_CHANNELS:
        raise ValueError(f"{channels} channels are no whole heads of {HEAD_CHANNELS}")
    return ImageTransformer(
        inputs,
        channels,
        depth=_count(weights, "blocks."),
        grid=weights["pos_embed"].shape[1],
        patch=patch,
        out_channels=weights["neck.0.weight"].shape[0],
    )


def _shifted_windows(weights: Mapping[str, Tensor]) -> ShiftedWindowTransformer:
    channels, inputs, *_ = weights["0.0.weight"].shape
    stages = range(1, _count(weights, "") + 1, 2)  # a merging of tokens lies between two stages
    return ShiftedWindowTransformer(
        inputs,
        channels,
        depths=[_count(weights, f"{stage}.") for stage in stages],
        heads=[len(weights[f"{stage}.0.attn.logit_scale"]) for stage in stages],
        window=math.isqrt(math.isqrt(len(weights["1.0.attn.relative_position_index"]))),
    )


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    """Return one more than the largest number that follows a prefix."""
    numbers = [name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)]
    return 1 + max(int(number) for number in numbers if number.isdigit())


def _check_complete(target: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    expected = {name: value.shape for name, value in target.state_dict().items()}
    missing = sorted(set(expected) - set(weights))
    unknown = sorted(set(weights) - set(expected))
    wrong = [name for name in expected if name in weights and weights[name].shape != expected[name]]
    if missing or unknown or wrong:
        raise InputError(
            f"{path} does not hold a whole encoder of Frepa ({len(missing)} tensors missing, {len(unknown)} unknown, "
            f"{len(wrong)} of another shape, first {(missing + unknown + wrong)[0]!r}): give the released file"
        )
