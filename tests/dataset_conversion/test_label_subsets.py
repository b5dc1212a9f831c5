"""The parts of a study: whole patients, nested fractions, the same whatever is added."""

import json
from dataclasses import asdict

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


def test_each_seed_holds_out_other_patients_until_all_were_held_out() -> None:
    found = cases(20)
    parts = parts_of(found, rotate=True, seeds=7)
    tests = [set(turn.test) for turn in parts.turns]
    assert sorted(case for test in tests[:5] for case in test) == sorted(row["case"] for row in found.rows)
    assert tests[5:] == tests[:2], "then anew"
    for number, turn in enumerate(parts.turns):
        sides = [turn.test, turn.validation, turn.train]
        assert sorted(case for side in sides for case in side) == sorted(row["case"] for row in found.rows)
        assert len({case[:3] for case in turn.test} & {case[:3] for case in turn.train}) == 0
        assert parts.sides(number) is turn and set(parts.subsets[number][2]) == set(turn.train)
    assert parts.subsets[0][0] != parts.subsets[5][0], "other labels of the same patients"
    assert parts_of(found, rotate=True, seeds=2).turns == parts.turns[:2]


def test_four_patients_can_be_left_out_one_by_one_without_validation() -> None:
    found = cases(4, visits=0)
    for number, row in enumerate(found.rows):
        row["labels"] = {"0": 900, "1": 10 + number, "2": 5}
    parts = parts_of(found, rotate=True, hold_out=0.25, validation=0.0, seeds=4, fractions=[0.33, 1.0])
    assert sorted(turn.test for turn in parts.turns) == [[f"p{patient:02d}_0"] for patient in range(4)]
    assert [len(turn.validation) for turn in parts.turns] == [0] * 4
    assert [[len(subset) for subset in subsets] for subsets in parts.subsets] == [[1, 3]] * 4
    with pytest.raises(InputError, match="4 patients cannot be held out in 5 parts: hold out 25 percent"):
        parts_of(cases(4), rotate=True)


def test_parts_survive_json() -> None:
    for parts in (parts_of(cases(20)), parts_of(cases(20), rotate=True)):
        assert Parts.from_dict(json.loads(json.dumps(asdict(parts)))) == parts
