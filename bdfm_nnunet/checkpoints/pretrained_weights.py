"""Pre-trained weights into a network, with a report of every tensor."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.feature_check import NotComparableError, check_features, explained
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.refusals import check_transfer
from bdfm_nnunet.checkpoints.tensor_copying import copy_all_or_nothing, put_back
from bdfm_nnunet.checkpoints.transfer import Transfer, plan_transfer
from bdfm_nnunet.checkpoints.transfer_chain import Target
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.settings import LoadingSettings

logger = logging.getLogger(__name__)


def load_pretrained(
    network: nn.Module,
    path: str | Path,
    *,
    sha256: str | None = None,
    channels: Sequence[str] = (),
    **settings: Any,
) -> LoadReport:
    """Load the weights of a checkpoint into a network, in place.

    The weights of the encoder, and of a stem beside it, are adapted to the network (input channels, windows, kernels,
    patches). All others are loaded where name and shape agree, except those of the segmentation head, which belongs to
    another task. Buffers that a network saves, such as the statistics of batch norms, are loaded and reported like
    parameters. Refused are files of which too little fits, in whose chain something stays new in front of something
    loaded, and those of networks that compute something else with the same names and shapes. Everything is decided
    before the first tensor is written, so a refused checkpoint leaves the network as it was.

    Args:
        network: SwinUNet, ResNet18UNet, ResidualEncoderUNet or PlainConvUNet, compiled or wrapped for DDP or not.
        path: a checkpoint that one of the `readers` recognises: of our trainers, of nnU-Net, of the public BDFM code,
            of 3D-Neuro-SimCLR, or plain weights.
        sha256: the digest that the file must have.
        channels: names of the channels of the network's images, as in dataset.json.
        settings: what is taken over and what is refused, see `LoadingSettings`.

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
    chosen = LoadingSettings(**settings)
    checkpoint = read_checkpoint(
        path, weight_set=chosen.weight_set, merging=chosen.merging, token_order=chosen.token_order
    )
    if sha256 is not None and checkpoint.sha256 != sha256:
        raise InputError(
            f"{path} has the sha256 {checkpoint.sha256[:12]}..., expected {sha256[:12]}...: it is not the "
            "file that was planned for; plan again with --weights",
            entry="other-weights",
        )
    target = Target(unwrap(network))
    transfer = plan_transfer(target, checkpoint, chosen, channels)
    check_transfer(transfer, checkpoint, chosen)
    _check_values(transfer, path)
    before = copy_all_or_nothing(target.network, transfer.tensors, str(path))
    if chosen.check:
        _check_features(transfer, checkpoint, channels, before)
    logger.info("%s", transfer.report)
    return transfer.report


def _check_features(
    transfer: Transfer, checkpoint: Checkpoint, channels: Sequence[str], before: Mapping[str, Tensor]
) -> None:
    """Enter how far features are from the checkpoint's, and undo the transfer where nothing explains it."""
    report, network = transfer.report, transfer.target.network
    try:
        found = check_features(network, checkpoint, channels)
    except NotComparableError as error:
        report.checked = (f"features were not compared, {error}",)
        return
    report.checked = tuple(map(str, found))
    if not explained(found, report):
        put_back(network, before)
        raise InputError(
            f"{checkpoint.path} gives other features in this network than in its own ({'; '.join(report.checked)}), "
            "and nothing that was adapted explains it: please report this, or set finetuning.check to false",
            entry="other-features",
        )


def _check_values(transfer: Transfer, path: str | Path) -> None:
    """Refuse values that adapting, or the type of the network's numbers, makes infinite."""
    places = {**transfer.target.parameters, **transfer.target.buffers}
    for name, tensor in transfer.tensors.items():
        if not torch.isfinite(tensor.to(places[name].dtype)).all():
            raise InputError(f"{path} has values in {name} that are too large to be adapted: give another checkpoint")
