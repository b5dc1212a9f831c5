"""Losses of pre-training: plain functions on tensors."""

from bdfm_nnunet.losses.reconstruction_losses import focal_frequency_loss, masked_mse

__all__ = ["focal_frequency_loss", "masked_mse"]
