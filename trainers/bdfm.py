"""BDFM: pre-training by masked image modelling, and segmentation from it."""

from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.presets import TRAINER_PRESETS
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.tasks.segmentation import Segmentation
from bdfm_nnunet.training.trainer import Trainer


class BDFMPretraining(Pretraining):
    """Masked image modelling with BDFM's spatial-frequency decoder."""

    objective_class = MaskedImageModelling
    preset = TRAINER_PRESETS["nnUNetTrainerBDFMPretrain"]


class nnUNetTrainerBDFMPretrain(Trainer):
    """BDFM pre-training: masked image modelling of the encoder that the plans describe, without labels.

    After each epoch the same crops with the same masks are rebuilt and scored by PSNR and SSIM on the masked voxels,
    beside filling them with the mean of the visible ones. The settings are the configuration's "pretraining" block, see
    `PretrainingSettings`. The fold's folder gets checkpoint_final.pth for `nnUNetTrainerBDFM`, progress.png, pictures
    of reconstructions and pretraining_summary.json.
    """

    task_class = BDFMPretraining


class nnUNetTrainerBDFM(Trainer):
    """nnU-Net's segmentation training, started from a pre-trained encoder.

    Loss, augmentation, deep supervision and validation are nnU-Net's; optimiser and rates suit the encoder and are
    warmed up. The decoder can learn at another rate than the encoder ("finetuning": {"encoder_lr_factor": ...}).
    `Segmentation` tells which weights it starts from.
    """

    task_class = Segmentation
