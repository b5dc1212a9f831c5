"""Checkpoints: read safely, recognised by the project they come from, and their weights fitted to a network."""

from bdfm_nnunet.checkpoints.bdfm_reference import load_bdfm_reference
from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.pretrained_weights import load_pretrained

__all__ = ["Checkpoint", "LoadReport", "load_bdfm_reference", "load_pretrained", "read_checkpoint"]
