"""Frozen features of volumes from an encoder of images, slice by slice."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EDGE_SCALES = (0.5, 1.0, 1.5)
"""Standard deviations, in pixels, of the filter that makes Frepa's channel of edges."""


class SliceEncoder(nn.Module):
    """A frozen encoder of images, applied to every slice of a volume along one axis.

    Each slice is scaled to [0, 1] (a constant one becomes 0), resized to the encoder's size and repeated as red, green
    and blue; a fourth channel is the response of Frangi's filter for tubes (https://doi.org/10.1007/BFb0056195), as in
    Frepa's training.

    Args:
        encoder: maps images (B, 3 or 4, size, size) to features (B, C, H, W); has the attribute `size`.
        edges: whether the encoder has the fourth channel.
        axis: axis of the volumes that is cut into slices, from 0.
        slices_at_once: slices per call of the encoder, which bounds the memory.

    Example:
        >>> from bdfm_nnunet.networks.image_transformers import ImageTransformer
        >>> encoder = SliceEncoder(ImageTransformer(4, 64, depth=1, grid=2, patch=8, out_channels=16))
        >>> volumes = torch.rand(1, 1, 5, 20, 24)
        >>> encoder(volumes).shape, encoder.pooled(volumes).shape
        (torch.Size([1, 5, 16, 2, 2]), torch.Size([1, 5, 16]))
    """

    def __init__(self, encoder: Any, *, edges: bool = True, axis: int = 0, slices_at_once: int = 8) -> None:
        super().__init__()
        if slices_at_once < 1:
            raise ValueError(f"slices_at_once is {slices_at_once}, expected 1 or more")
        self.encoder = encoder.requires_grad_(False)
        self.edges = edges
        self.axis = axis
        self.slices_at_once = slices_at_once
        self.eval()

    def train(self, mode: bool = True) -> "SliceEncoder":
        """Stay in eval mode: the encoder is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, volumes: Tensor) -> Tensor:
        """Return the features of every slice.

        Args:
            volumes: (B, 1, *spatial), three axes.

        Returns:
            (B, slices, C, H, W).

        Raises:
            ValueError: the volumes have another shape, or no such axis.
        """
        if volumes.ndim != 5 or volumes.shape[1] != 1 or not 0 <= self.axis < 3:
            raise ValueError(
                f"volumes of shape {tuple(volumes.shape)} cut along axis {self.axis}, expected (B, 1, *three axes) and "
                "an axis from 0 to 2"
            )
        slices = volumes[:, 0].movedim(1 + self.axis, 1)
        parts = slices.flatten(0, 1).split(self.slices_at_once)
        features = torch.cat([self.encoder(self.prepared(part)) for part in parts])
        return features.unflatten(0, tuple(slices.shape[:2]))

    def pooled(self, volumes: Tensor) -> Tensor:
        """Return the mean over the positions of each slice, (B, slices, C)."""
        return self.forward(volumes).flatten(3).mean(3)

    def prepared(self, slices: Tensor) -> Tensor:
        """Return the images (N, 3 or 4, size, size) that the encoder sees of slices (N, height, width)."""
        slices = slices.float()
        low, high = slices.amin((1, 2), keepdim=True), slices.amax((1, 2), keepdim=True)
        scaled = (slices - low) / torch.where(high > low, high - low, torch.ones_like(high))
        size = (self.encoder.size, self.encoder.size)
        grey = functional.interpolate(scaled.unsqueeze(1), size, mode="bilinear", antialias=True)
        return torch.cat([grey.expand(-1, 3, -1, -1), *([edges_of(grey)] if self.edges else [])], dim=1)


def edges_of(images: Tensor) -> Tensor:
    """Return the response of Frangi's filter for dark ridges of images (N, 1, height, width), each on its own.

    Example:
        >>> image = torch.ones(1, 1, 32, 32)
        >>> image[..., 16, :] = 0
        >>> edges = edges_of(image)
        >>> bool(edges[0, 0, 16, 16] > 0.5), bool(edges[0, 0, 4, 16] < 1e-3)
        (True, True)
    """
    from skimage.filters import frangi

    found = [frangi(image, sigmas=EDGE_SCALES) for image in images[:, 0].cpu().double().numpy()]
    return torch.from_numpy(np.stack(found)).to(images).unsqueeze(1)
