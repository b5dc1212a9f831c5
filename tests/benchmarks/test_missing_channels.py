"""The table of the study of missing channels, from files that are made up."""

from pathlib import Path

import missing_channels
import pytest

from bdfm_nnunet.results import RunResult, write_result


def _file(path: Path, seed: int) -> Path:
    """The second model gains 0.1 for each channel that is missing; a seed adds 0.02 to both."""
    rows = [
        {
            "model": model,
            "channels": channels,
            "cases": {
                f"case_{n}": {"mean": 0.5 + 0.1 * n + 0.02 * seed + 0.1 * (model == "with") * (2 - len(channels))}
                for n in (1, 0)
            },
        }
        for model in ("without", "with")
        for channels in (["T1", "T2"], ["T1"], ["T2"])
    ]
    write_result(path, RunResult(kind="channel_subsets", extra={"subsets": rows}))
    return path


def test_the_table_has_every_subset_and_the_difference(tmp_path: Path) -> None:
    files = [_file(tmp_path / f"subsets_{seed}.json", seed) for seed in (0, 1)]
    scores = missing_channels.scores_by_subset(files)
    assert scores["T1", "T2"][0].ravel().tolist() == pytest.approx([0.5, 0.6, 0.52, 0.62])
    lines = missing_channels.table(files).splitlines()
    assert lines[0] == "| T1 | T2 | without | with | difference |"
    assert lines[2] == "| x | x | 0.560 | 0.560 | +0.000 [+0.000, +0.000] |"
    assert lines[4] == "|  | x | 0.560 | 0.660 | +0.100 [+0.100, +0.100] |"
    assert "| any missing | 2 | 0.560 | 0.660 | +0.100 [+0.100, +0.100] |" in lines
    assert "| 0 missing | 1 | 0.560 | 0.560 | +0.000 [+0.000, +0.000] |" in lines
