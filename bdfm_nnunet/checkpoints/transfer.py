"""Which tensor of a checkpoint goes where in a network, decided before anything is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.network_functions import STATISTICS
from bdfm_nnunet.checkpoints.tensor_fitting import fit, fit_exactly
from bdfm_nnunet.checkpoints.transfer_chain import Target, behind_the_end, cut_out, first_gap, share_of

_HEAD = ".seg_layers."
_STATISTICS_OF_NONE = "statistics of a batch norm, which this network does not have there: it computes something else"


@dataclass
class Transfer:
    """What is going to happen to a network.

    Attributes:
        target: the network.
        report: what became of every tensor.
        tensors: the tensors to write, by the network's names.
        known: the checkpoint's tensors under the network's names where it has them.
        gap: the first tensor of the encoder, or of a stem, that stays new in front of others that do not; and these.
        cut: parts of the checkpoint's encoder that the network lacks in front of others that it takes; and these.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.networks import ResNet18
        >>> target = Target(ResNet18(1, features=(4, 8, 8, 8)))
        >>> Transfer(target, LoadReport(Path("a.pth"), ""), known={"layer1.2.bn1.bias": None}).encoder_ignored
        ['layer1.2.bn1.bias']
    """

    target: Target
    report: LoadReport
    tensors: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, Tensor] = field(default_factory=dict)
    gap: tuple[str, list[str]] = ("", [])
    cut: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))

    @property
    def encoder_ignored(self) -> list[str]:
        """Parameters of the checkpoint's encoder for which the network has no place."""
        return [
            name
            for name in self.known
            if name not in self.target.every_name and not name.endswith(STATISTICS) and self.target.is_of_encoder(name)
        ]


def plan_transfer(target: Target, checkpoint: Checkpoint) -> Transfer:
    """Decide about every tensor of a network and of a checkpoint, without touching the network.

    Example:
        >>> from pathlib import Path
        >>> import torch
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import read_checkpoint
        >>> from bdfm_nnunet.networks import ResNet18
        >>> network = ResNet18(1, features=(4, 8, 8, 8))
        >>> weights = {f"encoder.{name}": value for name, value in network.state_dict().items()}
        >>> torch.save(weights, "a.pth")
        >>> plan_transfer(Target(network), read_checkpoint("a.pth")).report.encoder_share
        1.0
    """
    report = LoadReport(
        checkpoint.path,
        checkpoint.sha256,
        checkpoint.kind,
        checkpoint.exposure,
        checkpoint.notes,
        ignored={**checkpoint.renamed.dropped},
    )
    transfer = Transfer(target, report, known=_under_names_of(target, checkpoint.renamed.weights))
    _fit_parameters(transfer, checkpoint.window)
    _end_transfer(transfer)
    _fit_buffers(transfer)
    report.ignored |= {
        name: _STATISTICS_OF_NONE if name.endswith(STATISTICS) else "the network has no such part"
        for name in transfer.known
        if name not in target.every_name
    }
    _measure(transfer)
    return transfer


def _under_names_of(target: Target, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with names of an encoder alone where the network is one."""
    bare = not any(name.startswith("encoder.") for name in target.every_name)
    return {name.removeprefix("encoder.") if bare else name: tensor for name, tensor in weights.items()}


def _fit_parameters(transfer: Transfer, window: tuple[int, ...] | None) -> None:
    target, report = transfer.target, transfer.report
    parts, images = {*target.encoder, *target.stem}, set(target.reading_image)
    for name, parameter in target.parameters.items():
        source = transfer.known.get(name)
        if _HEAD in name or source is None:
            report.new[name] = "a segmentation head belongs to its task" if _HEAD in name else "not in the checkpoint"
            continue
        if name in parts:
            fitted, how = fit(source, parameter, target.owner(name), window, reads_image=name in images)
        else:
            fitted, how = fit_exactly(source, parameter)
        report.note(name, fitted is not None, how)
        if fitted is not None:
            transfer.tensors[name] = fitted


def _end_transfer(transfer: Transfer) -> None:
    """Leave small tensors new that fit by chance behind the last kernel that does."""
    target = transfer.target
    for names in (target.stem, target.encoder):
        end, loose = behind_the_end(names, transfer.tensors, {name for name in names if target.is_kernel(name)})
        for name in loose:
            del transfer.tensors[name]
            transfer.report.drop(name, f"behind {end}, which stays new")


def _fit_buffers(transfer: Transfer) -> None:
    """Decide about the buffers that the network saves, such as the statistics of batch norms."""
    target, report = transfer.target, transfer.report
    for name, buffer in target.buffers.items():
        source, weight = transfer.known.get(name), f"{name.rpartition('.')[0]}.weight"
        if source is None:
            report.new[name] = "a buffer that is not in the checkpoint: it keeps what it starts with"
        elif name.endswith(STATISTICS) and weight in report.new:
            report.new[name] = "statistics of a norm that stays new"
        else:
            fitted, how = fit_exactly(source, buffer)
            report.note(name, fitted is not None, how)
            if fitted is not None:
                transfer.tensors[name] = fitted
                report.buffers += 1


def _measure(transfer: Transfer) -> None:
    """Enter which shares of the encoders are used, and where the chain is broken."""
    target, report, tensors = transfer.target, transfer.report, transfer.tensors
    report.encoder_share = share_of(_sizes(target.parameters, target.encoder), tensors)
    report.stem_share = share_of(_sizes(target.parameters, target.stem), tensors)
    lost = transfer.encoder_ignored
    mine = [name for name in target.encoder if name in transfer.known]
    report.source_share = share_of(_sizes(transfer.known, [*mine, *lost]), tensors)
    gaps = (first_gap(names, tensors) for names in (target.stem, target.encoder))
    transfer.gap = next((gap for gap in gaps if gap[1]), ("", []))
    transfer.cut = cut_out(target, lost, tensors)
    report.behind = [*dict.fromkeys([*transfer.gap[1], *transfer.cut[1]])]


def _sizes(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, int]:
    return {name: tensors[name].numel() for name in names}
