"""Pre-trained weights into a network, with a report of every tensor."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import adapting
from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.sources import translate
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.networks.encoders import encoder_of, unwrap
from bdfm_nnunet.networks.swin import PatchEmbedding, WindowAttention
from bdfm_nnunet.nnunet_files import resolve_configuration

logger = logging.getLogger(__name__)

_HEAD = ".seg_layers."


@dataclass
class LoadReport:
    """What became of every tensor.

    Attributes:
        path: the checkpoint.
        sha256: its digest.
        kind: what wrote it, as in `Checkpoint`.
        exposure: what it tells of the cases it was trained on, as in `Checkpoint`.
        loaded: names taken over as they are.
        adapted: names taken over in another shape, and how.
        new: names of the network that the checkpoint says nothing usable about, and why.
        ignored: names of the checkpoint that the network has no use for, and why.
        encoder_share: share of the encoder's parameters that were loaded or adapted, 0 to 1.
        buffers: how many of the names loaded are no parameters but statistics and the like.
    """

    path: Path
    sha256: str
    kind: str = "weights"
    exposure: Any = None
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    encoder_share: float = 0.0
    buffers: int = 0

    def __str__(self) -> str:
        counted = f" (of which {self.buffers} are buffers)" if self.buffers else ""
        lines = [
            f"weights from {self.path} (sha256 {self.sha256[:12]}): {self.encoder_share:.1%} of the encoder; "
            f"{len(self.loaded)} tensors loaded{counted}, {len(self.adapted)} adapted, {len(self.new)} left new, "
            f"{len(self.ignored)} ignored"
        ]
        for title, entries in (("adapted", self.adapted), ("left new", self.new), ("ignored", self.ignored)):
            lines += [f"  {title}: {line}" for line in _grouped(entries)]
        return "\n".join(lines)


def load_pretrained(
    network: nn.Module, path: str | Path, *, min_match: float = 0.5, sha256: str | None = None
) -> LoadReport:
    """Load what a checkpoint knows about a network, in place.

    The encoder is found and adapted (input channels, windows, kernels, patches); the rest is taken over where name and
    shape agree, but never the segmentation head, which belongs to another task. Buffers that a network saves, such as
    the statistics of batch norms, are taken over and told of like parameters. Everything is decided before the first
    tensor is written, so a refused checkpoint leaves the network as it was.

    Args:
        network: SwinUNet, ResidualEncoderUNet or PlainConvUNet, compiled or wrapped for DDP or not.
        path: a checkpoint of our trainers, of nnU-Net, of the public BDFM code, or plain weights.
        min_match: share of the encoder's parameters that must be found, 0 to 1.
        sha256: the digest the file must have.

    Returns:
        The report, which is also logged.

    Raises:
        InputError: the file is no checkpoint, has another digest, or belongs to another architecture.
    """
    checkpoint = read_checkpoint(path)
    if sha256 is not None and checkpoint.sha256 != sha256:
        raise InputError(
            f"{path} has the sha256 {checkpoint.sha256[:12]}..., expected {sha256[:12]}...: it is not the "
            "file that was planned for; plan again with --weights"
        )
    network = unwrap(network)
    report = LoadReport(checkpoint.path, checkpoint.sha256, checkpoint.kind, checkpoint.exposure)
    tensors = _assign(network, checkpoint, report)
    if report.encoder_share < min_match:
        raise InputError(_refusal(network, checkpoint, report, min_match))
    targets = dict(network.named_parameters()) | dict(network.named_buffers())
    if infinite := [name for name in report.adapted if not torch.isfinite(tensors[name]).all()]:
        raise InputError(
            f"{path} has values in {infinite[0]} that are too large to be adapted: give another checkpoint"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)
    logger.info("%s", report)
    fresh = sum(name.endswith(".running_mean") for name in report.new)
    if fresh:
        logger.warning(
            "%s brings no statistics for %d batch norms of this network: they start anew, so the first predictions are "
            "none of the pre-trained network",
            report.path,
            fresh,
        )
    return report


def _assign(network: nn.Module, checkpoint: Checkpoint, report: LoadReport) -> dict[str, Tensor]:
    """Decides about every tensor, writing the report, without touching the network."""
    known, report.ignored = translate(checkpoint.weights)
    modules = dict(network.named_modules())
    encoder = encoder_of(network).module
    first = next(parameter for parameter in encoder.parameters() if parameter.ndim > 2)
    prefix = next((f"{name}." for name, module in modules.items() if module is encoder and name), "")
    windows = _windows_of(checkpoint)
    tensors: dict[str, Tensor] = {}
    matched = total = 0
    targets = dict(network.named_parameters())
    for name, target in targets.items():
        in_encoder = name.startswith(prefix)
        total += target.numel() if in_encoder else 0
        source = known.get(name if name in known else f"encoder.{name}")
        if _HEAD in name or source is None:
            report.new[name] = "a segmentation head belongs to its task" if _HEAD in name else "not in the checkpoint"
            continue
        owner = modules[name.rpartition(".")[0]]
        if in_encoder:
            fitted, how = _fit(source, target, owner, windows, reads_image=target is first)
        else:
            fitted, how = _same(source, target)
        if fitted is None:
            report.new[name] = how
            continue
        tensors[name] = fitted
        matched += target.numel() if in_encoder else 0
        if how:
            report.adapted[name] = how
        else:
            report.loaded.append(name)
    report.encoder_share = matched / max(total, 1)
    tensors |= _assign_buffers(network, known, report)
    taken = {*targets, *network.state_dict()}
    report.ignored |= {
        name: _STATISTICS_OF_NONE if name.endswith(_STATISTICS) else "the network has no such part"
        for name in known
        if name not in taken and name.removeprefix("encoder.") not in taken
    }
    return tensors


_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
_STATISTICS_OF_NONE = "statistics of a batch norm, which this network does not have there: it computes something else"


def _assign_buffers(network: nn.Module, known: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """Decides about the buffers that the network saves, such as the statistics of batch norms."""
    saved = network.state_dict().keys()
    tensors: dict[str, Tensor] = {}
    for name, target in network.named_buffers():
        source = known.get(name if name in known else f"encoder.{name}")
        if name not in saved:
            continue
        fitted, why = (None, "a buffer that is not in the checkpoint: it keeps what it starts with")
        if source is not None:
            fitted, why = _same(source, target)
        if fitted is None:
            report.new[name] = why
        else:
            tensors[name] = fitted
            report.loaded.append(name)
    report.buffers = len(tensors)
    return tensors


def _same(source: Tensor, target: Tensor) -> tuple[Tensor | None, str]:
    if target.is_floating_point() and not source.is_floating_point():
        return None, f"{str(source.dtype).removeprefix('torch.')} in the checkpoint, floating numbers here"
    if source.shape == target.shape:
        return source, ""
    return None, f"shape {tuple(source.shape)} in the checkpoint, {tuple(target.shape)} here"


def _fit(
    source: Tensor, target: Tensor, owner: nn.Module, windows: tuple[int, ...] | None, *, reads_image: bool
) -> tuple[Tensor | None, str]:
    """The source in the target's shape and how it got there ("" if it had it), or None and why not."""
    if isinstance(owner, WindowAttention) and target is owner.relative_position_bias_table:
        return _fit_bias_table(source, target, owner, windows)
    old, new = tuple(source.shape), tuple(target.shape)
    convolution = len(old) == len(new) > 2 and old[0] == new[0] and source.numel() > 0 and old != new
    if not convolution or (old[1] != new[1] and not reads_image):
        return _same(source, target)
    source = source.float()  # sums of half precision would be coarse, and may be infinite
    steps = []
    if old[1] != new[1]:
        source = adapting.adapt_input_channels(source, new[1])
        steps.append(f"input channels {old[1]} to {new[1]}")
    if old[2:] != new[2:]:
        change = adapting.adapt_patch_embedding if isinstance(owner, PatchEmbedding) else adapting.adapt_kernel
        source = change(source, new[2:])
        steps.append(f"kernel {old[2:]} to {new[2:]}")
    return source, ", ".join(steps)


def _fit_bias_table(
    source: Tensor, target: Tensor, owner: WindowAttention, windows: tuple[int, ...] | None
) -> tuple[Tensor | None, str]:
    if source.ndim != 2 or source.shape[1] != target.shape[1]:
        return _same(source, target)
    old = windows or adapting.cubic_window(len(source), len(owner.window_size))
    if (
        old is None
        or len(old) != len(owner.window_size)
        or len(source) != torch.Size([2 * size - 1 for size in old]).numel()
    ):
        return _same(source, target)
    if old == owner.window_size:
        return source, ""
    return adapting.adapt_bias_table(source, old, owner.window_size), f"window {old} to {owner.window_size}"


def _windows_of(checkpoint: Checkpoint) -> tuple[int, ...] | None:
    """The window size that the checkpoint's plans name, where they are plans."""
    if checkpoint.plans is None or checkpoint.configuration is None or fault_of(checkpoint.plans, _LINKS):
        return None
    try:
        configuration = resolve_configuration(checkpoint.plans, checkpoint.configuration)
    except InputError:
        return None
    if fault_of(configuration, _WINDOWS):
        return None
    window = tuple(configuration["architecture"]["arch_kwargs"]["window_size"])
    return window if window and all(0 < size < 1000 for size in window) else None


_LINKS = {"configurations": {str: dict}}
_WINDOWS = {"architecture": {"arch_kwargs": {"window_size": [int]}}}


def _refusal(network: nn.Module, checkpoint: Checkpoint, report: LoadReport, min_match: float) -> str:
    origin = f" (written by {checkpoint.trainer})" if checkpoint.trainer else ""
    return (
        f"{checkpoint.path}{origin} fits {report.encoder_share:.1%} of the encoder of this {type(network).__name__}, "
        f"expected at least {min_match:.0%}: it belongs to another architecture; make plans that match it with "
        "bdfm plan --weights, or lower finetuning.min_match if that is what you want"
    )


def _grouped(entries: Mapping[str, str]) -> list[str]:
    """One line a reason, with the names it holds for."""
    groups: dict[str, list[str]] = {}
    for name, reason in entries.items():
        groups.setdefault(reason, []).append(name)
    return [
        f"{reason}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for reason, names in groups.items()
    ]
