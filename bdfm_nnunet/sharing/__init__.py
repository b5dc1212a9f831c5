"""Weights for others: what a file holds, folders for model hubs, and models for stock nnU-Net."""

from bdfm_nnunet.sharing.hub_export import export_weights
from bdfm_nnunet.sharing.stock_export import export_model
from bdfm_nnunet.sharing.weight_description import WeightDescription, describe_weights

__all__ = ["WeightDescription", "describe_weights", "export_model", "export_weights"]
