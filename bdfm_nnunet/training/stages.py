"""The stages of a fine-tuning: which part of the network trains in which epochs, and how the rate goes."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import StrategySettings

Moves = Literal[
    "all", "rest", "rest and new inputs", "norms", "embeddings", "additions", "prompts", "prompts and norms"
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of a training.

    Attributes:
        name: for the log.
        start: first epoch.
        end: the epoch after the last one.
        warmup: epochs of the linear rise of the rate, from the start; it falls from there to the end.
        moves: what trains, see `trained_parts.moving`.
        fresh: whether the optimiser forgets what it has gathered.
    """

    name: str
    start: int
    end: int
    warmup: float
    moves: Moves = "all"
    fresh: bool = True

    @property
    def epochs(self) -> int:
        """Length in epochs."""
        return self.end - self.start


_SINGLE: dict[str, tuple[str, Moves]] = {
    "full": ("everything", "all"),
    "frozen": ("all but the encoder", "rest"),
    "lora": ("additions to the encoder's kernels, and the rest", "additions"),
    "norms": ("norms of the encoder, and the rest", "norms"),
    "prompts": ("prompts of the encoder's blocks, and the rest", "prompts"),
    "prompts and norms": ("prompts and norms of the encoder, and the rest", "prompts and norms"),
    "embeddings": ("first layer of the encoder, and the rest", "embeddings"),
}
"""Strategy of one stage -> what the log calls it, and what moves."""


def stages_of(settings: StrategySettings, *, epochs: int, warmup: float) -> tuple[Stage, ...]:
    """Return the stages of a training.

    "warmup" is the two-stage recipe of the FOMO26 baseline: of 1000 epochs 50 for the decoder and 50 for the rise of
    all. "sawtooth" is that of nnU-Net's development branch: 25 epochs of linear rise and 25 of fall for the decoder,
    50 of linear rise for all with a new optimiser, then the fall. Lengths are shares here, so that shorter trainings
    have all stages too.

    Args:
        settings: the strategy.
        epochs: length of the training.
        warmup: epochs of the linear rise of a stage in which everything trains.

    Raises:
        InputError: the training is too short for two stages.

    Example:
        >>> from bdfm_nnunet.settings import FinetuningSettings
        >>> settings = FinetuningSettings(strategy="sawtooth", decoder_share=0.1)
        >>> [(stage.start, stage.end, stage.warmup) for stage in stages_of(settings, epochs=100, warmup=5)]
        [(0, 10, 5.0), (10, 100, 5)]
    """
    if settings.strategy in _SINGLE:
        name, moves = _SINGLE[settings.strategy]
        return (Stage(name=name, start=0, end=epochs, warmup=warmup, moves=moves),)
    alone = max(round(settings.decoder_share * epochs), 1)
    if alone >= epochs:
        raise InputError(
            f"finetuning.strategy={settings.strategy} needs an epoch for each of its two stages, but training.epochs "
            f"is {epochs}: train longer, or lower finetuning.decoder_share"
        )
    toothed = settings.strategy == "sawtooth"
    first, second = "all but the encoder", "everything"
    rise = alone / 2 if toothed else float(alone)
    return (
        Stage(name=first, start=0, end=alone, warmup=rise, moves="rest and new inputs"),
        Stage(name=second, start=alone, end=epochs, warmup=warmup, fresh=toothed),
    )
