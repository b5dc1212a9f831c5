"""Pre-trained weights into a network, with a report of every tensor."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.tensor_fitting import fit, fit_exactly
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of, unwrap

logger = logging.getLogger(__name__)

_HEAD = ".seg_layers."
_STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")
_STATISTICS_OF_NONE = "statistics of a batch norm, which this network does not have there: it computes something else"


def load_pretrained(
    network: nn.Module, path: str | Path, *, min_match: float = 0.5, sha256: str | None = None
) -> LoadReport:
    """Load the weights of a checkpoint into a network, in place.

    The weights of the encoder, and of a stem beside it, are adapted to the network (input channels, windows, kernels,
    patches). All others are loaded
    where name and shape agree, except those of the segmentation head, which belongs to another task. Buffers that a
    network saves, such as the statistics of batch norms, are loaded and reported like parameters. Everything is decided
    before the first tensor is written, so a refused checkpoint leaves the network as it was.

    Args:
        network: SwinUNet, ResNet18UNet, ResidualEncoderUNet or PlainConvUNet, compiled or wrapped for DDP or not.
        path: a checkpoint that one of the `readers` recognises: of our trainers, of nnU-Net, of the public BDFM code,
            of 3D-Neuro-SimCLR, or plain weights.
        min_match: share of the encoder's parameters that must be found, 0 to 1.
        sha256: the digest that the file must have.

    Returns:
        The report, which is also logged.

    Raises:
        InputError: the file is no checkpoint, has another digest, or belongs to another architecture.

    Example:
        Weights of one input channel in a network of four:

        >>> from bdfm_nnunet.networks import SwinUNet
        >>> sizes = {"strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "features_per_stage": [4, 8, 16],
        ...          "depths": [1, 1], "num_heads": [1, 2], "window_size": [2, 2, 2]}
        >>> torch.save({"network_weights": SwinUNet(1, 3, **sizes).state_dict()}, "pretrained.pth")
        >>> report = load_pretrained(SwinUNet(4, 2, **sizes), "pretrained.pth")
        >>> report.encoder_share, report.adapted["encoder.patch_embed.weight"]
        (1.0, 'input channels 1 to 4')
        >>> report.stem_share, report.adapted["stem.convs.0.0.weight"]
        (1.0, 'input channels 1 to 4')
        >>> report.new["decoder.seg_layers.0.weight"]
        'a segmentation head belongs to its task'
    """
    checkpoint = read_checkpoint(path)
    if sha256 is not None and checkpoint.sha256 != sha256:
        raise InputError(
            f"{path} has the sha256 {checkpoint.sha256[:12]}..., expected {sha256[:12]}...: it is not the "
            "file that was planned for; plan again with --weights"
        )
    network = unwrap(network)
    report, tensors = _assign(network, checkpoint)
    if report.encoder_share < min_match:
        raise InputError(_refusal(network, checkpoint, report, min_match))
    _check_adapted(report, tensors, path)
    _write(network, tensors)
    _tell(report)
    return report


def _check_adapted(report: LoadReport, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    if infinite := [name for name in report.adapted if not torch.isfinite(tensors[name]).all()]:
        raise InputError(
            f"{path} has values in {infinite[0]} that are too large to be adapted: give another checkpoint"
        )


def _write(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    targets = dict(network.named_parameters()) | dict(network.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            targets[name].copy_(tensor)


def _tell(report: LoadReport) -> None:
    logger.info("%s", report)
    fresh = sum(name.endswith(".running_mean") for name in report.new)
    if fresh:
        logger.warning(
            "%s brings no statistics for %d batch norms of this network: they start anew, so the first predictions are "
            "none of the pre-trained network",
            report.path,
            fresh,
        )


def _assign(network: nn.Module, checkpoint: Checkpoint) -> tuple[LoadReport, dict[str, Tensor]]:
    """Return the report and the tensors to write, by the network's names, without touching the network."""
    known, dropped = checkpoint.renamed.weights, checkpoint.renamed.dropped
    report = LoadReport(
        checkpoint.path, checkpoint.sha256, checkpoint.kind, checkpoint.exposure, checkpoint.notes, ignored={**dropped}
    )
    tensors = _assign_parameters(network, known, checkpoint.window, report)
    tensors |= _assign_buffers(network, known, report)
    taken = {*dict(network.named_parameters()), *network.state_dict()}
    report.ignored |= {
        name: _STATISTICS_OF_NONE if name.endswith(_STATISTICS) else "the network has no such part"
        for name in known
        if name not in taken and name.removeprefix("encoder.") not in taken
    }
    return report, tensors


def _assign_parameters(
    network: nn.Module, known: Mapping[str, Tensor], window: tuple[int, ...] | None, report: LoadReport
) -> dict[str, Tensor]:
    """Decides about every parameter, and what shares of the encoder's and of the stem's are known."""
    modules = dict(network.named_modules())
    view = encoder_of(network)
    parts = {_prefix(modules, part): part for part in (view.stem, view.module) if part is not None}
    first = [next(parameter for parameter in part.parameters() if parameter.ndim > 2) for part in parts.values()]
    tensors: dict[str, Tensor] = {}
    matched, total = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
    for name, target in network.named_parameters():
        part = next((prefix for prefix in parts if name.startswith(prefix)), None)
        if part is not None:
            total[part] += target.numel()
        source = _source(known, name)
        if _HEAD in name or source is None:
            report.new[name] = "a segmentation head belongs to its task" if _HEAD in name else "not in the checkpoint"
            continue
        if part is not None:
            owner = modules[name.rpartition(".")[0]]
            fitted, how = fit(source, target, owner, window, reads_image=any(target is each for each in first))
        else:
            fitted, how = fit_exactly(source, target)
        report.note(name, fitted is not None, how)
        if fitted is not None:
            tensors[name] = fitted
            if part is not None:
                matched[part] += target.numel()
    shares = {parts[prefix]: matched[prefix] / max(total[prefix], 1) for prefix in parts}
    report.encoder_share = shares[view.module]
    report.stem_share = shares[view.stem] if view.stem is not None else 0.0
    return tensors


def _prefix(modules: Mapping[str, nn.Module], part: nn.Module) -> str:
    """Return what the names of a part's parameters start with; nothing if the part is the network."""
    return next((f"{name}." for name, module in modules.items() if module is part and name), "")


def _assign_buffers(network: nn.Module, known: Mapping[str, Tensor], report: LoadReport) -> dict[str, Tensor]:
    """Decides about the buffers that the network saves, such as the statistics of batch norms."""
    saved = network.state_dict().keys()
    tensors: dict[str, Tensor] = {}
    for name, target in network.named_buffers():
        source = _source(known, name)
        if name not in saved:
            continue
        if source is None:
            report.new[name] = "a buffer that is not in the checkpoint: it keeps what it starts with"
            continue
        fitted, how = fit_exactly(source, target)
        report.note(name, fitted is not None, how)
        if fitted is not None:
            tensors[name] = fitted
    report.buffers = len(tensors)
    return tensors


def _source(known: Mapping[str, Tensor], name: str) -> Tensor | None:
    """Return the tensor for a name of the network; an encoder alone has names without the prefix."""
    return known.get(name if name in known else f"encoder.{name}")


def _refusal(network: nn.Module, checkpoint: Checkpoint, report: LoadReport, min_match: float) -> str:
    origin = f" (written by {checkpoint.trainer})" if checkpoint.trainer else ""
    return (
        f"{checkpoint.path}{origin} fits {report.encoder_share:.1%} of the encoder of this {type(network).__name__}, "
        f"expected at least {min_match:.0%}: it belongs to another architecture; make plans that match it with "
        "bdfm plan --weights, or lower finetuning.min_match if that is what you want"
    )
