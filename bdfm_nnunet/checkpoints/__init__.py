"""Checkpoints: read safely, recognised by the project they come from, and their weights fitted to a network."""

from bdfm_nnunet.checkpoints.bdfm_reference import load_bdfm_reference
from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.frepa_reference import load_frepa_encoder
from bdfm_nnunet.checkpoints.load_report import LoadReport
from bdfm_nnunet.checkpoints.neurostorm_reference import NeurostormReference, load_neurostorm_reference
from bdfm_nnunet.checkpoints.neurostorm_task import NeurostormTask, load_neurostorm_task
from bdfm_nnunet.checkpoints.pretrained_weights import load_pretrained
from bdfm_nnunet.checkpoints.simclr_preparation import crop_template, prepare_for_simclr, standardise_in_brain
from bdfm_nnunet.checkpoints.simclr_reference import SimclrReference, load_simclr_reference

__all__ = [
    "Checkpoint",
    "LoadReport",
    "NeurostormReference",
    "NeurostormTask",
    "SimclrReference",
    "crop_template",
    "load_bdfm_reference",
    "load_frepa_encoder",
    "load_neurostorm_reference",
    "load_neurostorm_task",
    "load_pretrained",
    "load_simclr_reference",
    "prepare_for_simclr",
    "read_checkpoint",
    "standardise_in_brain",
]
