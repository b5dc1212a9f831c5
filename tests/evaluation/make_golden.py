"""Writes tests/golden/surface_metrics.json from other people's implementations.

In an environment of its own (`pip install surface-distance panoptica`), from the root of the repository:

    python -m tests.evaluation.make_golden
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import ndimage

from tests.evaluation.shapes import SPACINGS, pair

# surface-distance 0.1 is older than these names' end.
np.Inf, np.NaN = np.inf, np.nan  # noqa: NPY201
ndimage.filters = ndimage.morphology = ndimage

from panoptica import (  # noqa: E402
    ConnectedComponentsInstanceApproximator,
    InputType,
    MaxBipartiteMatching,
    Metric,
    Panoptica_Evaluator,
)
from panoptica.metrics.normalized_surface_dice import _compute_normalized_surface_dice as nsd  # noqa: E402
from panoptica.utils.edge_case_handling import (  # noqa: E402
    EdgeCaseHandler,
    EdgeCaseResult,
    MetricZeroTPEdgeCaseHandling,
)
from surface_distance import lookup_tables  # noqa: E402
from surface_distance import metrics as deepmind  # noqa: E402

PANOPTIC = ("sq_dsc", "sq_hd95", "sq_nsd", "rq", "pq_dsc", "tp", "fp", "fn", "global_bin_dsc")


def sort_surfels(distances, areas):
    """What the package does, for Python 3: `zip` is a list no more."""
    ordered = np.array(sorted(zip(distances, areas, strict=True)))
    return ordered[:, 0], ordered[:, 1]


deepmind._sort_distances_surfels = sort_surfels


def evaluator():
    nothing = {"no_instances_result": EdgeCaseResult.NAN}
    far = MetricZeroTPEdgeCaseHandling(default_result=EdgeCaseResult.INF, **nothing)
    zero = MetricZeroTPEdgeCaseHandling(default_result=EdgeCaseResult.ZERO, **nothing)
    return Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=MaxBipartiteMatching(matching_metric=Metric.DSC, matching_threshold=1e-6),
        instance_metrics=[Metric.DSC, Metric.HD95, Metric.NSD],
        global_metrics=[Metric.DSC],
        edge_case_handler=EdgeCaseHandler({Metric.DSC: zero, Metric.NSD: zero, Metric.HD95: far}),
    )


def _or_none(value):
    return value if np.isfinite(value) else None


def scores(seed):
    reference, prediction, spacing = pair(seed)
    surfels = deepmind.compute_surface_distances(reference, prediction, spacing)
    groups = evaluator().evaluate(
        prediction.astype(np.uint8), reference.astype(np.uint8), voxelspacing=spacing, verbose=False
    )
    result = groups["ungrouped"]
    return {
        "seed": seed,
        "voxels": [int(reference.sum()), int(prediction.sum())],
        "surfel_hd95": deepmind.compute_robust_hausdorff(surfels, 95),
        "nsd": {str(t): float(nsd(reference, prediction, spacing, threshold=t)) for t in (0.5, 1.0)},
        # JSON has no infinity.
        "panoptic": {name: _or_none(float(getattr(result, name))) for name in PANOPTIC},
    }


def main():
    content = {
        "from": {name: version(name) for name in ("surface-distance", "panoptica", "numpy")},
        "made_by": "tests/evaluation/make_golden.py",
        "areas": [
            {"spacing": list(s), "areas": lookup_tables.create_table_neighbour_code_to_surface_area(s).tolist()}
            for s in SPACINGS
        ],
        "kernel": lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.tolist(),
        "cases": [scores(seed) for seed in range(24)],
    }
    Path("tests/golden/surface_metrics.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
