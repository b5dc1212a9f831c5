"""How well a masked pre-training rebuilds labelled regions: `bdfm probe reconstruction`."""

from pathlib import Path

from bdfm_nnunet.probes.reconstruction_pictures import draw_cases
from bdfm_nnunet.probes.reconstruction_scoring import ReconstructionProbe, Scoring
from bdfm_nnunet.results import RunResult, write_result


def probe_reconstruction(probe: ReconstructionProbe, *, out: Path | None = None) -> RunResult:
    """Score how well regions of labelled cases are rebuilt from what masks leave visible.

    Args:
        probe: what is scored.
        out: JSON file to write, with pictures of the worst and the median case beside it.

    Returns:
        A result of kind "reconstruction": the scores of each case for each region, for what bears no label ("healthy")
        and for filling with the mean of the visible voxels ("psnr_mean_fill" ...). Its `extra` has "against_healthy"
        and "against_mean_fill", differences of the means with intervals over cases, "patients" of the cases,
        "seed_of_training", and "seen", a sentence on cases that the pre-training has seen.

    Raises:
        InputError: checkpoint, data or plans are missing or do not fit each other.
    """
    scoring = Scoring(probe)
    result = scoring.result([scoring.row(case) for case in scoring.found.read(scoring.channels)])
    if out is not None:
        write_result(out, result)
        draw_cases(scoring, result, out)
    return result
