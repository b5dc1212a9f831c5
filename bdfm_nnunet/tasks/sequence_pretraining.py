"""Pre-training on 4-D images by masked modelling."""

from types import MappingProxyType

from bdfm_nnunet.presets import TRAINER_PRESETS
from bdfm_nnunet.tasks.pretraining import Pretraining


class SequencePretraining(Pretraining):
    """NeuroSTORM's masked modelling of random clips, with its rate and weight decay."""

    preset = TRAINER_PRESETS["nnUNetTrainerNeuroSTORM"]
    rates = MappingProxyType({"adamw": 5e-5, "sgd": 1e-2, "lars": 0.3})
    weight_decays = MappingProxyType({"adamw": 0.01, "sgd": 3e-5, "lars": 1e-6})
