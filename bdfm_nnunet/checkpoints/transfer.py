"""Which tensor of a checkpoint goes where in a network, decided before anything is written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.module_fitting import Known, prepare
from bdfm_nnunet.checkpoints.network_functions import STATISTICS
from bdfm_nnunet.checkpoints.tensor_fitting import Geometry, fit, fit_exactly
from bdfm_nnunet.checkpoints.transfer_chain import Target, behind_the_end, cut_out, first_gap, share_of
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.settings import LoadingSettings

_HEAD = ".seg_layers."
_STATISTICS_OF_NONE = "statistics of a batch norm, which this network does not have there: it computes something else"


@dataclass
class Transfer:
    """What is going to happen to a network.

    Attributes:
        target: the network.
        report: what became of every tensor.
        tensors: the tensors to write, by the network's names.
        known: the checkpoint's tensors under the network's names, fitted where several belong together.
        theirs: names of the tensors that the checkpoint has itself.
        gap: the first tensor of the encoder, or of a stem, that stays new in front of others that do not; and these.
        cut: parts of the checkpoint's encoder that the network lacks in front of others that it takes; and these.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.networks import ResNet18
        >>> target = Target(ResNet18(1, features=(4, 8, 8, 8)))
        >>> Transfer(target, LoadReport(Path("a.pth"), ""), theirs=("layer1.2.bn1.bias",)).encoder_ignored
        ['layer1.2.bn1.bias']
    """

    target: Target
    report: LoadReport
    tensors: dict[str, Tensor] = field(default_factory=dict)
    known: Known = field(default_factory=lambda: Known({}))
    theirs: tuple[str, ...] = ()
    gap: tuple[str, list[str]] = ("", [])
    cut: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))

    @property
    def encoder_ignored(self) -> list[str]:
        """Parameters of the checkpoint's encoder for which the network has no place."""
        return [
            name
            for name in self.theirs
            if name not in self.target.every_name
            and name not in self.known.used
            and not name.endswith(STATISTICS)
            and self.target.is_of_encoder(name)
        ]

    @property
    def filled(self) -> set[str]:
        """Names of the network that get something of the checkpoint."""
        return self.tensors.keys() - self.known.made

    @property
    def settled(self) -> set[str]:
        """Names of the network that get something, or stay new without a change to what it computes."""
        return {*self.tensors, *self.known.harmless}


def plan_transfer(
    target: Target, checkpoint: Checkpoint, settings: LoadingSettings, channels: Sequence[str] = ()
) -> Transfer:
    """Decide about every tensor of a network and of a checkpoint, without touching the network.

    Args:
        target: the network.
        checkpoint: the file.
        settings: how differences are adapted to.
        channels: names of the channels of the network's images.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import read_checkpoint
        >>> from bdfm_nnunet.networks import ResNet18
        >>> network = ResNet18(1, features=(4, 8, 8, 8))
        >>> weights = {f"encoder.{name}": value for name, value in network.state_dict().items()}
        >>> torch.save(weights, "a.pth")
        >>> plan_transfer(Target(network), read_checkpoint("a.pth"), LoadingSettings()).report.encoder_share
        1.0
    """
    report = LoadReport(
        checkpoint.path,
        checkpoint.sha256,
        checkpoint.kind,
        checkpoint.exposure,
        checkpoint.notes,
        ignored={**checkpoint.renamed.dropped},
        trainer=checkpoint.trainer,
        licence=checkpoint.licence,
        citations=checkpoint.citations,
    )
    tensors = _under_names_of(target, checkpoint.renamed.weights)
    strides = checkpoint.source_network.strides if checkpoint.window else None
    known = prepare(target, tensors, depth=settings.depth, merging=(strides or ())[2:])
    optional = _under_names_of(target, checkpoint.renamed.optional)
    known.used.update({name: why for name, why in optional.items() if name not in target.every_name})
    transfer = Transfer(target, report, known=known, theirs=tuple(tensors))
    _fit_parameters(transfer, _geometry(target, checkpoint, settings, channels))
    _end_transfer(transfer)
    _settle_decoder(transfer, settings.decoder, checkpoint.source_network.labels)
    _fit_buffers(transfer)
    for name in tensors:
        if name not in target.every_name:
            other = _STATISTICS_OF_NONE if name.endswith(STATISTICS) else "the network has no such part"
            report.ignored[name] = known.used.get(name, other)
    _measure(transfer)
    return transfer


def _under_names_of(target: Target, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return what has names of a checkpoint with names of an encoder alone where the network is one."""
    bare = not any(name.startswith("encoder.") for name in target.every_name)
    return {name.removeprefix("encoder.") if bare else name: value for name, value in named.items()}


def _geometry(target: Target, checkpoint: Checkpoint, settings: LoadingSettings, channels: Sequence[str]) -> Geometry:
    said = checkpoint.source_network
    kwargs, patch = said.arch_kwargs or {}, [math.prod(axis) for axis in zip(*(said.strides or ()), strict=False)]
    shape = kwargs.get("input_shape")
    sizes = isinstance(shape, (list, tuple)) and len(shape) == len(patch) and all(isinstance(n, int) for n in shape)
    return Geometry(
        window=checkpoint.window,
        their_channels=said.channel_names,
        our_channels=channels,
        their_grid=tuple(n // step for n, step in zip(shape or (), patch, strict=True)) if sizes else None,
        our_grid=getattr(encoder_of(target.network).module, "grid", None),
        positions=settings.positions,
    )


def _fit_parameters(transfer: Transfer, geometry: Geometry) -> None:
    target, known = transfer.target, transfer.known
    parts, images = {*target.encoder, *target.stem}, set(target.reading_image)
    for name, parameter in target.parameters.items():
        source = known.tensors.get(name)
        if _HEAD in name or source is None:
            other = "a segmentation head belongs to its task" if _HEAD in name else "not in the checkpoint"
            transfer.report.new[name] = known.harmless.get(name, other)
            continue
        if name in parts:
            fitted, how = fit(source, parameter, target.owner(name), geometry, reads_image=name in images)
        else:
            fitted, how = fit_exactly(source, parameter)
        if fitted is not None:
            how = ", ".join(each for each in (known.how.get(name), how) if each)
        transfer.report.note(name, fitted is not None, how)
        if fitted is not None:
            transfer.tensors[name] = fitted


def _end_transfer(transfer: Transfer) -> None:
    """Leave small tensors new that fit by chance behind the last kernel that does."""
    target = transfer.target
    for names in (target.stem, target.encoder):
        end, loose = behind_the_end(names, transfer.settled, {name for name in names if target.is_kernel(name)})
        for name in loose:
            transfer.tensors.pop(name, None)
            transfer.report.drop(name, f"behind {end}, which stays new")


def _settle_decoder(transfer: Transfer, policy: str, labels: bool | None) -> None:
    """Leave the decoder new where the settings want it, or where it belongs to another encoder or task."""
    target, tensors = transfer.target, transfer.tensors
    names = [name for name in target.parameters if name.startswith("decoder.") and _HEAD not in name]
    taken = [name for name in names if name in tensors]
    if policy == "same-plan":
        others = [name for name in names if name not in tensors]
        others += [name for name in (*target.stem, *target.encoder) if name not in transfer.settled]
        reason = "the decoder of a training without labels" if labels is False else ""
        reason = reason or ("the decoder of another network" if others else "")
    else:
        reason = "finetuning.decoder is none" if policy == "none" else ""
    for name in taken if reason else ():
        del tensors[name]
        transfer.report.drop(name, f"{reason}: it starts anew")


def _fit_buffers(transfer: Transfer) -> None:
    """Decide about the buffers that the network saves, such as the statistics of batch norms."""
    target, report, known = transfer.target, transfer.report, transfer.known
    for name, buffer in target.buffers.items():
        source, weight = known.tensors.get(name), f"{name.rpartition('.')[0]}.weight"
        if source is None:
            report.new[name] = known.harmless.get(name, "a buffer that is not in the checkpoint: it keeps its start")
        elif name.endswith(STATISTICS) and weight in report.new:
            report.new[name] = "statistics of a norm that stays new"
        else:
            fitted, how = fit_exactly(source, buffer)
            report.note(name, fitted is not None, how or known.how.get(name, ""))
            if fitted is not None:
                transfer.tensors[name] = fitted
                report.buffers += 1


def _measure(transfer: Transfer) -> None:
    """Enter which shares of the encoders are used, and where the chain is broken."""
    target, report, filled = transfer.target, transfer.report, transfer.filled
    report.encoder_share = share_of(_sizes(target.parameters, target.encoder), filled)
    report.stem_share = share_of(_sizes(target.parameters, target.stem), filled)
    lost, found = transfer.encoder_ignored, set(transfer.theirs)
    theirs = [name for name in target.encoder if name in found]
    report.source_share = share_of(_sizes(transfer.known.tensors, [*theirs, *lost]), filled)
    gaps = (first_gap(names, transfer.settled) for names in (target.stem, target.encoder))
    transfer.gap = next((gap for gap in gaps if gap[1]), ("", []))
    transfer.cut = cut_out(target, lost, filled)
    report.behind = [*dict.fromkeys([*transfer.gap[1], *transfer.cut[1]])]


def _sizes(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, int]:
    return {name: tensors[name].numel() for name in names}
