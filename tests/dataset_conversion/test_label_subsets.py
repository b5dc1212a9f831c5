"""The parts of a study: whole patients, nested fractions, the same whatever is added."""

import pytest

from bdfm_nnunet.dataset_conversion.label_subsets import Parts, divide
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import CaseList


def cases(patients: int, visits: int = 2) -> CaseList:
    rows = [
        {"case": f"p{patient:02d}_{visit}", "patient": f"p{patient:02d}", "part": "train", "spacing": [1.0, 1.0, 1.0],
         "labels": {"0": 900, "1": 10 * patient + 1, "2": 5 if patient % 5 == 0 else 0}}
        for patient in range(patients) for visit in range(1 + visits * (patient % 3 == 0))
    ]  # fmt: skip
    return CaseList("Dataset001_D", "D", rows)


def parts_of(found: CaseList, **changes: object) -> Parts:
    given = {"hold_out": 0.2, "validation": 0.25, "fractions": [0.1, 0.5, 1.0], "seeds": 3, "seed": 1} | changes
    return divide(found, {"background": 0, "core": 1, "rare": 2}, **given)  # type: ignore[arg-type]


def test_no_patient_is_on_two_sides_and_every_case_is_used() -> None:
    found = cases(30)
    parts = parts_of(found)
    sides = [parts.test, parts.validation, parts.train]
    assert sorted(case for side in sides for case in side) == sorted(row["case"] for row in found.rows)
    whose = [{case[:3] for case in side} for side in sides]
    assert not whose[0] & whose[1] and not whose[0] & whose[2] and not whose[1] & whose[2]
    assert len(parts.test) == pytest.approx(0.2 * len(found.rows), abs=2)
    assert parts.patients["p03_0"] == parts.patients["p03_1"] != parts.patients["p04_0"]


def test_fractions_are_nested_and_differ_between_seeds() -> None:
    parts = parts_of(cases(30))
    for small, half, whole in parts.subsets:
        assert set(small) < set(half) < set(whole) == set(parts.train)
        assert len(small) == pytest.approx(0.1 * len(whole), abs=3)
        assert any(int(case[1:3]) % 5 == 0 for case in small), "a case of the rare region"
    assert len({tuple(subsets[1]) for subsets in parts.subsets}) == 3


def test_more_seeds_leave_those_before_as_they_were() -> None:
    few, many = parts_of(cases(30), seeds=1), parts_of(cases(30), seeds=4)
    assert many.subsets[:1] == few.subsets and (many.test, many.train) == (few.test, few.train)
    assert parts_of(cases(30), seed=2).test != few.test


def test_without_hold_out_there_are_no_test_cases() -> None:
    parts = parts_of(cases(10), hold_out=0.0)
    assert not parts.test and len(parts.train) + len(parts.validation) == len(cases(10).rows)


def test_the_smallest_data_set_has_a_patient_for_each_part() -> None:
    parts = parts_of(cases(3, visits=0), fractions=[0.01])
    assert (len(parts.test), len(parts.validation), len(parts.train)) == (1, 1, 1) and parts.subsets[0][0]
    with pytest.raises(InputError, match="has 2 patients, a study needs at least 3"):
        parts_of(cases(2))
