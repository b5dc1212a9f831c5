"""nnU-Net trainers: the class name is what a user types after `-tr`. Each is a name and a task."""

from bdfm_nnunet.trainers.bdfm import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from bdfm_nnunet.trainers.simmim import nnUNetTrainerSimMIM

__all__ = ["nnUNetTrainerBDFM", "nnUNetTrainerBDFMPretrain", "nnUNetTrainerSimMIM"]
