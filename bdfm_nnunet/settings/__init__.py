"""Settings of training in a plans file: three blocks of named, typed values.

A configuration of an nnU-Net plans file may have the blocks `"training"`, `"pretraining"` and `"finetuning"`. Each
block becomes one frozen dataclass; a misspelt name or a value of the wrong type is an `InputError`, never a silent
default.
"""

from bdfm_nnunet.settings.blocks import (
    ALLOWED,
    check_blocks,
    finetuning_settings,
    methods_of,
    pretrainer_of,
    pretraining_settings,
    read_block,
)
from bdfm_nnunet.settings.crop_settings import CropSettings
from bdfm_nnunet.settings.loading_settings import LoadingSettings
from bdfm_nnunet.settings.objective_settings import (
    OBJECTIVE_SETTINGS,
    ContrastiveSettings,
    DecoderKind,
    FrequencyCorruptionSettings,
    MaskTokenMode,
    MixtureSettings,
    PretrainingSettings,
    WeightedObjective,
)
from bdfm_nnunet.settings.sequence_settings import SequenceSettings
from bdfm_nnunet.settings.strategy_settings import StrategySettings
from bdfm_nnunet.settings.subject_settings import SubjectSettings
from bdfm_nnunet.settings.training_settings import (
    LOGGERS_VARIABLE,
    WEIGHTS_VARIABLE,
    FinetuningSettings,
    Optimizer,
    Precision,
    TrainingSettings,
    WeightSettings,
)

__all__ = [
    "ALLOWED",
    "LOGGERS_VARIABLE",
    "OBJECTIVE_SETTINGS",
    "WEIGHTS_VARIABLE",
    "ContrastiveSettings",
    "CropSettings",
    "DecoderKind",
    "FinetuningSettings",
    "FrequencyCorruptionSettings",
    "LoadingSettings",
    "MaskTokenMode",
    "MixtureSettings",
    "Optimizer",
    "Precision",
    "PretrainingSettings",
    "SequenceSettings",
    "StrategySettings",
    "SubjectSettings",
    "TrainingSettings",
    "WeightSettings",
    "WeightedObjective",
    "check_blocks",
    "finetuning_settings",
    "methods_of",
    "pretrainer_of",
    "pretraining_settings",
    "read_block",
]
