"""Outputs of published code and of slow versions of ours, which are too large for this repository.

BDFM_GOLDEN names their folder, else one beside the checkout is looked for; a test that needs a file skips without it.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(os.environ.get("BDFM_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


def golden_tensors(name: str) -> dict[str, torch.Tensor]:
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: name its folder with BDFM_GOLDEN")
    return _loaded(path)


def golden_numbers(name: str) -> dict[str, Any]:
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here: name its folder with BDFM_GOLDEN")
    return dict(json.loads(path.read_text()))


@cache
def _loaded(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path)
