"""Lesion-wise scores against measured values of the organisers' code and against a plain transcription of the rules."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.evaluation import score_case
from bdfm_nnunet.evaluation.case_scores import Case
from bdfm_nnunet.evaluation.challenge_rules import TASKS_2023, TASKS_2024, Rule, Task
from bdfm_nnunet.evaluation.lesionwise import lesionwise_scores
from tests.evaluation.shapes import SPACINGS, blobs

ET = {"enhancing_tumor": (3,)}
GLI = {
    "whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,), "resection_cavity": (4,),
    "non_enhancing_tumor_core": (1,), "surrounding_hyperintensity": (2,),
}  # fmt: skip

LESION, SECOND = (slice(5, 15),) * 3, (slice(40, 50),) * 3
STRAY, NEAR = (40, 40, 40), (17, 10, 10)
FALSE27, SMALL = (slice(40, 43),) * 3, (slice(5, 8),) * 3


def volume(*parts, value=3, size=60):
    labels = np.zeros((size,) * 3, dtype=np.int16)
    for part in parts:
        labels[part] = value
    return labels


def scores(reference, prediction, version, task, regions=None, spacing=(1, 1, 1)):
    regions = regions or ET
    scored = score_case(
        reference, prediction, spacing=spacing, regions=regions, release="?", metrics=version, task=task
    )
    return scored[next(iter(regions))]


NONE = (volume(), volume())
FALSE = (volume(), volume(LESION))
MISSED = (volume(LESION), volume())
PERFECT = (volume(LESION), volume(LESION))
WITH_STRAY = (volume(LESION), volume(LESION, STRAY))
WITH_NEAR = (volume(LESION), volume(LESION, NEAR))
WITH_FALSE27 = (volume(LESION), volume(LESION, FALSE27))
SMALL_MISSED = (volume(SMALL), volume())
ONE_OF_TWO = (volume(LESION, SECOND), volume(LESION))
WITH_LARGE_FALSE = (volume(LESION), volume(LESION, SECOND))


@pytest.mark.parametrize(
    ("version", "task", "case", "expected"),
    [
        ("lesionwise-2023", "GLI", NONE, (1, 0)),
        ("lesionwise-2023", "GLI", FALSE, (0, 374)),
        ("lesionwise-2023", "GLI", MISSED, (0, 374)),
        ("lesionwise-2023", "GLI", PERFECT, (1, 0)),
        ("lesionwise-2023", "GLI", WITH_STRAY, (0.5, 187)),
        ("lesionwise-2023", "GLI", WITH_NEAR, (2000 / 2001, 0)),
        ("lesionwise-2023", "GLI", SMALL_MISSED, (1, 0)),
        ("lesionwise-2023", "GLI", ONE_OF_TWO, (0.5, 187)),
        ("lesionwise-2024", "GLI", NONE, (1, 0)),
        ("lesionwise-2024", "GLI", FALSE, (0, 337)),
        ("lesionwise-2024", "GLI", MISSED, (0, 337)),
        ("lesionwise-2024", "GLI", PERFECT, (1, 0)),
        ("lesionwise-2024", "GLI", WITH_STRAY, (1, 0)),
        ("lesionwise-2024", "GLI", WITH_FALSE27, (0.5, 168.5)),
        ("lesionwise-2024", "MEN-RT", WITH_LARGE_FALSE, (1, 0)),
        ("lesionwise-2024", "MEN-RT", FALSE, (1, 0)),
    ],
)
def test_values_measured_with_the_organisers_code(version, task, case, expected):
    found = scores(*case, version, task)
    assert (found["lw_dice"], found["lw_hd95_mm"]) == pytest.approx(expected)


def test_small_missed_lesion_still_counts_as_a_whole():
    found = scores(*SMALL_MISSED, "lesionwise-2023", "GLI")
    assert (found["legacy_dice"], found["legacy_hd95_mm"]) == (0, 374)
    assert (found["tp"], found["fp"], found["fn"]) == (0, 0, 0)


@pytest.mark.parametrize("version", ["lesionwise-2023", "lesionwise-2024"])
def test_two_perfect_lesions_are_found_whole(version):
    """The organisers' code of 2024 gives a sensitivity of 1/3 here."""
    found = scores(volume(LESION, SECOND), volume(LESION, SECOND), version, "GLI")
    assert (found["sensitivity"], found["specificity"], found["legacy_hd95_mm"]) == (1, 1, 0)
    assert (found["tp"], found["fp"], found["fn"]) == (2, 0, 0)


def test_voxel_rates_by_hand():
    found = scores(volume(LESION), volume((slice(5, 15), slice(5, 15), slice(10, 20))), "lesionwise-2023", "GLI")
    assert found["sensitivity"] == 0.5
    assert found["specificity"] == pytest.approx(1 - 500 / (60**3 - 1000))
    only = scores(*FALSE, "lesionwise-2023", "GLI")
    assert (only["sensitivity"], only["specificity"]) == (0, 1 - 1000 / 60**3)
    assert scores(*NONE, "lesionwise-2023", "GLI")["sensitivity"] == 1


def test_nsd_is_there_since_2024_and_right():
    moved = volume((slice(6, 16), slice(5, 15), slice(5, 15)))
    found = scores(volume(LESION), moved, "lesionwise-2024", "GLI")
    assert found["lw_nsd_1.0"] == found["legacy_nsd_1.0"] == 1
    # Of 488 surface voxels, 324 lie in the other's surface.
    assert found["lw_nsd_0.5"] == pytest.approx(324 / 488)
    assert scores(*ONE_OF_TWO, "lesionwise-2024", "GLI")["lw_nsd_1.0"] == 0.5
    assert scores(*NONE, "lesionwise-2024", "GLI")["lw_nsd_0.5"] == 1
    assert not any("nsd" in name for name in scores(*PERFECT, "lesionwise-2023", "GLI"))


@pytest.mark.parametrize(
    ("version", "task", "region", "threshold"),
    [("lesionwise-2023", task, ET, threshold) for task, threshold in
     (("GLI", 50), ("SSA", 50), ("PED", 50), ("MEN", 50), ("MET", 2))]
    + [("lesionwise-2024", task, ET, threshold) for task, threshold in
       (("GLI", 10), ("SSA", 50), ("PED", 10), ("MEN", 50), ("MEN-RT", 50), ("MET", 2))]
    + [("lesionwise-2024", "GLI", {name: (3,)}, 20) for name in GLI if name != "enhancing_tumor"],
)  # fmt: skip
def test_lesions_up_to_the_threshold_are_dropped(version, task, region, threshold):
    def rod(length):
        return volume((slice(2, 3), slice(2, 3), slice(2, 2 + length)))

    assert scores(rod(threshold), volume(), version, task, region)["lw_dice"] == 1
    assert scores(rod(threshold + 1), volume(), version, task, region)["lw_dice"] == 0
    predicted = scores(volume(), rod(threshold), version, task, region)
    dropped = version == "lesionwise-2024" and task != "MEN"
    assert predicted["fp"] == (0 if dropped else 1)
    assert predicted["legacy_dice"] == (1 if dropped else 0)
    assert scores(volume(), rod(threshold + 1), version, task, region)["fp"] == 1


@pytest.mark.parametrize(
    ("version", "task", "name", "dilation"),
    [("lesionwise-2023", task, "enhancing_tumor", reach) for task, reach in
     (("GLI", 3), ("SSA", 3), ("PED", 3), ("MEN", 1), ("MET", 1))]
    + [("lesionwise-2024", task, "enhancing_tumor", reach) for task, reach in
       (("GLI", 3), ("SSA", 3), ("PED", 5), ("MEN", 1), ("MEN-RT", 1), ("MET", 1))]
    + [("lesionwise-2024", "GLI", name, 5 if name in ("resection_cavity", "non_enhancing_tumor_core") else 3)
       for name in GLI],
)  # fmt: skip
def test_predictions_belong_within_the_dilation(version, task, name, dilation):
    reference = volume((slice(10, 20),) * 3)
    for gap, hit in ((dilation, True), (dilation + 1, False)):
        away = volume((slice(19 + gap, 29 + gap), slice(10, 20), slice(10, 20)))
        found = scores(reference, away, version, task, {name: (3,)})
        assert (found["tp"], found["fp"]) == ((1, 0) if hit else (0, 1))


def test_penalty_is_the_diagonal_in_voxels_where_so_ruled():
    labels = np.zeros((30, 40, 12), dtype=np.int16)
    reference = labels.copy()
    reference[2:10, 2:10, 2:10] = 3
    for task in ("MET", "MEN-RT"):
        found = scores(reference, labels, "lesionwise-2024", task, spacing=(1, 1, 3))
        assert found["lw_hd95_mm"] == pytest.approx((30**2 + 40**2 + 12**2) ** 0.5)
    assert scores(reference, labels, "lesionwise-2024", "PED")["lw_hd95_mm"] == 374


def test_predicted_threshold_in_mm3_for_radiotherapy_alone():
    rod = volume((slice(2, 3), slice(2, 3), slice(2, 32)))
    # 30 voxels of 2 mm3.
    assert scores(volume(), rod, "lesionwise-2024", "MEN-RT", spacing=(1, 1, 2))["fp"] == 1
    assert scores(volume(), rod, "lesionwise-2024", "SSA", spacing=(1, 1, 2))["fp"] == 0
    assert scores(rod, volume(), "lesionwise-2024", "SSA", spacing=(1, 1, 2))["fn"] == 1


def test_enhancing_lesions_around_one_necrosis_are_one():
    reference = volume((slice(5, 9), slice(5, 9), slice(5, 9)), (slice(20, 24), slice(5, 9), slice(5, 9)))
    reference[9:20, 5:9, 5:9] = 1
    regions = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
    for task, lesions in (("GLI", 1), ("MET", 1), ("SSA", 1), ("PED", 2)):
        scored = score_case(
            reference, reference, spacing=(1, 1, 1), regions=regions, release="?", metrics="lesionwise-2024", task=task
        )
        assert scored["enhancing_tumor"]["tp"] == lesions, task
    assert scores(reference, reference, "lesionwise-2023", "GLI")["tp"] == 2


def test_table_of_lesions():
    case = Case.cut(
        volume(LESION, SECOND, (30, 5, 5)), volume(LESION, FALSE27), spacing=(1, 1, 2), regions={"gtv": (3,)}
    )
    rows = lesionwise_scores(case, Task(Rule(1, 20)), tolerances=(1.0,))["gtv"].lesions
    assert [row["volume_mm3"] for row in rows] == [2000, 2, 2000]
    assert [row["counted"] for row in rows] == [True, False, True]
    # The piece of 27 voxels lies in the second lesion.
    assert [len(row["predicted"]) for row in rows] == [1, 0, 1]
    assert [row["dice"] for row in rows] == pytest.approx([1, 0, 54 / 1027])
    assert rows[1]["hd95_mm"] == 374 and rows[1]["nsd_1.0"] == 0
    false = lesionwise_scores(
        Case.cut(volume(), volume(SMALL), spacing=(1, 1, 1), regions={"gtv": (3,)}), Task(Rule(1, 2)), tolerances=()
    )["gtv"].lesions
    assert false == [{"id": None, "volume_mm3": 27.0, "counted": True, "predicted": [1], "dice": 0.0, "hd95_mm": 374.0}]


def plain():
    path = Path(__file__).parents[2] / "benchmarks" / "metrics.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.plain


def messy(seed):
    """Labels 1 to 4 in shells, strands and specks."""
    rng = np.random.default_rng(seed)
    shape = (30, 34, 26)
    labels = np.zeros(shape, dtype=np.int16)
    for value, number, largest in ((2, 5, 8), (1, 6, 5), (3, 7, 4), (4, 3, 4)):
        labels[blobs(rng, shape, number, largest)] = value
    return labels


@pytest.mark.parametrize(
    ("version", "task"),
    [(version, task) for version, tasks in (("lesionwise-2023", TASKS_2023), ("lesionwise-2024", TASKS_2024))
     for task in tasks],
)  # fmt: skip
def test_equals_the_plain_transcription(version, task):
    rules = {"lesionwise-2023": TASKS_2023, "lesionwise-2024": TASKS_2024}[version][task]
    transcription, several = plain(), 0
    for seed in range(4):
        reference, spacing = messy(seed), SPACINGS[seed % 3]
        prediction = np.where(np.random.default_rng(seed).random(reference.shape) < 0.1, 0, messy(seed + (seed > 1)))
        prediction = np.roll(prediction, 1, axis=seed % 3)
        ours = score_case(reference, prediction, spacing=spacing, regions=GLI, release="?", metrics=version, task=task)
        for region, expected in transcription(reference, prediction, spacing, GLI, rules).items():
            found = ours[region]
            assert (found["lw_dice"], found["lw_hd95_mm"]) == pytest.approx(expected, rel=1e-9), (seed, region)
            several += found["tp"] > 1
    assert several
