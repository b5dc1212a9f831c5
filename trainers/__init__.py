"""nnU-Net trainers; users name the class with `-tr`. Each is a name and a task."""

from bdfm_nnunet.trainers.bdfm import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from bdfm_nnunet.trainers.frepa import nnUNetTrainerFrepa
from bdfm_nnunet.trainers.pretrain import nnUNetTrainerPretrain
from bdfm_nnunet.trainers.sequence_trainers import nnUNetTrainerNeuroSTORM
from bdfm_nnunet.trainers.simclr import nnUNetTrainerSimCLR
from bdfm_nnunet.trainers.simmim import nnUNetTrainerSimMIM
from bdfm_nnunet.trainers.subjects import (
    nnUNetTrainerBDFMClassification,
    nnUNetTrainerBDFMRegression,
    nnUNetTrainerBDFMSurvival,
    nnUNetTrainerReidentification,
)

__all__ = [
    "nnUNetTrainerBDFM",
    "nnUNetTrainerBDFMClassification",
    "nnUNetTrainerBDFMPretrain",
    "nnUNetTrainerBDFMRegression",
    "nnUNetTrainerBDFMSurvival",
    "nnUNetTrainerFrepa",
    "nnUNetTrainerNeuroSTORM",
    "nnUNetTrainerPretrain",
    "nnUNetTrainerReidentification",
    "nnUNetTrainerSimCLR",
    "nnUNetTrainerSimMIM",
]
