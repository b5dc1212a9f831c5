"""The SimMIM baseline (Xie et al. 2022, https://arxiv.org/abs/2111.09886)."""

from bdfm_nnunet.presets import TRAINER_PRESETS
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.trainer import Trainer


class SimMIMPretraining(Pretraining):
    """Masked image modelling with a learned mask token and only the pixel decoder."""

    preset = TRAINER_PRESETS["nnUNetTrainerSimMIM"]


class nnUNetTrainerSimMIM(Trainer):
    """SimMIM pre-training of the encoder that the plans describe; otherwise as `nnUNetTrainerBDFMPretrain`."""

    task_class = SimMIMPretraining
