"""The made-up cohort of coupled regions: what differs between the groups, what does not, and that it is read."""

from dataclasses import replace
from pathlib import Path

import coupled_runs
import numpy as np
import pytest
from coupled_runs import COHORT, courses_of, frames_of, motion_of, write_subject

from bdfm_nnunet.cli import main
from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.table_files import read_table

LONG = replace(COHORT, frames=4000, spread=0.0)


def test_pairs_of_networks_are_coupled_in_one_group_and_power_is_equal() -> None:
    courses = [courses_of(group, LONG, np.random.default_rng(group)) for group in (0, 1)]
    for course in courses:
        np.testing.assert_allclose(course.var(axis=0), 1, atol=0.2)
    means = []
    for course in courses:
        networks = course.reshape(len(course), LONG.networks, LONG.regions).mean(axis=2)
        means.append(np.corrcoef(networks.T))
    pairs, others = ([0, 2, 4], [1, 3, 5]), ([0, 0, 1], [2, 4, 4])
    explained = 0.6 / (0.6 + 0.4 / LONG.regions)  # of the variance of a network's mean course
    np.testing.assert_allclose(means[0][pairs], 0.1 * explained, atol=0.12)
    np.testing.assert_allclose(means[1][pairs], 0.6 * explained, atol=0.12)
    assert max(np.abs(mean[others]).max() for mean in means) < 0.15


def test_courses_are_slow_and_stationary() -> None:
    course = courses_of(0, LONG, np.random.default_rng(3))
    lags = [np.corrcoef(course[:-lag].ravel(), course[lag:].ravel())[0, 1] for lag in (1, 8)]
    assert lags[0] > 0.6 and abs(lags[1]) < 0.3
    assert course[:200].var() == pytest.approx(course[-200:].var(), rel=0.5)


def test_runs_are_read_as_those_of_fmriprep(nnunet_dirs: Path, tmp_path: Path) -> None:
    cohort = replace(COHORT, frames=20)
    rows = [write_subject(number, data_set=3, cohort=cohort, root=tmp_path) for number in (0, 1)]
    assert [row["group"] for row in rows] == ["control", "patient"]
    options = "--spacing 8 --size 24 --time-step 2 --workers 1".split()
    assert main(["convert", "fmri-fmriprep", str(tmp_path), "-d", "700", *options]) == 0
    folder = next((nnunet_dirs / "nnUNet_raw").iterdir())
    cases = SequenceCases(folder)
    header = cases.header(cases.cases[0])
    assert header.shape == (24, 24, 24, 20) and header.spacing == (8, 8, 8) and header.mask.startswith("given")
    brain = cases.mask(cases.cases[0])
    np.testing.assert_array_equal(brain, coupled_runs.anatomy()[3])  # the files run from right to left
    rng = np.random.default_rng([3, 0])
    motion = motion_of(cohort, rng)
    frames = frames_of(0, motion, cohort, rng)[brain].astype(float)
    stored = cases.clip(cases.cases[0], 0, 20)[brain]
    assert np.corrcoef(stored.ravel(), frames.ravel())[0, 1] > 0.9999
    names, *table = read_table(folder / "runs.csv")
    moved = float(table[0][names.index("displacement")])
    assert moved == pytest.approx(np.abs(np.diff(motion, axis=0)).sum(axis=1).mean(), rel=1e-3) and moved > 0
