"""One schema for the file that a run leaves: settings, curves, scores per case, exposure, cost. Imports no torch."""

from bdfm_nnunet.results.run_result import SCHEMA, Cost, RunResult, read_result, versions_of, write_result

__all__ = ["SCHEMA", "Cost", "RunResult", "read_result", "versions_of", "write_result"]
