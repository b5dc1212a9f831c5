"""The trainers by name, for nnU-Net, which imports this file when `nnUNet_extTrainer` names this folder.

nnU-Net drops the folder's modules from `sys.modules` after it has searched them, so the classes are defined in the
installed package and only imported here. The file's name must differ from that of every other module. After the import,
nnU-Net shows errors in its input on one line, and loads checkpoints only as data.
"""

from bdfm_nnunet import trainers
from bdfm_nnunet.checkpoints.nnunet_loading import close_other_doors
from bdfm_nnunet.errors import show_as_one_line

globals().update({name: getattr(trainers, name) for name in trainers.__all__})
show_as_one_line()
close_other_doors()
