"""Splits by patient, stratified, in fractions; and the check of splits that others made."""

import json
import math
import random
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion.split_checks import check_splits
from bdfm_nnunet.dataset_conversion.splits import make_splits, splits_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import groups, read_cases
from tests.dataset_conversion.converted import LABELS, dataset, digest, random_rows, row

FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)


def _splits(folder: Path) -> list[dict[str, list[str]]]:
    content: list[dict[str, list[str]]] = json.loads((folder / "splits_final.json").read_text())
    return content


def _leaks(splits: list[dict[str, list[str]]], group: dict[str, str]) -> int:
    """Pairs of one patient on two sides, by looking at every pair."""
    return sum(group[one] == group[other] for s in splits for one in s["train"] for other in s["val"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return dataset(tmp_path / "Dataset007_Seven", random_rows(120, seed=5))


@pytest.mark.parametrize("seed", range(6))
def test_folds_of_random_patients_do_not_leak_and_use_every_case(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    rows = random_rows(draw.randrange(20, 70), seed=seed)
    for _ in range(draw.randrange(12)):  # scans of one patient under two keys, and keys with a second name
        one, other = draw.sample(rows, 2)
        if draw.random() < 0.5:
            one["sha256"] = {**one["sha256"], "t2": other["sha256"]["t1c"]}
        else:
            one["aliases"] = [other["patient"].lower().replace("-0", "-")]
    folder = dataset(tmp_path / "a", rows)
    make_splits(folder, folds=4, fractions=FRACTIONS, seed=seed)
    splits, group = _splits(folder), groups(rows)
    assert len(set(group.values())) < len({r["patient"] for r in rows})
    assert _leaks(splits, group) == 0 and check_splits(folder).faults == []
    everyone = sorted(r["case"] for r in rows)
    assert sorted(case for split in splits[:4] for case in split["val"]) == everyone
    assert all(sorted(split["train"] + split["val"]) == everyone for split in splits[:4])


def test_fractions_are_nested_and_share_the_validation_cases(folder: Path) -> None:
    report = make_splits(folder, fractions=FRACTIONS)
    splits = _splits(folder)
    table = json.loads((folder / "splits_table.json").read_text())
    assert table["folds"] == report.rows and len(splits) == len(report.rows) == 30
    assert [r["fraction"] for r in report.rows[::5]] == [1.0, 0.01, 0.05, 0.1, 0.2, 0.5]
    by_fraction = {(r["base_fold"], r["fraction"]): splits[r["fold"]] for r in report.rows}
    for fold in range(5):
        for smaller, larger in pairwise(FRACTIONS):
            assert set(by_fraction[fold, smaller]["train"]) <= set(by_fraction[fold, larger]["train"])
        assert all(by_fraction[fold, fraction]["val"] == by_fraction[fold, 1.0]["val"] for fraction in FRACTIONS)
        for fraction in (0.2, 0.5):
            whole = len(by_fraction[fold, 1.0]["train"])
            assert len(by_fraction[fold, fraction]["train"]) == pytest.approx(fraction * whole, abs=5)


def test_every_fraction_has_each_region_that_its_fold_has(folder: Path) -> None:
    report = make_splits(folder, fractions=FRACTIONS)
    whole = {r["base_fold"]: set(r["regions"]) for r in report.rows if r["fraction"] == 1}
    assert all(len(regions) == 3 for regions in whole.values())
    assert all(set(r["regions"]) == whole[r["base_fold"]] for r in report.rows)


def test_table_counts_what_is_in_the_folds(folder: Path) -> None:
    report = make_splits(folder, fractions=(0.5, 1))
    known = {r["case"]: r for r in read_cases(folder).rows}
    for entry, split in zip(report.rows, _splits(folder)):
        train = [known[case] for case in split["train"]]
        assert entry["cases"] == len(train) and entry["patients"] == len({r["patient"] for r in train})
        assert entry["regions"]["enhancing_tumor"] == sum("4" in r["labels"] for r in train)
        assert entry["sites"] == dict(sorted(Counter(r["site"] for r in train).items()))
        assert entry["validation_cases"] == len(split["val"])


def _imbalance(splits: list[dict[str, list[str]]], rows: list[dict[str, Any]]) -> float:
    """Mean distance of a fold's share of a feature from one fifth."""
    known = {r["case"]: r for r in rows}
    features = [lambda r: "4" in r["labels"], lambda r: "1" not in r["labels"], lambda r: r["site"] == "Basel",
                lambda r: r["site"] == "Chur", lambda r: int(r["labels"]["2"]) > 300, lambda r: True]  # fmt: skip
    distances = []
    for feature in features:
        counts = [sum(feature(known[case]) for case in split["val"]) for split in splits[:5]]
        distances += [abs(count / sum(counts) - 0.2) for count in counts]
    return math.fsum(distances) / len(distances)


def _random_splits(rows: list[dict[str, Any]], seed: int) -> list[dict[str, list[str]]]:
    patients = sorted({r["patient"] for r in rows})
    random.Random(seed).shuffle(patients)
    parts = [set(patients[fold::5]) for fold in range(5)]
    return [{"val": [r["case"] for r in rows if r["patient"] in part]} for part in parts]


def test_stratified_folds_are_more_alike_than_random_ones(tmp_path: Path) -> None:
    rows = random_rows(200, seed=8)
    folder = dataset(tmp_path / "a", rows)
    make_splits(folder)
    by_chance = [_imbalance(_random_splits(rows, seed), rows) for seed in range(50)]
    assert _imbalance(_splits(folder), rows) < 0.5 * min(by_chance)


def test_folds_are_of_like_size() -> None:
    rows = [{"case": f"p{p:04d}-{v}", "patient": f"p{p:04d}", "part": "train"} for p in range(1133)
            for v in range(2 if p < 118 else 1)]  # fmt: skip
    cases = read_cases_of(rows)
    lengths = [len(split["val"]) for split in splits_of(cases, {})]
    assert max(lengths) - min(lengths) <= 1


def read_cases_of(rows: list[dict[str, Any]]) -> Any:
    from bdfm_nnunet.patients import CaseList

    return CaseList("Dataset001_A", "a", rows)


def test_seed_decides_and_nothing_else(folder: Path) -> None:
    cases = read_cases(folder)
    backwards = read_cases_of(cases.rows[::-1])
    forwards = read_cases_of(cases.rows)
    assert splits_of(forwards, LABELS) == splits_of(backwards, LABELS)
    assert splits_of(forwards, LABELS, seed=1) != splits_of(forwards, LABELS, seed=2)


def test_few_patients(tmp_path: Path) -> None:
    rows = [row(f"{p}x-{v}", f"{p}x") for p in range(3) for v in range(2)]
    assert len(splits_of(read_cases_of(rows), LABELS)) == 3
    assert splits_of(read_cases_of(rows[:2]), LABELS) == []
    with pytest.raises(InputError, match="fewer than two patients"):
        make_splits(dataset(tmp_path / "a", rows[:2]))


def test_refused_and_test_cases_take_no_part(tmp_path: Path) -> None:
    rows = [*random_rows(30, seed=1), row("bad", status="refused"), row("unseen", part="test")]
    make_splits(dataset(tmp_path / "a", rows))
    used = {case for split in _splits(tmp_path / "a") for part in split.values() for case in part}
    assert used == {r["case"] for r in rows[:-2]}


def test_thousands_of_cases_in_seconds(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "a", random_rows(4_000, seed=2))
    begin = time.process_time()
    make_splits(folder, fractions=FRACTIONS)
    assert time.process_time() - begin < 10


# --------------------------------------------------------------------------------------------------------- settings


def test_sites_of_a_table_replace_those_of_the_manifest(folder: Path, tmp_path: Path) -> None:
    patients = sorted({r["patient"] for r in read_cases(folder).rows})
    table = tmp_path / "sites.csv"
    table.write_text("patient,site\n" + "".join(f"{p.lower()},{'XY'[i % 2]}\n" for i, p in enumerate(patients)))
    report = make_splits(folder, sites=table)
    assert all(set(r["sites"]) == {"X", "Y"} for r in report.rows)
    table.write_text("nobody,X\n")
    with pytest.raises(InputError, match="knows no case or patient"):
        make_splits(folder, sites=table)
    table.write_text("nobody\n")
    with pytest.raises(InputError, match="no site in row 1"):
        make_splits(folder, sites=table)


def test_data_set_without_manifest(tmp_path: Path) -> None:
    folder = dataset(tmp_path / "a", [])
    (folder / "manifest.json").unlink()
    (folder / "labelsTr").mkdir()
    for patient in range(6):
        for visit in range(2):
            (folder / "labelsTr" / f"P{patient}-{visit}.nii.gz").touch()
    report = make_splits(folder, folds=3, patients=r"^(P\d+)-")
    assert report.patients == 6 and not report.note
    assert all({c[:2] for c in s["train"]}.isdisjoint({c[:2] for c in s["val"]}) for s in _splits(folder))
    assert "val is of the same patient" in _by_case(folder)
    with pytest.raises(InputError, match=r"finds no patient in case P0-0"):
        make_splits(folder, patients="^Q")
    with pytest.raises(InputError, match="no regular expression"):
        make_splits(folder, patients="(")


def _by_case(folder: Path) -> str:
    """What the check says of splits made with every case as a patient."""
    assert make_splits(folder, folds=3, seed=1, overwrite=True).patients == 12
    return check_splits(folder, patients=r"^(P\d+)-").summary()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"folds": 1}, "too few"),
        ({"fractions": (0,)}, "expected numbers above 0"),
        ({"patients": "a"}, "has a manifest"),
    ],
)
def test_impossible_settings(folder: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_splits(folder, **settings)


def test_folds_may_be_added_but_not_changed(folder: Path) -> None:
    make_splits(folder)
    first = _splits(folder)
    make_splits(folder, fractions=(0.5, 1.0))
    assert _splits(folder)[:5] == first and len(_splits(folder)) == 10
    for settings in ({"fractions": (1.0,)}, {"seed": 3}, {"folds": 3}):
        with pytest.raises(InputError, match=r"holds other splits.*--overwrite"):
            make_splits(folder, **settings)  # type: ignore[arg-type]
    make_splits(folder, seed=3, overwrite=True)
    assert _splits(folder)[:5] != first


def test_number_writes_raw_and_preprocessed(raw: Path) -> None:
    folder = dataset(raw / "Dataset007_Seven", random_rows(40, seed=1))
    preprocessed = raw.parent / "nnUNet_preprocessed" / folder.name
    preprocessed.mkdir()
    report = make_splits(7)
    assert [path.parent for path in report.files] == [folder, preprocessed]
    assert _splits(folder) == _splits(preprocessed)
    assert check_splits(7).files == report.files
    (folder / "splits_final.json").write_text(json.dumps(_splits(folder)[:3]))
    assert "differ" in check_splits(7).faults[0]
    with pytest.raises(InputError, match=r"no data set Dataset008_\*"):
        make_splits(8)


def test_content_shared_by_patients_is_named(tmp_path: Path) -> None:
    rows = random_rows(40, seed=1)
    rows[0]["sha256"] = rows[-1]["sha256"] = {"t1c": digest("twin")}
    report = make_splits(dataset(tmp_path / "a", rows))
    assert report.shared == [(rows[0]["case"], rows[-1]["case"])]
    assert f"{rows[0]['case']} = {rows[-1]['case']}" in report.summary()


# ------------------------------------------------------------------------------------------------------------ check


def test_check_names_what_is_wrong(folder: Path) -> None:
    make_splits(folder, fractions=(0.5, 1.0))
    good = _splits(folder)
    visits = next(c for c in good[0]["train"] if c.endswith("-001"))

    def faults(splits: object) -> str:
        (folder / "splits_final.json").write_text(json.dumps(splits))
        return check_splits(folder).summary()

    assert "no patient is on two sides" in faults(good)
    moved = {"train": [c for c in good[0]["train"] if c != visits], "val": [*good[0]["val"], visits]}
    assert f"fold 0: {visits} in val is of the same patient as" in faults([moved, *good[1:]])
    both = {"train": [*good[0]["train"], good[0]["val"][0]], "val": good[0]["val"]}
    assert f"fold 0: cases in train and val: {good[0]['val'][0]}" in faults([both, *good[1:]])
    assert "never validated in a whole fold" in faults(good[1:5])
    assert "validated in more than one whole fold" in faults([*good, good[2]])
    assert "fold 4: is no part of a whole fold" in faults(
        [*good[:4], {"train": good[4]["train"][1:], "val": good[4]["val"]}]
    )
    assert "fold 0: val is empty" in faults([{"train": good[0]["train"], "val": []}, *good[1:]])
    strange = {"train": [*good[0]["train"], "stranger"], "val": good[0]["val"]}
    assert "does not have: stranger" in faults([strange, *good[1:]])
    twice = {"train": [*good[0]["train"], good[0]["train"][0]], "val": good[0]["val"]}
    assert "train names cases twice" in faults([twice, *good[1:]])
    with pytest.raises(InputError, match="no list of train and val cases"):
        faults({"train": []})


def test_check_finds_every_leak_of_random_splits(folder: Path) -> None:
    rows = read_cases(folder).rows
    group, draw = groups(rows), random.Random(0)
    cases = sorted(group)
    draw.shuffle(cases)
    splits = [{"train": [c for c in cases if c not in cases[f::5]], "val": cases[f::5]} for f in range(5)]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    found = [fault for fault in check_splits(folder).faults if "of the same patient" in fault]
    leaking = sum(any(group[case] == group[other] for other in s["train"]) for s in splits for case in s["val"])
    assert len(found) == leaking > 10


def test_check_without_splits(folder: Path) -> None:
    with pytest.raises(InputError, match=r"has no splits_final\.json"):
        check_splits(folder)
