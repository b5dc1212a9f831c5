"""Settings of every training and of fine-tuning."""

from dataclasses import dataclass
from typing import Literal

from bdfm_nnunet.settings.loading_settings import LoadingSettings
from bdfm_nnunet.settings.strategy_settings import StrategySettings
from bdfm_nnunet.settings.value_checks import at_least_zero, positive, share, share_below_one

Optimizer = Literal["auto", "adamw", "sgd", "lars"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Logger = Literal["tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, learning rate and reproducibility of a training; with `None` the trainer chooses.

    Attributes:
        epochs: number of epochs of `iterations_per_epoch` optimiser steps.
        iterations_per_epoch: optimiser steps per epoch.
        val_iterations_per_epoch: validation batches after each epoch.
        initial_lr: peak learning rate, reached at the end of the warm-up; that of LARS is by default proportional to
            the batch of all processes.
        weight_decay: weight decay, decoupled for AdamW, an L2 term for SGD and LARS.
        warmup_epochs: epochs of linear warm-up; by default a twentieth of `epochs`, at most 50.
        optimizer: "auto" is AdamW for transformer encoders and SGD with Nesterov momentum for convolutional ones;
            "lars" is meant for contrastive training with large batches.
        gradient_clip: largest norm of the gradients; by default 12, and 1 for a Primus.
        precision: autocast type on CUDA; "auto" is bf16 if the card supports it, else fp16 with loss scaling. On CPU
            and MPS "auto" is fp32.
        seed: random seed; every random number is a function of the seed, the step and the rank.
        save_every: epochs between two writings of checkpoint_latest.pth.
        workers: loader processes; 0 loads in the training process; `None` uses nnU-Net's nnUNet_n_proc_DA.
        oversample_foreground: share of crops centred on foreground.
        accumulate: micro-batches per optimiser step; the batch size stays that of the plans, so less memory is used;
            losses that compare samples still compare the whole batch.
        checkpoint_minutes: minutes between two writings of checkpoint_latest.pth, also within an epoch; `None` writes
            it only by `save_every`.
        max_hours: wall-clock hours after which the training saves and ends; `--max-hours` overrides it.
        compile: torch.compile; "auto" is "on" for CUDA only. The variable nnUNet_compile overrides it.
        loggers: of "tensorboard", "wandb" and "mlflow" those that get curves and pictures too; the variable
            BDFM_LOGGERS, names between commas or "none", overrides it.
    """

    epochs: int | None = None
    iterations_per_epoch: int = 250
    val_iterations_per_epoch: int = 50
    initial_lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: int | None = None
    optimizer: Optimizer = "auto"
    gradient_clip: float | None = None
    precision: Precision = "auto"
    seed: int = 12345
    save_every: int = 10
    workers: int | None = None
    oversample_foreground: float = 0.33
    accumulate: int = 1
    checkpoint_minutes: float | None = 10.0
    max_hours: float | None = None
    compile: Literal["auto", "on", "off"] = "auto"
    loggers: tuple[Logger, ...] = ()

    def __post_init__(self) -> None:
        positive(self, "epochs", "iterations_per_epoch", "val_iterations_per_epoch", "initial_lr", "gradient_clip")
        positive(self, "save_every", "accumulate", "checkpoint_minutes", "max_hours")
        at_least_zero(self, "weight_decay", "warmup_epochs", "seed", "workers")
        share(self, "oversample_foreground")


LOGGERS_VARIABLE = "BDFM_LOGGERS"
"""Environment variable with the names of loggers between commas, or "none"; it overrides the plans."""

WEIGHTS_VARIABLE = "BDFM_WEIGHTS"
"""Environment variable with the weights to start a training from, or "none"; it overrides the plans."""


@dataclass(frozen=True, kw_only=True)
class WeightSettings(LoadingSettings, StrategySettings):
    """Fine-tuning from pre-trained weights, whatever is learnt.

    Attributes:
        weights: checkpoint to start from; the environment variable BDFM_WEIGHTS overrides it.
        weights_sha256: SHA-256 that the checkpoint must have.
        channel_dropout: probability that a training step leaves a channel of a sample out (0 everywhere after
            normalisation), never all of them, for one model that also predicts cases that lack channels.
    """

    weights: str | None = None
    weights_sha256: str | None = None
    channel_dropout: float = 0.0

    def __post_init__(self) -> None:
        share_below_one(self, "channel_dropout")
        LoadingSettings.__post_init__(self)
        StrategySettings.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings(WeightSettings):
    """Fine-tuning of segmentation.

    Attributes:
        augment: "standard" is nnU-Net's, "strong" that of its nnUNetTrainerDA5: rotation twice as often, quarter
            turns, a scale for each axis, and median filters, sharpening, blank rectangles, local gamma and gradients of
            brightness besides.
        random_contrast: share of the training crops that get another contrast, made up from their own intensities and
            labels, for networks that will meet other sequences and scanners.
        output_prior: start with the share of each region (or class) in the training cases as the probability that the
            untrained outputs give, as Lin et al. 2017 do for rare objects (https://arxiv.org/abs/1708.02002, 4.1); for
            trainings of a few hundred steps, which otherwise spend them on learning that most voxels are background.
    """

    augment: Literal["standard", "strong"] = "standard"
    random_contrast: float = 0.0
    output_prior: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        share(self, "random_contrast")
