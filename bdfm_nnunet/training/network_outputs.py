"""Networks whose outputs are not those of the data set's labels."""

from typing import Any

from torch import nn


def with_outputs(trainer: Any, outputs: int) -> Any:
    """Return a trainer's `build_network_architecture` for so many outputs, in place of the number that nnU-Net counts.

    Example:
        >>> class Trainer:
        ...     @classmethod
        ...     def build_network_architecture(cls, plans, configuration, inputs, outputs, deep_supervision):
        ...         return nn.Linear(inputs, outputs)
        >>> with_outputs(Trainer, 2)(None, None, 4, 33).out_features
        2
    """

    def build_network_architecture(
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        network: nn.Module = trainer.build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, outputs, enable_deep_supervision
        )
        return network

    return build_network_architecture
