"""NeuroSTORM: masked modelling of 4-D images (Wang et al. 2025, https://arxiv.org/abs/2506.11167)."""

from bdfm_nnunet.tasks.sequence_pretraining import SequencePretraining
from bdfm_nnunet.training.trainer import Trainer


class nnUNetTrainerNeuroSTORM(Trainer):
    """NeuroSTORM pre-training of the encoder that a 4-D configuration of the plans describes.

    After each epoch the same clips with the same masks are rebuilt and scored on the masked brain, next to their mean
    and the previous frame; otherwise as `nnUNetTrainerBDFMPretrain`. The settings are the configuration's "pretraining"
    block, see `SequenceSettings`.
    """

    task_class = SequencePretraining
