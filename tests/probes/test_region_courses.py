"""Time courses of regions against a loop over voxels, and confounds against a fit of each course."""

import numpy as np
import pytest

from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.probes.region_courses import drift, region_courses, region_sizes, without
from tests.probes.stored_runs import ball, store

FRAMES = 37  # more than are read at once
RNG = np.random.default_rng(2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceCases, np.ndarray]:
    folder = tmp_path_factory.mktemp("runs")
    values = RNG.normal(size=(9, 10, 8, FRAMES)).astype(np.float16)
    store(folder, "a", values)
    return SequenceCases(folder), values.astype(np.float64)


def test_courses_are_means_over_the_voxels_of_a_region_in_the_brain(runs: tuple[SequenceCases, np.ndarray]) -> None:
    cases, values = runs
    regions = RNG.integers(0, 6, (9, 10, 8)).astype(np.int32)
    courses, brain = region_courses(cases, "a", regions, [1, 4, 5])
    for column, number in enumerate((1, 4, 5)):
        inside = [
            values[place] for place in np.argwhere((regions == number) & ball()).tolist() for place in [tuple(place)]
        ]
        np.testing.assert_allclose(courses[:, column], np.mean(inside, axis=0), atol=1e-12)
        assert region_sizes(cases, "a", regions)[number] == len(inside)
    np.testing.assert_allclose(brain, values[ball()].mean(axis=0), atol=1e-12)
    assert courses.shape == (FRAMES, 3) and region_sizes(cases, "a", regions).sum() == ball().sum()


def test_drift_is_what_a_discrete_cosine_transform_has_below_the_frequency() -> None:
    columns = drift(200, 2.0, 100.0)
    assert columns.shape == (200, 10)  # 8 cosines of 800 s, 400 s ... 100 s
    cosines = columns[:, 2:]
    np.testing.assert_allclose(cosines.T @ cosines, 100 * np.eye(8), atol=1e-9)
    assert drift(20, 2.0, 128.0).shape == (20, 2) and drift(6, 60.0, 1.0).shape == (6, 6)


def test_confounds_are_taken_out_and_nothing_else() -> None:
    time = np.arange(300) * 2.0
    slow, fast = np.cos(2 * np.pi * time / 400), np.cos(2 * np.pi * time / 25)
    courses = np.stack([slow + fast, 5 + 0.1 * time + fast], axis=1)
    left = without(courses, drift(300, 2.0, 128.0))
    assert np.abs(left - fast[:, None])[20:-20].max() < 0.1
    confounds = RNG.normal(size=(300, 3))
    twice = np.concatenate([confounds, confounds[:, :1] * 1e6, np.zeros((300, 1))], axis=1)  # dependent, and empty
    expected = courses - confounds @ np.linalg.lstsq(confounds, courses, rcond=None)[0]
    np.testing.assert_allclose(without(courses, twice), expected, atol=1e-8)
