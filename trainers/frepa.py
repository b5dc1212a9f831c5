"""Frepa (https://arxiv.org/abs/2407.14651): pre-training by corruption in space and frequency."""

from bdfm_nnunet.presets import TRAINER_PRESETS
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.trainer import Trainer


class FrepaPretraining(Pretraining):
    """Rebuilding of images whose patches or frequencies are corrupted."""

    preset = TRAINER_PRESETS["nnUNetTrainerFrepa"]


class nnUNetTrainerFrepa(Trainer):
    """Frepa pre-training of the encoder that the plans describe, in 3-D and aware of the spacing.

    Images lose patches to noise, or frequencies of their spectrum, and are rebuilt. The settings are the
    configuration's "pretraining" block, see `FrequencyCorruptionSettings`; "legacy": true corrupts and measures as the
    public code does. After each epoch the same crops with the same corruptions are rebuilt and scored. Otherwise as
    `nnUNetTrainerBDFMPretrain`.
    """

    task_class = FrepaPretraining
