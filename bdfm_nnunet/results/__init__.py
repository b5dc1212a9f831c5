"""One schema for the file that a run leaves: settings, curves, scores, exposure, cost, provenance. Imports no torch."""

from bdfm_nnunet.results.provenance import Provenance, citations_of_data, cited_once, combined, licences_of
from bdfm_nnunet.results.run_result import SCHEMA, Cost, RunResult, read_result, versions_of, write_result
from bdfm_nnunet.results.sessions import Session, UsedDevice

__all__ = [
    "SCHEMA",
    "Cost",
    "Provenance",
    "RunResult",
    "Session",
    "UsedDevice",
    "citations_of_data",
    "cited_once",
    "combined",
    "licences_of",
    "read_result",
    "versions_of",
    "write_result",
]
