"""Pre-training objectives, one file each, for any encoder."""

from bdfm_nnunet.objectives.masked import MaskedImageModelling

__all__ = ["MaskedImageModelling"]
