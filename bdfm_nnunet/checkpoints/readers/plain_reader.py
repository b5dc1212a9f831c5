"""Weights alone, from any code that names them as we, Swin or dynamic-network-architectures do."""

from collections.abc import Mapping
from typing import Any

from bdfm_nnunet.checkpoints.readers.nnunet_reader import nnunet_origin
from bdfm_nnunet.checkpoints.readers.reader import Origin, Reader


class PlainReader(Reader):
    """A dictionary of tensors, bare or in a usual container; the last resort.

    Example:
        >>> import torch
        >>> PlainReader().tensors({"epoch": 3, "model": {"weight": torch.zeros(2)}})
        {'weight': tensor([0., 0.])}
    """

    kind = "weights"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return True: whatever no other reader knows."""
        return True

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what entries of nnU-Net and of our trainers say, if the file holds some."""
        return nnunet_origin(content)
