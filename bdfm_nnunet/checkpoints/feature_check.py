"""A check that a network computes what the network of a checkpoint does: one random image through both."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.source_building import build_source
from bdfm_nnunet.checkpoints.tensor_fitting import named_columns
from bdfm_nnunet.checkpoints.transfer_chain import Target, first_gap
from bdfm_nnunet.networks.encoders import EncoderView, encoder_of, unwrap
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder

TOLERANCE = 1e-3
"""Largest deviation of a stage, relative to the size of its features, that rounding explains, on any device."""
SEED = 2024
_EXACT = ("input channels", "zero", "less the bias", "copied")


class NotComparableError(Exception):
    """The network of a checkpoint cannot be held against another; the text says why.

    Example:
        >>> print(NotComparableError("the network computes in torch.float16"))
        the network computes in torch.float16
    """


@dataclass(frozen=True)
class Deviation:
    """How far the features of a stage are from those of the checkpoint's network.

    Attributes:
        stage: its name: "stem", or its number, finest first.
        relative: norm of the difference over the norm of the features; None where their shapes differ.
        largest: largest difference of a value; None where their shapes differ.
        shapes: of the checkpoint's and of the network's features.

    Example:
        >>> print(Deviation("0", 0.5, 1.25, ((1, 2), (1, 2))))
        stage 0: off by 5.0e-01 of its features, at most by 1.2e+00
    """

    stage: str
    relative: float | None
    largest: float | None
    shapes: tuple[tuple[int, ...], tuple[int, ...]]

    def __str__(self) -> str:
        name = self.stage if self.stage == "stem" else f"stage {self.stage}"
        if self.relative is None:
            return f"{name}: features of {self.shapes[0]} in the checkpoint, {self.shapes[1]} here"
        return f"{name}: off by {self.relative:.1e} of its features, at most by {self.largest:.1e}"

    @property
    def is_small(self) -> bool:
        """Whether rounding explains it."""
        return self.relative is not None and self.relative <= TOLERANCE


def check_features(network: nn.Module, checkpoint: Checkpoint, channels: Sequence[str] = ()) -> tuple[Deviation, ...]:
    """Run one random image through the encoders of a checkpoint and of a network that has its weights.

    Channels that the weights were adapted to are shown what the rule promises the same answer for: those of the same
    name the same picture, all of them one picture without names.

    Args:
        network: with the weights; it is left as it is, statistics of batch norms too.
        checkpoint: the file.
        channels: names of the channels of the network's images.

    Returns:
        The deviation of each stage, finest first, and of a stem beside the encoder before them.

    Raises:
        NotComparableError: the file does not describe its network, lacks weights of it, or images do not fit both.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
        >>> from bdfm_nnunet.networks import ResNet18
        >>> check_features(ResNet18(1), checkpoint_of(Path("a.pth"), {"weight": torch.zeros(2)}))
        Traceback (most recent call last):
        bdfm_nnunet.checkpoints.feature_check.NotComparableError: the file does not describe its network
    """
    source = build_source(checkpoint)
    if source is None:
        raise NotComparableError("the file does not describe its network")
    ours = encoder_of(unwrap(network))
    theirs = _filled(source, checkpoint, ours)
    place = next(ours.module.parameters())
    if place.dtype != torch.float32:
        raise NotComparableError(f"the network computes in {place.dtype}")
    for part in _parts(theirs):
        part.to(place.device)
    shown = _images(theirs, ours, checkpoint.source_network.channel_names, channels)
    try:
        found = [_features(view, images.to(place.device)) for view, images in zip((theirs, ours), shown, strict=True)]
    except (RuntimeError, ValueError) as error:
        raise NotComparableError(f"an image cannot be shown to both: {str(error).partition(chr(10))[0]}") from None
    return tuple(_compared(name, *(each[name] for each in found)) for name in found[0] if name in found[1])


def explained(deviations: Sequence[Deviation], report: LoadReport) -> bool:
    """Return whether deviations are small, or come from what the report says was changed.

    Example:
        >>> from pathlib import Path
        >>> far = Deviation("0", 0.5, 1.0, ((1,), (1,)))
        >>> explained([far], LoadReport(Path("a.pth"), "", adapted={"weight": "window (7, 7, 7) to (4, 4, 4)"}))
        True
        >>> explained([far], LoadReport(Path("a.pth"), "", encoder_share=1.0))
        False
    """
    if all(each.is_small for each in deviations):
        return True
    changed = [how for how in report.adapted.values() if not how.startswith(_EXACT) or "kernel" in how]
    return bool(changed or report.differences or report.behind or report.encoder_share < 1)


def _filled(source: nn.Module, checkpoint: Checkpoint, ours: EncoderView) -> EncoderView:
    """Give the encoder, and a stem beside it that the file has, its weights; behind their end those of the network."""
    target, weights, view = Target(source), checkpoint.renamed.weights, encoder_of(source)
    if not any(name in weights for name in target.stem):
        view = replace(view, stem=None)
    new, _ = first_gap(target.encoder, weights)
    if new:
        raise NotComparableError(f"the file lacks {new} of the network that it describes")
    last = dict(zip(target.encoder, ours.module.parameters(), strict=False))
    for name in (*target.stem, *target.encoder, *target.buffers):
        place = target.parameters[name] if name in target.parameters else target.buffers[name]
        value = weights.get(name, last.get(name))
        if value is not None and value.shape != place.shape:
            raise NotComparableError(f"{name} of the file does not fit the network that it describes")
        with torch.no_grad():
            place.copy_(place if value is None else value)
    return view


def _parts(view: EncoderView) -> list[nn.Module]:
    return [part for part in (view.stem, view.module) if part is not None]


def _images(
    theirs: EncoderView, ours: EncoderView, their_names: Sequence[str], our_names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return an image for each encoder that both should answer alike."""
    random, size = torch.Generator().manual_seed(SEED), _size(theirs, ours)
    old, new = theirs.in_channels, ours.in_channels
    columns = named_columns(their_names, our_names, old, new)
    if columns is not None:
        shown = torch.randn(1, new, *size, generator=random)
        known = torch.zeros(1, old, *size)
        for place, column in enumerate(columns):
            if column is not None:
                known[:, column] = shown[:, place]
        return known, shown
    if old == new:
        image = torch.randn(1, old, *size, generator=random)
        return image, image
    image = torch.randn(1, 1, *size, generator=random)
    return image.expand(1, old, *size), image.expand(1, new, *size)


def _size(theirs: EncoderView, ours: EncoderView) -> tuple[int, ...]:
    """Return the size of an image with two of the coarsest positions per axis, or the one that a network asks for."""
    for view in (ours, theirs):
        if isinstance(view.module, NeurostormEncoder):  # clips of any length, cheap ones here
            return *view.module.image_size[:-1], min(view.module.image_size[-1], view.module.window_size[-1])
        grid = getattr(view.module, "grid", None)
        if grid is not None:
            return tuple(count * step for count, step in zip(grid, view.strides[0], strict=True))
    return tuple(2 * math.lcm(a, b) for a, b in zip(theirs.strides[-1], ours.strides[-1], strict=True))


def _features(view: EncoderView, images: Tensor) -> dict[str, Tensor]:
    found = {}
    with torch.no_grad(), _evaluating(_parts(view)):
        if view.stem is not None:
            found["stem"] = view.stem(images)
        for number, features in enumerate(view.module(images)):
            found[str(number)] = features
    return found


@contextmanager
def _evaluating(parts: Sequence[nn.Module]) -> Iterator[None]:
    before: Mapping[nn.Module, bool] = {module: module.training for part in parts for module in part.modules()}
    for part in parts:
        part.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _compared(stage: str, theirs: Tensor, ours: Tensor) -> Deviation:
    shapes = (tuple(theirs.shape), tuple(ours.shape))
    if shapes[0] != shapes[1]:
        return Deviation(stage, None, None, shapes)
    difference, size = (ours - theirs).double(), theirs.double().norm()
    return Deviation(stage, float(difference.norm() / size.clamp_min(1e-12)), float(difference.abs().max()), shapes)
