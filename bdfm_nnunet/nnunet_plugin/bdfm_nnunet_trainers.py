"""What nnU-Net imports when `nnUNet_extTrainer` names this folder: the trainers, by name.

nnU-Net drops modules of such a folder from `sys.modules` after it has looked into them, so the classes live in the
installed package and are only passed on here. The file's name must not be that of any other module. From here on
nnU-Net shows errors about its input in one line, and loads checkpoints as data alone.
"""

from bdfm_nnunet.checkpoints.nnunet_loading import close_other_doors
from bdfm_nnunet.errors import show_as_one_line
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain, nnUNetTrainerSimMIM

__all__ = ["nnUNetTrainerBDFM", "nnUNetTrainerBDFMPretrain", "nnUNetTrainerSimMIM"]

show_as_one_line()
close_other_doors()
