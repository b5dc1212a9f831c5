"""BDFM: pre-training by masked image modelling, and segmentation from it."""

from bdfm_nnunet.presets import TRAINER_PRESETS
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.tasks.segmentation import Segmentation
from bdfm_nnunet.training.trainer import Trainer


class BDFMPretraining(Pretraining):
    """Masked image modelling with BDFM's spatial-frequency decoder."""

    preset = TRAINER_PRESETS["nnUNetTrainerBDFMPretrain"]


class nnUNetTrainerBDFMPretrain(Trainer):
    """BDFM pre-training: masked image modelling of the encoder that the plans describe, without labels.

    After each epoch the same crops with the same masks are reconstructed and scored by PSNR and SSIM on the masked
    voxels, next to a fill with the mean of the visible voxels. The settings are the configuration's "pretraining"
    block, see `PretrainingSettings`. The fold's folder gets checkpoint_final.pth for `nnUNetTrainerBDFM`, progress.png,
    pictures of reconstructions and pretraining_summary.json.
    """

    task_class = BDFMPretraining


class nnUNetTrainerBDFM(Trainer):
    """nnU-Net's segmentation training, started from a pre-trained encoder.

    Loss, augmentation, deep supervision and validation are nnU-Net's. Optimiser and learning rate suit the encoder,
    with a warm-up. The encoder can have another learning rate than the decoder ("finetuning": {"encoder_lr_factor":
    ...}). See `Segmentation` for the weights that it starts from.
    """

    task_class = Segmentation
