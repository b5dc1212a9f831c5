"""Numbers that other people's code gave; see make_golden.py."""

import json
from pathlib import Path

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "surface_metrics.json").read_text())
CASES = {case["seed"]: case for case in GOLDEN["cases"]}
