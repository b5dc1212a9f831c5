"""From a planned configuration to the memory it takes, on the scale of nnU-Net's GPU memory targets."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.nnunet_files import token_of

if TYPE_CHECKING:
    from torch import nn

    from bdfm_nnunet.cost_records import Costs

GIB = 2**30
# nnU-Net's own plan for 8 GB and BraTS (PlainConvUNet, 128 x 128 x 128, batch 2, 4 channels) counts 7.1 GiB here: fp32
# activations, weights, gradients and momentum. Mixed precision halves most activations and adds half-precision copies,
# gradients in flight and workspace; this factor stands for all of that and makes the plan count 7.8 of its 8 GB.
MEMORY_FACTOR = 1.1
TRANSFORMER_COPIES = 4  # weight, gradient and AdamW's two moments
CONVOLUTIONAL_COPIES = 3  # weight, gradient and momentum


def configuration_costs(
    configuration: Mapping[str, Any], *, channels: int, classes: int, flops: bool = False, name: str = "the plans file"
) -> "Costs":
    """Count the costs of one sample through the network of a configuration, with deep supervision as in training."""
    from bdfm_nnunet.networks.network_building import build_network
    from bdfm_nnunet.networks.network_costs import count_costs
    from bdfm_nnunet.old_plans import architecture_of

    def build() -> "nn.Module":
        return build_network(
            configuration, inputs=channels, outputs=classes, deep_supervision=True, initialise=False, name=name
        )

    kwargs = architecture_of(configuration, name)["arch_kwargs"]
    copies = TRANSFORMER_COPIES if token_of(kwargs) else CONVOLUTIONAL_COPIES
    return count_costs(build, (1, channels, *configuration["patch_size"]), flops=flops, state_copies=copies)


def memory_gb(costs: "Costs", batch_size: int) -> float:
    """Estimate the GB of a training step with `batch_size` samples, from the costs of one."""
    return MEMORY_FACTOR * (costs.state_bytes + batch_size * costs.activation_bytes) / GIB


def largest_batch(costs: "Costs", gpu_memory: float) -> int:
    """Return the most samples a step may have within `gpu_memory` GB; 0 if not even one fits."""
    return max(math.floor((gpu_memory * GIB / MEMORY_FACTOR - costs.state_bytes) / costs.activation_bytes), 0)
