"""The planner for PrimusNet: patch and batch size for a data set and a memory target.

Primus: Wald et al. 2025, https://arxiv.org/abs/2503.01835. The sizes are the published ones.
"""

from typing import Any

from bdfm_nnunet.plans.growing_patches import GrowingPatchPlanner, growing_patches
from bdfm_nnunet.plans.network_names import PRIMUS_KINDS
from bdfm_nnunet.plans.swin_planner import MIN_BATCH_SIZE
from bdfm_nnunet.presets import PRIMUS_SIZES

TOKEN = 8
"""Voxels of a token on every axis."""
_STRIDES = ((1, 1, 1), (2, 2, 2), (4, 4, 4))


def architecture_of(network: str, patch: list[int]) -> dict[str, Any]:
    """Return the `architecture` entry of a configuration, with the published regularisation.

    Args:
        network: a name in `PRIMUS_KINDS`.
        patch: voxels per axis, multiples of `TOKEN`.
    """
    size, version = PRIMUS_KINDS[network]
    channels, depth, heads = PRIMUS_SIZES[size]
    return {
        "network_class_name": "bdfm_nnunet.networks.primus.PrimusNet",
        "arch_kwargs": {
            "strides": [list(step) for step in _STRIDES],
            "input_shape": patch,
            "embed_dim": channels,
            "eva_depth": depth,
            "eva_numheads": heads,
            "version": version,
            "drop_path_rate": 0.2,
            "init_values": 0.1,
            "scale_attn_inner": True,
        },
        "_kw_requires_import": [],
    }


class PrimusPlanner(GrowingPatchPlanner):
    """The planner of PrimusNet: the largest patch of which two samples fit, then as many samples as fit.

    Args:
        network: a name in `PRIMUS_KINDS`.
    """

    def __init__(self, *args: Any, network: str, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.network = network

    def choose_network(self, spacing: list[float], median_shape: list[float], voxels: float) -> dict[str, Any]:
        """Choose patch size and batch size.

        Raises:
            InputError: the memory is too small for the smallest patch.
        """
        patches = growing_patches([TOKEN] * len(spacing), spacing, median_shape)
        costs = self._costs(patches[0], self._architecture(patches[0]))
        if self._batch(costs) < MIN_BATCH_SIZE:
            raise self.too_little(costs)
        best, costs = self.largest(patches, self._architecture, 0, costs)
        return self.chosen(patches[best], costs, self._architecture(patches[best]), voxels)

    def _architecture(self, patch: list[int]) -> dict[str, Any]:
        return architecture_of(self.network, patch)
