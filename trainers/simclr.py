"""SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709), for brain MRI as in 3D-Neuro-SimCLR.

Kaczmarek et al. 2025, https://arxiv.org/abs/2509.10620.
"""

from bdfm_nnunet.presets import TRAINER_PRESETS
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.trainer import Trainer


class SimCLRPretraining(Pretraining):
    """Contrastive learning on two random views of each crop."""

    preset = TRAINER_PRESETS["nnUNetTrainerSimCLR"]


class nnUNetTrainerSimCLR(Trainer):
    """SimCLR pre-training of the encoder that the plans describe; otherwise as `nnUNetTrainerBDFMPretrain`."""

    task_class = SimCLRPretraining
