"""Settings of how a network is fine-tuned: what trains when, and how fast."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings.value_checks import at_least_zero, positive

StrategyName = Literal[
    "full", "frozen", "warmup", "sawtooth", "lora", "norms", "embeddings", "prompts", "prompts and norms"
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StrategySettings:
    """What trains when in fine-tuning, and how fast; see docs/finetuning.md.

    Attributes:
        strategy: "full" trains everything; "frozen" all but the encoder; "warmup" first all but the encoder, then
            everything; "sawtooth" the same with two rises and falls of the rate and a new optimiser for the second;
            "lora" low-rank additions to the encoder's kernels, "norms" the norms of the encoder, "embeddings" its first
            layer, "prompts" learned tokens in front of what each block of a NeuroSTORM scans, "prompts and norms" both,
            each with all but the encoder.
        decoder_share: share of the epochs, at least one, in which "warmup" and "sawtooth" leave the encoder alone.
        decoder_lr_factor: peak rate of the stage in which "warmup" and "sawtooth" leave the encoder alone, relative to
            that of the next; by default 1, and 0.01 for the "sawtooth" of a Primus.
        encoder_lr_factor: learning rate of the pre-trained encoder, and of a stem beside it unless the weights lack it,
            relative to that of the rest.
        layer_decay: factor of the learning rate from each layer of the encoder to the one before it: blocks of a
            transformer, stages of a convolutional encoder; 1 for the same rate everywhere.
        lora_rank: rank of the additions of "lora".
        lora_alpha: an addition is the product of its two factors times `lora_alpha` / `lora_rank`.
        lora_targets: ends of the names of the encoder's layers that get an addition, such as "attn.qkv"; by default the
            linear layers of a transformer's attention or scans, and the convolutions of any other encoder but the
            first.
        prompts: tokens per block of "prompts".
    """

    strategy: StrategyName = "full"
    decoder_share: float = 0.05
    decoder_lr_factor: float | None = None
    encoder_lr_factor: float = 1.0
    layer_decay: float = 1.0
    lora_rank: int = 8
    lora_alpha: float = 8.0
    lora_targets: tuple[str, ...] = ()
    prompts: int = 50

    def __post_init__(self) -> None:
        positive(self, "lora_rank", "lora_alpha", "decoder_lr_factor", "prompts")
        at_least_zero(self, "encoder_lr_factor")
        if not 0 < self.decoder_share < 1:
            raise InputError(f"decoder_share is {self.decoder_share}, expected a share above 0 and below 1")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay is {self.layer_decay}, expected a factor above 0 and at most 1")
        if not all(self.lora_targets):
            raise InputError('lora_targets holds an empty name, expected ends of names such as "attn.qkv"')
