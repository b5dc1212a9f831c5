"""Pre-training objectives: one file each, around a view of any encoder."""

from bdfm_nnunet.objectives.masked import MaskedImageModelling

__all__ = ["MaskedImageModelling"]
