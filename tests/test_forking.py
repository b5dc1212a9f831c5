"""The processes of a test are as many as asked for, meet, and fail as one."""

import time
from pathlib import Path

import pytest

from tests.forking import run_together


def _note(rank: int, folder: str, failing: str = "") -> None:
    if str(rank) == failing:
        raise ValueError("this one fails")
    if failing:
        time.sleep(100)
    (Path(folder) / f"rank_{rank}").touch()


def test_each_rank_runs_once(tmp_path: Path) -> None:
    run_together(_note, 3, str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank_0", "rank_1", "rank_2"]


def test_a_failure_ends_all(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"(?s)this one fails.*one of 2 processes ended with 1"):
        run_together(_note, 2, str(tmp_path), "1")
    assert not list(tmp_path.iterdir())
