"""Pre-training by several objectives."""

from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.trainer import Trainer


class MixedPretraining(Pretraining):
    """The objectives that the plans list in pretraining.objectives."""

    objective_class = Mixture


class nnUNetTrainerPretrain(Trainer):
    """Pre-training of the encoder that the plans describe, by a weighted sum of objectives.

    The configuration's "pretraining" block lists them, see `MixtureSettings`; otherwise as
    `nnUNetTrainerBDFMPretrain`.
    """

    task_class = MixedPretraining
