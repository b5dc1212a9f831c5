"""Checkpoints: reading them safely, recognising where they come from, and fitting their weights to a network."""

from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.pretrained_weights import LoadReport, load_pretrained
from bdfm_nnunet.checkpoints.reference import load_bdfm_reference

__all__ = ["Checkpoint", "LoadReport", "load_bdfm_reference", "load_pretrained", "read_checkpoint"]
