"""The table of the study of missing channels, from files that are made up."""

from pathlib import Path

import missing_channels
import pytest

from bdfm_nnunet.results import RunResult, write_result


def _file(path: Path, seed: int, *, gain: float) -> Path:
    """Scores rise by `gain` for each channel that is missing, and by 0.02 with the seed."""
    rows = [
        {
            "channels": channels,
            "cases": {f"case_{n}": {"mean": 0.5 + 0.1 * n + 0.02 * seed + gain * (2 - len(channels))} for n in (1, 0)},
        }
        for channels in (["T1", "T2"], ["T1"], ["T2"])
    ]
    write_result(path, RunResult(kind="channel_subsets", extra={"subsets": rows}))
    return path


def test_the_table_has_every_subset_and_the_difference(tmp_path: Path) -> None:
    without, dropout = (
        [_file(tmp_path / f"{name}_{seed}.json", seed, gain=gain) for seed in (0, 1)]
        for name, gain in (("without", 0.0), ("dropout", 0.1))
    )
    scores = missing_channels.scores_by_subset(without)
    assert scores["T1", "T2"].ravel().tolist() == pytest.approx([0.5, 0.6, 0.52, 0.62])
    lines = missing_channels.table(without, dropout).splitlines()
    assert lines[0] == "| T1 | T2 | without | with | difference |"
    assert lines[2] == "| x | x | 0.560 | 0.560 | +0.000 [+0.000, +0.000] |"
    assert lines[4] == "|  | x | 0.560 | 0.660 | +0.100 [+0.100, +0.100] |"
    assert "| any missing | 2 | 0.560 | 0.660 | +0.100 [+0.100, +0.100] |" in lines
    assert "| 0 missing | 1 | 0.560 | 0.560 | +0.000 [+0.000, +0.000] |" in lines
