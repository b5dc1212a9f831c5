"""Tables of confounds of several programs and versions."""

from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion.reading.confounds import Confounds, framewise_displacement, read_confounds
from bdfm_nnunet.errors import Refusal
from tests.dataset_conversion.run_trees import confounds


def _read(path: Path, content: str) -> Confounds:
    path.write_text(content)
    return read_confounds(path, path.name)


@pytest.mark.parametrize("old", [False, True])
def test_names_of_today_and_of_old(old: bool, tmp_path: Path) -> None:
    found = _read(tmp_path / "c.tsv", confounds(9, non_steady=[0, 1, 2], displacement=0.25, old=old))
    assert (found.frames, found.non_steady) == (9, 3)
    assert found.displacement is not None and np.isnan(found.displacement[0])
    assert found.mean_displacement(0) == found.mean_displacement(3) == 0.25
    assert found.mean_displacement(9) is None


def test_the_mean_is_of_the_frames_that_are_kept(tmp_path: Path) -> None:
    found = _read(tmp_path / "c.csv", "framewise_displacement,x\nn/a,1\n2,1\n0.5,1\n0.25,1\n")
    assert (found.mean_displacement(0), found.mean_displacement(2)) == (pytest.approx(2.75 / 3), 0.375)
    assert found.non_steady == 0


def test_frames_up_to_the_last_mark_are_not_steady(tmp_path: Path) -> None:
    content = "non_steady_state_outlier00\tnon_steady_state_outlier01\n1\t0\n0\t0\n0\t1\n0\t0\n"
    found = _read(tmp_path / "c.tsv", content)
    assert found.non_steady == 3 and found.displacement is None and found.mean_displacement(3) is None


def _slow(motion: np.ndarray) -> list[float]:
    found = [np.nan]
    for t in range(1, len(motion)):
        steps = [abs(motion[t][i] - motion[t - 1][i]) * (1 if i < 3 else 50) for i in range(6)]
        found.append(sum(steps))
    return found


def test_displacement_from_the_parameters_of_motion(tmp_path: Path) -> None:
    """By a transcription of Power et al. 2012: mm, and radians on a sphere of 50 mm."""
    motion = np.random.default_rng(0).normal(0, 0.02, (6, 6))
    np.testing.assert_allclose(framewise_displacement(motion), _slow(motion))
    rows = "\n".join("\t".join(map(repr, row)) for row in motion.tolist())
    found = _read(tmp_path / "c.tsv", f"trans_x\ttrans_y\ttrans_z\trot_x\trot_y\trot_z\n{rows}\n")
    np.testing.assert_allclose(found.displacement, _slow(motion))  # type: ignore[arg-type]
    degrees = np.c_[motion[:, :3], np.rad2deg(motion[:, 3:]), motion]
    found = _read(tmp_path / "M.txt", "\n".join("  ".join(map(repr, row)) for row in degrees.tolist()))
    np.testing.assert_allclose(found.displacement, _slow(motion))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("c.tsv", "framewise_displacement\tx\n", "has no row of numbers"),
        ("c.tsv", "", "has no row of numbers"),
        ("c.tsv", "framewise_displacement\tx\nfast\t1\n", "has no number in column framewise_displacement"),
        ("c.txt", "1 2 3\n4 5 6\n", "is no table of six or more numbers"),
        ("c.txt", "a b c d e f\n", "is no table of six or more numbers"),
        ("c.txt", "1 2 3 4 5 6\n1 2\n", "is no table of six or more numbers"),
    ],
)
def test_what_is_no_table_is_a_sentence(name: str, content: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=sentence):
        _read(tmp_path / name, content)
    with pytest.raises(Refusal, match="does not exist"):
        read_confounds(tmp_path / "none.tsv", "none.tsv")
