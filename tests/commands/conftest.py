"""Fixtures for the tests of commands."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.commands.stand_ins import replaced


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder beside which nnU-Net's three variables point; nnUNet_extTrainer is not set."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return tmp_path


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a stand-in for a function of the library in place; see `replaced`."""
    return partial(replaced, monkeypatch)
