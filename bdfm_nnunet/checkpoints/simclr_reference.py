"""The released 3D-Neuro-SimCLR model from its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_in_memory, read_checkpoint
from bdfm_nnunet.checkpoints.readers.simclr_reader import SimclrReader
from bdfm_nnunet.checkpoints.soundness import incomplete
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.projector import Projector
from bdfm_nnunet.networks.resnet import RELEASED_STRIDES, ResNet18


class SimclrReference(nn.Module):
    """The encoder of 3D-Neuro-SimCLR and, where the checkpoint has it, its projector.

    Args:
        encoder: the ResNet-18.
        projector: what contrastive learning compared; None in a checkpoint of the encoder alone.

    Example:
        >>> model = SimclrReference(ResNet18(features=(4, 8, 16, 32)), Projector(32)).eval()
        >>> features = model.features(torch.zeros(2, 1, 16, 16, 16))
        >>> features.shape, model.project(features).shape
        (torch.Size([2, 32]), torch.Size([2, 64]))
    """

    def __init__(self, encoder: ResNet18, projector: Projector | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.projector = projector

    def features(self, images: Tensor) -> Tensor:
        """Return the features (B, 512) of images (B, 1, D, H, W) of any size, prepared by `prepare_for_simclr`.

        Raises:
            ValueError: the images have other channels or axes.
        """
        channels, axes = self.encoder.conv1.in_channels, len(self.encoder.strides[0])
        if images.ndim != axes + 2 or images.shape[1] != channels:
            raise ValueError(
                f"images of shape {tuple(images.shape)}, expected a batch of {channels} channel(s) and {axes} axes"
            )
        pooled: Tensor = self.encoder(images)[-1].flatten(2).mean(2)
        return pooled

    def project(self, features: Tensor) -> Tensor:
        """Return the projection (B, 64) of features (B, 512).

        Raises:
            InputError: the checkpoint has no projector.
        """
        if self.projector is None:
            raise InputError("this checkpoint holds an encoder alone: take its features, or give one with a projector")
        projected: Tensor = self.projector(features)
        return projected

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of images."""
        return self.features(images)


def load_simclr_reference(source: str | Path | Mapping[str, Any]) -> SimclrReference:
    """Load the released 3D-Neuro-SimCLR model, or one of other widths, in eval mode.

    The released file is called .tar but is what torch.save writes, `{"epoch", "model_state_dict",
    "optimizer_state_dict"}`; do not unpack it. Names may have the prefix `module.`, and the projector may be missing.

    Args:
        source: the file, or its content: weights by name, in that container or bare.

    Returns:
        The model in float32 on the CPU.

    Raises:
        InputError: the file cannot be read, or its tensors are not all of that model, finite and no others.

    Example:
        >>> model = SimclrReference(ResNet18(features=(4, 8, 16, 32)), Projector(32))
        >>> weights = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        >>> torch.save({"epoch": 150, "model_state_dict": weights, "optimizer_state_dict": {}}, "simclr.tar")
        >>> loaded = load_simclr_reference("simclr.tar")
        >>> loaded.training, loaded.features(torch.zeros(1, 1, 16, 16, 16)).shape
        (False, torch.Size([1, 32]))
    """
    if isinstance(source, Mapping):
        name, weights = "the given state dict", dict(checkpoint_in_memory(source).weights)
    else:
        name, weights = str(source), dict(read_checkpoint(source).weights)
    weights = SimclrReader().rename(weights).weights
    model = _model_for(weights, name)
    expected = model.state_dict()
    if fault := incomplete(expected, weights):
        raise InputError(
            f"{name} is no complete checkpoint of 3D-Neuro-SimCLR ({fault}): copy it anew, or load what it holds with "
            "load_pretrained"
        )
    copies = {key: weights[key].to(tensor.dtype, copy=True) for key, tensor in expected.items()}
    model.load_state_dict(copies, assign=True)
    return model.eval()


def _model_for(weights: Mapping[str, Tensor], name: str) -> SimclrReference:
    """Return a model of the sizes that the weights show, on the meta device."""
    try:
        first = weights["encoder.conv1.weight"]
        features = [len(weights[f"encoder.layer{stage}.1.conv2.weight"]) for stage in range(1, 5)]
        strides = [stride[: first.ndim - 2] for stride in RELEASED_STRIDES]
        with torch.device("meta"):
            encoder = ResNet18(first.shape[1], features=features, strides=strides)
            if not any(key.startswith("projector.") for key in weights):
                return SimclrReference(encoder)
            hidden, out = len(weights["projector.0.weight"]), len(weights["projector.2.weight"])
            return SimclrReference(encoder, Projector(features[-1], hidden, out))
    except KeyError as error:
        raise InputError(
            f"{name} is no checkpoint of 3D-Neuro-SimCLR (it lacks {error.args[0]}): give the released file, or load "
            "what it holds with load_pretrained"
        ) from None
    except (IndexError, RuntimeError, TypeError, ValueError) as error:  # sizes of tensors without axes, or none
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{name} is no checkpoint of 3D-Neuro-SimCLR ({reason}): copy it anew") from None
