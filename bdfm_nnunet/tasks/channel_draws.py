"""Which channels a training step leaves out, for any task that has a setting for it."""

from typing import Any

from torch import Tensor

from bdfm_nnunet.channel_dropout import CHANNELS, draw_channels
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import channels_of
from bdfm_nnunet.tasks.task import Task


def check_channels(task: Task, block: str, dropout: float) -> None:
    """Check that channels can be left out.

    Args:
        task: of the training.
        block: of the settings, for the message.
        dropout: its channel_dropout.

    Raises:
        InputError: the images have a single one.
    """
    names = channels_of(task.trainer.dataset_json)
    if dropout and len(names) < 2:
        raise InputError(
            f"{block}.channel_dropout is {dropout:g}, but the images of {task.trainer.plans_manager.dataset_name} have "
            f"one channel ({names[0]}), without which nothing is left: leave the setting out"
        )


def drawn_channels(task: Task, samples: int, dropout: float, *, subsets: int = 1) -> dict[str, Tensor]:
    """Return the "channels" that a training step keeps, boolean (samples, subsets, channels); nothing without dropout.

    Args:
        task: of the training.
        samples: of this process's batch.
        dropout: probability of leaving a channel out.
        subsets: draws for each sample.
    """
    if not dropout:
        return {}
    channels = len(channels_of(task.trainer.dataset_json))

    def draw(whole: int, *, generator: Any) -> dict[str, Tensor]:
        kept = draw_channels(whole * subsets, channels, dropout=dropout, generator=generator)
        return {"channels": kept.unflatten(0, (whole, subsets))}

    return task.drawn_share(samples, CHANNELS, task.trainer.run.step_number, draw)
