"""Splits by patient."""

import pytest

from bdfm_nnunet.dataset_conversion.splits import grouped_splits


def _patients(sizes: list[int]) -> dict[str, str]:
    return {f"p{patient:03d}-{scan}": f"p{patient:03d}" for patient, size in enumerate(sizes) for scan in range(size)}


@pytest.mark.parametrize("sizes", [[1] * 5, [1] * 23, [8, 1, 1, 1, 1, 3, 2], [2] * 118 + [1] * 1015])
def test_every_case_is_validated_once_and_no_patient_is_on_both_sides(sizes: list[int]) -> None:
    patients = _patients(sizes)
    splits = grouped_splits(patients)
    assert len(splits) == 5
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(patients)
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(patients)
        assert not {patients[case] for case in fold["train"]} & {patients[case] for case in fold["val"]}


def test_folds_are_balanced() -> None:
    lengths = [len(fold["val"]) for fold in grouped_splits(_patients([2] * 118 + [1] * 1015))]
    assert max(lengths) - min(lengths) <= 1


def test_seed_changes_the_order_and_nothing_else_does() -> None:
    patients = _patients([1] * 30)
    backwards = dict(reversed(patients.items()))
    assert grouped_splits(patients) == grouped_splits(backwards)
    assert grouped_splits(patients, seed=1) != grouped_splits(patients, seed=2)


def test_folds_is_the_number_of_folds() -> None:
    assert len(grouped_splits(_patients([1] * 30), folds=3)) == 3


def test_few_patients() -> None:
    assert len(grouped_splits(_patients([3, 1, 1]))) == 3
    assert grouped_splits(_patients([4])) == []
