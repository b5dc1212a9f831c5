"""Losses of pre-training: plain functions on tensors."""

from bdfm_nnunet.losses.contrastive_losses import NegativeQueue, chance_level, nt_xent
from bdfm_nnunet.losses.frequency_losses import gradient_loss, high_frequency_loss, published_filter, rmse_loss
from bdfm_nnunet.losses.reconstruction_losses import focal_frequency_loss, masked_mse
from bdfm_nnunet.losses.sequence_losses import sequence_mse

__all__ = [
    "NegativeQueue",
    "chance_level",
    "focal_frequency_loss",
    "gradient_loss",
    "high_frequency_loss",
    "masked_mse",
    "nt_xent",
    "published_filter",
    "rmse_loss",
    "sequence_mse",
]
