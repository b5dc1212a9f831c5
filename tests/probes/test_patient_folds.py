"""Folds and fractions of probes: whole patients, every class, and one sentence for what does not work."""

from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.probes.patient_folds import Fold, check_classes, fraction_of, inner_folds, outer_folds, strata
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.targets import TargetColumn, TargetType

GROUPS = [f"P{number // 2}" for number in range(60)]
CLASSES = np.array([0.0, 0.0] * 24 + [1.0, 1.0] * 6)
VALUES = np.repeat(np.random.default_rng(1).normal(size=30), 2)
SURVIVAL = np.stack([np.arange(60.0), CLASSES], axis=1)
TARGETS = {TargetType.BINARY: CLASSES, TargetType.CONTINUOUS: VALUES, TargetType.SURVIVAL: SURVIVAL}


@pytest.mark.parametrize("kind", TARGETS)
def test_inner_folds_keep_patients_together_and_classes_on_both_sides(kind: TargetType) -> None:
    target = TARGETS[kind]
    folds = inner_folds(kind, target, GROUPS, seed=3)
    assert len(folds) == 5
    assert sorted(at for _, outside in folds for at in outside) == list(range(60))
    for inside, outside in folds:
        assert not {GROUPS[at] for at in inside} & {GROUPS[at] for at in outside}
        if kind is not TargetType.CONTINUOUS:
            for side in (inside, outside):
                assert set(strata(kind, target[side])) == {0, 1}
    again, other = (inner_folds(kind, target, GROUPS, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(one[1], two[1]) for one, two in zip(folds, again, strict=True))
    assert not all(np.array_equal(one[1], two[1]) for one, two in zip(folds, other, strict=True))


def test_too_few_patients_give_no_inner_folds() -> None:
    assert inner_folds(TargetType.BINARY, np.array([0.0, 0.0, 1.0]), ["a", "b", "c"], seed=0) == []
    assert inner_folds(TargetType.CONTINUOUS, np.array([0.0, 1.0]), ["a", "a"], seed=0) == []


@pytest.mark.parametrize("kind", TARGETS)
def test_fractions_are_nested_whole_patients_of_every_stratum(kind: TargetType) -> None:
    target = TARGETS[kind]
    before: set[int] = set()
    for share in (0.02, 0.1, 0.4, 1.0):
        chosen = fraction_of(kind, target, GROUPS, share, seed=2)
        assert before <= set(chosen)
        before = set(chosen)
        assert all((at ^ 1) in before for at in before)  # both cases of each patient
        assert abs(len(chosen) - share * 60) <= max(2, 4 * (share < 0.1))
        if kind is TargetType.BINARY:
            assert set(target[chosen]) == {0.0, 1.0}
        if kind is TargetType.BINARY and share >= 0.4:
            assert target[chosen].mean() == pytest.approx(0.2, abs=0.1)
    first, other = (fraction_of(kind, target, GROUPS, 0.3, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first, other)


def _written(folder: Path, *folds: tuple[list[str], list[str]]) -> list[Path]:
    write_json(folder / SPLITS, [{"train": train, "val": val} for train, val in folds])
    return [folder]


def test_outer_folds_are_those_of_the_file(tmp_path: Path) -> None:
    folders = _written(tmp_path, (["a", "b"], ["c"]), (["c", "x"], ["a", "b"]), (["a"], ["c"]))
    folds = outer_folds(folders, ["a", "b", "c"], {})
    assert [(fold.train.tolist(), fold.test.tolist()) for fold in folds] == [([0, 1], [2]), ([2], [0, 1])]


def test_folds_that_leak_or_lack_cases_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no splits_final\.json: make folds with `bdfm splits`"):
        outer_folds([tmp_path], ["a"], {})
    folders = _written(tmp_path, (["a", "b"], ["c"]))
    with pytest.raises(InputError, match="has patient P in training and validation of fold 0"):
        outer_folds(folders, ["a", "b", "c"], {"a": "P", "c": "P"})
    with pytest.raises(InputError, match="has no training case with features and a target"):
        outer_folds(folders, ["c"], {})
    with pytest.raises(InputError, match="no validation case of"):
        outer_folds(folders, ["a", "b"], {})


def test_a_class_that_a_fold_lacks_is_one_sentence() -> None:
    column = TargetColumn("side", TargetType.BINARY, ("left", "right"))
    fold = Fold(2, np.array([0, 1]), np.array([2]))
    with pytest.raises(InputError, match="no training case of fold 2 has class right of side: add cases, or deal"):
        check_classes(column, np.array([0.0, 0.0, 1.0]), fold)
    with pytest.raises(InputError, match="has another class than left of side"):
        check_classes(column, np.array([0.0, 0.0, 0.0]), fold)
    with pytest.raises(InputError, match="have the same age"):
        check_classes(TargetColumn("age", TargetType.CONTINUOUS), np.array([60.0, 60.0, 61.0]), fold)
    with pytest.raises(InputError, match="has had the event of death"):
        check_classes(TargetColumn("death", TargetType.SURVIVAL), np.array([[1.0, 0], [2.0, 0], [3.0, 1]]), fold)
