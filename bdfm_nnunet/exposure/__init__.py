"""The cases that a checkpoint has seen in training, and a data set's cases among them."""

from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PUBLIC_BDFM
from bdfm_nnunet.exposure.exposure_record import Exposure, describe_run
from bdfm_nnunet.exposure.exposure_report import ExposureReport, Finding, compare, exposure_report, parts_of
from bdfm_nnunet.exposure.rule_verdict import JudgedSource, Verdict, gaps_of, verdict, verdicts

__all__ = [
    "PUBLIC_BDFM",
    "Exposure",
    "ExposureReport",
    "Finding",
    "JudgedSource",
    "Verdict",
    "compare",
    "describe_run",
    "exposure_report",
    "gaps_of",
    "parts_of",
    "verdict",
    "verdicts",
]
