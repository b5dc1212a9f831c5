"""Whether a checkpoint holds a network's weights, all of them and nothing else."""

from torch import nn

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint
from bdfm_nnunet.errors import InputError


def check_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Check that a checkpoint has every weight of a network, in its shape, and no other.

    Raises:
        InputError: it has not.

    Example:
        >>> import torch
        >>> from bdfm_nnunet.checkpoints import read_checkpoint
        >>> torch.save({"state_dict": {"weight": torch.zeros(2)}}, "a.pth")
        >>> check_weights(nn.Linear(2, 2, bias=False), read_checkpoint("a.pth"))
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: ...a.pth does not fit the Linear of the plans (its weight is (2,), the plans make
        (2, 2)): take checkpoint and plans.json from the same training
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in checkpoint.weights.items()}
    fault = next(
        (f"it lacks {name}" if name not in found else f"its {name} is {found[name]}, the plans make {shape}"
         for name, shape in wanted.items() if found.get(name) != shape),
        next((f"its {name} belongs to no part of the network" for name in found if name not in wanted), ""),
    )  # fmt: skip
    if fault:
        raise InputError(
            f"{checkpoint.path} does not fit the {type(network).__name__} of the plans ({fault}): take checkpoint and "
            "plans.json from the same training"
        )
