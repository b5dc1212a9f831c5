"""The reasons for which weights are not loaded into a network, each a sentence with the remedy."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.checkpoints.network_functions import (
    DEGREES,
    STATISTICS,
    Difference,
    differences,
    marked_functions,
    norm_of,
    summary_of,
)
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork
from bdfm_nnunet.checkpoints.source_building import build_source
from bdfm_nnunet.checkpoints.transfer import Transfer
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.settings import LoadingSettings

_MATCHING = "plans that match it with bdfm plan --weights"
_WANTED = "if that is what you want"


def check_transfer(transfer: Transfer, checkpoint: Checkpoint, settings: LoadingSettings) -> None:
    """Refuse a transfer whose features would not be those of the checkpoint, unless the settings ask for it.

    What is not refused, or only a matter of degree, is entered in the report.

    Raises:
        InputError: with the reason.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
        >>> from bdfm_nnunet.checkpoints.transfer import Target, plan_transfer
        >>> from bdfm_nnunet.networks import ResNet18
        >>> network = ResNet18(1, features=(4, 8, 8, 8))
        >>> _ = Path("a.pth").write_bytes(b"")
        >>> checkpoint = checkpoint_of(Path("a.pth"), network.state_dict())
        >>> transfer = plan_transfer(Target(network), checkpoint, LoadingSettings())
        >>> check_transfer(transfer, checkpoint, LoadingSettings())
        >>> transfer.report.assumed
        ('the file does not say its stride, pooling: taken to be those of this network (...',)
    """
    source = _source_modules(transfer, checkpoint)
    found = find_differences(transfer, source, checkpoint.source_network)
    report = transfer.report
    report.differences = tuple(str(each) for each in found)
    report.assumed = () if source else _assumed(transfer, checkpoint.source_network)
    if reason := _of_a_cascade(checkpoint):
        raise _refused(checkpoint, reason, "give the checkpoint of 3d_fullres or of the first stage")
    if reason := _other_axes(transfer):
        raise _refused(checkpoint, reason, "give a checkpoint of a network with as many axes")
    if reason := _too_little(transfer, settings):
        raise _refused(checkpoint, reason, f"make {_MATCHING}, or lower finetuning.min_match {_WANTED}")
    if not settings.allow_other_function and (reason := "; ".join(str(each) for each in found if each.grave)):
        reason = f"is of a network that computes something else under the same names: {reason}"
        raise _refused(checkpoint, reason, f"make {_MATCHING}, or set finetuning.allow_other_function {_WANTED}")
    if not settings.allow_gaps and (reason := _broken(transfer)):
        raise _refused(checkpoint, reason, f"make {_MATCHING}, or set finetuning.allow_gaps {_WANTED}")
    if reason := _too_much_left(transfer, settings):
        raise _refused(checkpoint, reason, f"make {_MATCHING}, or lower finetuning.min_source_match {_WANTED}")


def find_differences(
    transfer: Transfer, source: Mapping[str, nn.Module], known: SourceNetwork | None = None
) -> list[Difference]:
    """Return in what the checkpoint's network computes something else, as far as the file tells.

    Args:
        transfer: as it was decided.
        source: modules of the checkpoint's encoder by the network's names; empty where the file does not tell them.
        known: what is known of it otherwise.

    Example:
        >>> from pathlib import Path
        >>> from bdfm_nnunet.checkpoints.load_report import LoadReport
        >>> from bdfm_nnunet.checkpoints.transfer_chain import Target
        >>> from bdfm_nnunet.networks import ResNet18
        >>> network = ResNet18(1, features=(4, 8, 8, 8))
        >>> transfer = Transfer(Target(network), LoadReport(Path("a.pth"), ""))
        >>> print(*find_differences(transfer, {"relu": nn.GELU()}))
        activation is GELU(approximate=none) in the checkpoint, ReLU here (relu)
    """
    target = transfer.target
    taken = {name.rpartition(".")[0] for name in (*target.encoder, *target.stem) if name in transfer.filled}
    if source:
        found = differences(source, _encoder_modules(target.network))
    else:  # what is known of it says nothing about a stem beside the encoder, which is ours alone
        found = _by_what_is_known(encoder_of(target.network).module.modules(), known or SourceNetwork())
    found += _norms_by_statistics(transfer, taken, {name for each in found for name in each.names})
    if not any(each.what == "heads" for each in found):
        found += _heads_by_tables(transfer)
    for meaning in marked_functions(transfer.encoder_ignored):
        found.append(Difference("attention", meaning, "without", (), grave=True))
    return found


def _source_modules(transfer: Transfer, checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """Return the modules of the checkpoint's encoder by the network's names; empty where the file does not tell."""
    source = build_source(checkpoint, device="meta")
    if source is None:
        return {}
    bare = not any(name.startswith("encoder.") for name in transfer.target.every_name)
    modules = _encoder_modules(source)
    return {name.removeprefix("encoder.") if bare else name: module for name, module in modules.items()}


def _encoder_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of an encoder, and of a stem beside it, by names of the network."""
    view = encoder_of(network)
    parts = {id(module) for part in (view.module, view.stem) if part is not None for module in part.modules()}
    return {name: module for name, module in network.named_modules() if id(module) in parts}


def _norms_by_statistics(transfer: Transfer, taken: set[str], told: set[str]) -> list[Difference]:
    """Return norms of which statistics, or their absence, tell that they are others in the checkpoint."""
    with_statistics = {name.rpartition(".")[0] for name in transfer.known.tensors if name.endswith(".running_mean")}
    bare, odd = [], []
    for name in sorted(taken - told):
        norm, has = norm_of(transfer.target.modules[name]), f"{name}.running_mean" in transfer.target.buffers
        if norm is not None and name in with_statistics and not has:
            odd.append((norm, name))
        elif has and name not in with_statistics:
            bare.append(name)
    found = [
        Difference("norm", "batch norm (it brings statistics)", norm, tuple(n for k, n in odd if k == norm), grave=True)
        for norm in dict.fromkeys(norm for norm, _ in odd)
    ]
    if bare:
        found.append(Difference("norm", "without statistics", "batch norm, which needs them", tuple(bare), grave=True))
    return found


def _heads_by_tables(transfer: Transfer) -> list[Difference]:
    """Return attentions whose number of heads the columns of their bias tables tell to be another."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, module in transfer.target.modules.items():
        heads, table = (
            getattr(module, "num_heads", None),
            transfer.known.tensors.get(f"{name}.relative_position_bias_table"),
        )
        if heads is not None and table is not None and table.ndim == 2 and table.shape[1] != heads:
            found.setdefault((str(table.shape[1]), str(heads)), []).append(name)
    return [Difference("heads", *key, tuple(names), grave=True) for key, names in found.items()]


def _by_what_is_known(modules: Iterable[nn.Module], known: SourceNetwork) -> list[Difference]:
    """Return in what a network differs from one of which some properties are known, but not where it has them."""
    ours = summary_of(modules)
    theirs = {
        "norm": f"{known.norm} norm" if known.norm else "",
        "activation": known.activation or "",
        "heads": ", ".join(dict.fromkeys(map(str, known.heads or ()))),
        "merging": known.merging_order or "",
        "legacy attention": "" if known.legacy_attention is None else str(known.legacy_attention),
    }
    return [
        Difference(what, theirs[what], ours[what], (), grave=what not in DEGREES)
        for what in theirs
        if theirs[what] and what in ours and not ours[what].startswith(theirs[what])
    ]


def _assumed(transfer: Transfer, known: SourceNetwork) -> tuple[str, ...]:
    """Return what the file does not say and what is taken for it."""
    ours = summary_of(_encoder_modules(transfer.target.network).values())
    told: dict[str, object] = {"norm": known.norm, "activation": known.activation, "heads": known.heads}
    told |= {"stride": known.strides, "merging": known.merging_order}
    told["legacy attention"] = known.legacy_attention is not None
    if any(name.endswith(STATISTICS) for name in transfer.theirs):
        told["norm"] = "batch"
    ours = {what: value for what, value in ours.items() if not told.get(what)}
    if not ours:
        return ()
    return (
        f"the file does not say its {', '.join(ours)}: taken to be those of this network ({'; '.join(ours.values())})",
    )


def _of_a_cascade(checkpoint: Checkpoint) -> str:
    """Say where the network reads segmentations beside images, which cannot be told apart in its kernels."""
    configurations = (checkpoint.plans or {}).get("configurations")
    chosen = configurations.get(checkpoint.configuration) if isinstance(configurations, Mapping) else None
    stage = chosen.get("previous_stage") if isinstance(chosen, Mapping) else None
    return f"is the second stage of a cascade, which reads the segmentations of {stage} too" if stage else ""


def _other_axes(transfer: Transfer) -> str:
    """Return a sentence about kernels of another number of axes; empty where there are none."""

    def axes_of(tensor: Tensor) -> int:
        return tensor.ndim - 2

    for name in transfer.target.encoder:
        ours, theirs = transfer.target.parameters[name], transfer.known.tensors.get(name)
        if (
            theirs is not None
            and name.endswith("weight")
            and min(ours.ndim, theirs.ndim) > 2
            and ours.ndim != theirs.ndim
        ):
            return (
                f"is of a {axes_of(theirs)}-D network ({name} has the shape {tuple(theirs.shape)}), this "
                f"{_kind(transfer)} is {axes_of(ours)}-D"
            )
    return ""


def _broken(transfer: Transfer) -> str:
    """Return a sentence about the first place at which the chain is broken; empty where it is whole."""
    new, behind = transfer.gap
    if behind:
        return (
            f"leaves {new} new ({transfer.report.new[new]}) in front of {len(behind)} tensors that it fills, "
            f"{behind[0]} to {behind[-1]} ({_share(transfer, behind):.1%} of the encoder), which mean nothing behind it"
        )
    lost, behind = transfer.cut
    if behind:
        return (
            f"has {len(lost)} tensors without a place in this {_kind(transfer)}, {lost[0]} for one, in front of "
            f"{len(behind)} that have one, {behind[0]} to {behind[-1]}, which mean nothing without them"
        )
    return ""


def _share(transfer: Transfer, names: list[str]) -> float:
    sizes = {name: transfer.target.parameters[name].numel() for name in transfer.target.encoder}
    return sum(sizes.get(name, 0) for name in names) / max(sum(sizes.values()), 1)


def _kind(transfer: Transfer) -> str:
    return type(transfer.target.network).__name__


def _by(checkpoint: Checkpoint) -> str:
    return f" (written by {checkpoint.trainer})" if checkpoint.trainer else ""


def _refused(checkpoint: Checkpoint, reason: str, remedy: str) -> InputError:
    return InputError(f"{checkpoint.path}{_by(checkpoint)} {reason}: {remedy}", entry="weights-do-not-fit")


def _too_little(transfer: Transfer, settings: LoadingSettings) -> str:
    if transfer.report.encoder_share >= settings.min_match:
        return ""
    hints = "; ".join(transfer.report.differences[:3])
    return (
        f"fits {transfer.report.encoder_share:.1%} of the encoder of this {_kind(transfer)}, expected at least "
        f"{settings.min_match:.0%}: it belongs to another architecture{f' ({hints})' if hints else ''}"
    )


def _too_much_left(transfer: Transfer, settings: LoadingSettings) -> str:
    least = settings.min_match if settings.min_source_match is None else settings.min_source_match
    if transfer.report.source_share >= least:
        return ""
    return (
        f"has an encoder of which {transfer.report.source_share:.1%} finds a place in this {_kind(transfer)}, expected "
        f"at least {least:.0%}"
    )
