"""nnU-Net trainers; the class name is what a user types after `-tr`."""

from bdfm_nnunet.trainers.finetuning import nnUNetTrainerBDFM
from bdfm_nnunet.trainers.pretraining import nnUNetTrainerBDFMPretrain, nnUNetTrainerSimMIM

__all__ = ["nnUNetTrainerBDFM", "nnUNetTrainerBDFMPretrain", "nnUNetTrainerSimMIM"]
