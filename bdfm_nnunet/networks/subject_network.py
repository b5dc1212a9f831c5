"""A network of whole subjects: an encoder, the pooling of the features of all crops of a case, and a linear head."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.clip_heads import ClassToken, ClipHead, HiddenMean, clip_neck
from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.recomputing import recomputed

Pooling = Literal["mean", "attention"]
Head = Literal["linear"] | ClipHead
HEADS = ("linear", *get_args(ClipHead))
AXES_OF_RUNS = 4
"""Axes of images with time."""


class SubjectNetwork(nn.Module):
    """Outputs of whole cases from bags of crops.

    The features of the last stage at all positions of all crops of a case are normalised (without parameters), joined
    to one vector by weights that sum to 1, and mapped by one linear layer. So every output is a bias plus the sum of
    the contributions of the positions, which `contributions` gives.

    Where time is an axis of the images, the crops are clips of a run: each has its outputs alone, and those of the run
    are their mean, so that clips can be shown one after the other. The published heads of NeuroSTORM are for clips.

    Args:
        view: encoder and its geometry.
        outputs: numbers per case.
        pooling: "mean", or "attention": weights that are learned (gated attention, Ilse et al. 2018,
            https://arxiv.org/abs/1802.04712).
        head: "linear" as said above, or what stands in front of the linear layer in a head of NeuroSTORM, see
            `clip_heads`; that has no pooling but its own.
        dropout: share of the pooled features that a training step leaves out.
        crops_at_once: crops whose activations are held at a time in training, as far as the encoder has no batch
            norm, whose statistics would depend on it; None for all.

    Attributes:
        encoder: the encoder, under this name as in segmentation networks, so that the same weights fit.
        shows_clips: whether time is an axis of the images.

    Raises:
        ValueError: the head is not for this encoder.

    Example:
        >>> from bdfm_nnunet.networks import encoder_of
        >>> from bdfm_nnunet.networks.resnet_unet import ResNet18UNet
        >>> unet = ResNet18UNet(1, 2, features_per_stage=(4, 4, 8, 16, 32), decoder_features=(4, 4, 8, 8))
        >>> network = SubjectNetwork(encoder_of(unet), 3)
        >>> bags = torch.rand(2, 4, 1, 32, 32, 32)  # two cases of four crops
        >>> network(bags).shape, network.contributions(bags).shape
        (torch.Size([2, 3]), torch.Size([2, 4, 3, 2, 2, 2]))
    """

    suits_adamw = True  # see `suited_optimizer`

    def __init__(
        self,
        view: EncoderView,
        outputs: int,
        *,
        pooling: Pooling = "mean",
        head: Head = "linear",
        dropout: float = 0.0,
        crops_at_once: int | None = None,
    ) -> None:
        super().__init__()
        width = view.channels[-1]
        self.encoder = view.module
        self.shows_clips = view.axes == AXES_OF_RUNS
        self.neck: nn.Module | None = None
        if head != "linear":
            self.neck, width = clip_neck(head, width, _grid(view, head), dropout=dropout)
        self.attention = GatedAttention(width) if pooling == "attention" and self.neck is None else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)
        has_batch_norm = any(isinstance(each, _BatchNorm) for each in view.module.modules())
        self.crops_at_once = None if has_batch_norm else crops_at_once

    def forward(self, bags: Tensor) -> Tensor:
        """Return the outputs (B, outputs) of bags of crops (B, N, C, *crop)."""
        outputs: Tensor = self.head(self.dropout(self._vectors(bags)))
        return self._of_cases(outputs, bags)

    def embeddings(self, bags: Tensor) -> Tensor:
        """Return the vectors (B, F) that the linear layer maps; those of the clips of a run are averaged."""
        return self._of_cases(self._vectors(bags), bags)

    def contributions(self, bags: Tensor) -> Tensor:
        """Return what each position adds to each output, (B, N, outputs, *positions of a crop).

        Their sum over crops and positions, and the bias of the head, is the output in evaluation; a hidden layer of the
        head adds its own bias.

        Raises:
            ValueError: the head is no sum over positions.
        """
        features = self._features(bags.flatten(0, 1))
        crops, positions = bags.shape[1], features.shape[2:]
        kernel = self._kernel()
        tokens = self._tokens(features, bags)
        parts = functional.linear(self._weights(tokens)[..., None] * tokens, kernel)
        if self.shows_clips:
            parts = parts.unflatten(0, bags.shape[:2]).flatten(1, 2) / crops
        return parts.unflatten(1, (crops, *positions)).movedim(-1, 2)

    def _kernel(self) -> Tensor:
        """Return the matrix from features to outputs."""
        if isinstance(self.neck, ClassToken):
            raise ValueError("the outputs of head v3 are no sums of what each position adds: choose another head")
        return self.head.weight @ self.neck.weight if isinstance(self.neck, HiddenMean) else self.head.weight

    def _vectors(self, bags: Tensor) -> Tensor:
        """Return a vector for each case, or for each clip where the crops are clips."""
        features = self._features(bags.flatten(0, 1))
        if self.neck is not None:
            found: Tensor = self.neck(features)
            return found
        tokens = self._tokens(features, bags)
        return (self._weights(tokens)[..., None] * tokens).sum(1)

    def _of_cases(self, rows: Tensor, bags: Tensor) -> Tensor:
        return rows.unflatten(0, bags.shape[:2]).mean(1) if self.shows_clips else rows

    def _weights(self, tokens: Tensor) -> Tensor:
        """Return the weight of each position, (B, positions), which sum to 1."""
        if self.attention is not None:
            weights: Tensor = self.attention(tokens)
            return weights
        return torch.full_like(tokens[..., 0], 1 / tokens.shape[1])

    def _tokens(self, features: Tensor, bags: Tensor) -> Tensor:
        """Return the features of all positions of a case or of a clip, (B, positions, F), normalised if pooled here."""
        tokens = features.flatten(2).movedim(1, 2).float()
        if not self.shows_clips:
            tokens = tokens.unflatten(0, bags.shape[:2]).flatten(1, 2)
        return functional.layer_norm(tokens, tokens.shape[-1:]) if self.neck is None else tokens

    def _features(self, crops: Tensor) -> Tensor:
        """Return the features of the last stage; with gradients some crops at a time, computed again going back."""
        if self.crops_at_once is None or len(crops) <= self.crops_at_once:
            return self._last_stage(crops)
        if not torch.is_grad_enabled():
            return torch.cat([self._last_stage(part) for part in crops.split(self.crops_at_once)])
        return torch.cat([recomputed(self._last_stage, part) for part in crops.split(self.crops_at_once)])

    def _last_stage(self, crops: Tensor) -> Tensor:
        last: Tensor = self.encoder(crops)[-1]
        return last


def _grid(view: EncoderView, head: str) -> tuple[int, ...]:
    """Return the positions of the last stage of an encoder that reads clips of one size."""
    if not isinstance(view.module, NeurostormEncoder):
        raise ValueError(f"head {head} is for runs of functional MRI: choose the head linear, or plans of runs")
    return tuple(-(-size // step) for size, step in zip(view.module.image_size, view.strides[-1], strict=True))


class OneCrop(nn.Module):
    """A network of subjects that takes images (B, C, *crop), each a case of one crop; its costs are those of a crop."""

    suits_adamw = True

    def __init__(self, network: SubjectNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs (B, outputs)."""
        outputs: Tensor = self.network(images[:, None])
        return outputs


class GatedAttention(nn.Module):
    """Weights of the instances of a bag that are learned with the task (Ilse et al. 2018, equation 9).

    Args:
        channels: features of an instance.
        hidden: of the two layers whose product the weight is made of; by default half the features, at least 8.

    Example:
        >>> GatedAttention(16)(torch.rand(2, 5, 16)).shape
        torch.Size([2, 5])
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = max(channels // 2, 8) if hidden is None else hidden
        self.value = nn.Linear(channels, hidden)
        self.gate = nn.Linear(channels, hidden)
        self.score = nn.Linear(hidden, 1)

    def forward(self, instances: Tensor) -> Tensor:
        """Return weights (B, n) of instances (B, n, channels)."""
        score = self.score(self.value(instances).tanh() * self.gate(instances).sigmoid())
        return score[..., 0].softmax(1)


def build_subject_network(
    configuration: Mapping[str, Any],
    *,
    inputs: int,
    outputs: int,
    pooling: Pooling,
    head: Head = "linear",
    dropout: float = 0.0,
    name: str = "the plans file",
) -> SubjectNetwork:
    """Build the encoder of a configuration's network, and the pooling and head of a subject-level task.

    Args:
        configuration: configuration of a plans file with everything that it inherits.
        inputs: channels of the images.
        outputs: numbers per case.
        pooling: see `SubjectNetwork`.
        head: see `SubjectNetwork`.
        dropout: see `SubjectNetwork`.
        name: name of the plans in messages.

    Raises:
        InputError: the plans describe no network that can be built, one without an encoder, or one for another head.
    """
    network = build_network(configuration, inputs=inputs, outputs=2, deep_supervision=False, name=name)
    options: Any = {"pooling": pooling, "head": head, "dropout": dropout}
    try:
        return SubjectNetwork(encoder_of(network), outputs, **options, crops_at_once=int(configuration["batch_size"]))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
