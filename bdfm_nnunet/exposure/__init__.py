"""The cases that a checkpoint has seen in training, and a data set's cases among them."""

from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PUBLIC_BDFM
from bdfm_nnunet.exposure.exposure_record import Exposure, describe_run
from bdfm_nnunet.exposure.exposure_report import ExposureReport, Finding, compare, exposure_report, parts_of

__all__ = [
    "PUBLIC_BDFM",
    "Exposure",
    "ExposureReport",
    "Finding",
    "compare",
    "describe_run",
    "exposure_report",
    "parts_of",
]
