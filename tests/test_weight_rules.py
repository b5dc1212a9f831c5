"""Rules of challenges on weights: the table that is shipped, and files of a user's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion import RELEASES
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.source_names import by_ids, by_name, stands_for_any
from bdfm_nnunet.weight_rules import Judgement, find_rules, known_rules

OWN: dict[str, Any] = {
    "name": "ward7",
    "rule": "what our ethics board allows",
    "allowed": ["my hospital", "oasis*"],
    "unclear": {"ADNI": "ask the board"},
    "forbidden": {"BraTS 2021": "no consent"},
    "others": "unknown",
    "source": {"text": "minutes", "address": "https://hospital.example/7", "date": "2026-02-03"},
}


def _write(path: Path, **changes: Any) -> str:
    content = {name: value for name, value in (OWN | changes).items() if value is not None}
    path.write_text(json.dumps(content))
    return str(path)


def test_the_table_names_releases_that_exist_or_patterns() -> None:
    plain = {name for rules in known_rules().values() for name in rules.patterns if "*" not in name}
    assert plain - set(RELEASES) == {"brats-met", "brats-ped", "brats-goat"}
    assert all(rules.source["address"].startswith("https://") for rules in known_rules().values())


def test_what_is_printed_is_a_file_for_rules(tmp_path: Path) -> None:
    for name, rules in known_rules().items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(rules.as_dict()))
        assert find_rules(str(path)) == rules


@pytest.mark.parametrize(
    ("source", "overlaps", "answer", "why"),
    [
        ("My-Hospital", ["brats2021"], "allowed", "these rules name it allowed"),
        ("oasis3", [], "allowed", "these rules name it allowed"),
        ("adni", [], "unknown", "ask the board"),
        ("brats2021", [], "forbidden", "no consent"),
        ("brats_2021", [], "forbidden", "no consent"),
        ("ucsf-pdgm", ["brats2021"], "forbidden", "shares scans with brats2021: no consent"),
        ("brats20210", [], "unknown", "these rules do not name it"),
        ("bids-00112233", [], "unknown", "stands for any data: convert it under a name of its own with --entry"),
    ],
)
def test_a_file_of_ones_own(tmp_path: Path, source: str, overlaps: list[str], answer: Any, why: str) -> None:
    rules = find_rules(_write(tmp_path / "own.json"))
    assert rules.judge(source, overlaps) == Judgement(answer, why)


def test_a_folder_may_be_named_as_it_is_recorded(tmp_path: Path) -> None:
    rules = find_rules(_write(tmp_path / "own.json", allowed=["folder-0a1b2c3d"]))
    assert rules.judge("folder-0a1b2c3d").answer == "allowed" and rules.judge("folder-ffffffff").answer == "unknown"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"forbiden": ["brats*"]}, "it has 'forbiden', which is none of name, title"),
        ({"others": "maybe"}, "others is 'maybe', expected one of allowed, forbidden, unknown"),
        ({"others": None}, "others is missing"),
        ({"allowed": "oasis"}, "allowed is 'oasis', expected"),
        ({"allowed": ["*"]}, r"allowed has '\*', expected the name of a source"),
        ({"allowed": ["ward\x1b[31m"]}, "expected the name of a source"),
        ({"allowed": ["brats-2021"]}, "BraTS 2021 is in allowed and forbidden"),
        ({"source": {"text": "t", "address": "x", "date": "2026-02-03"}}, "source.address is 'x', expected one that"),
        (
            {"source": {"text": "t", "address": "https://a.b", "date": "spring"}},
            "source.date is 'spring', expected a day",
        ),
        ({"name": "../x y"}, "name is '../x y', expected letters"),
        ({"rule": "a\nb"}, "characters that cannot be shown"),
    ],
)
def test_a_file_with_a_fault_is_refused_in_a_sentence(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=rf"own\.json holds no rules on weights \(.*{fault}"):
        find_rules(_write(tmp_path / "own.json", **changes))


def test_rules_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are no rules 'brats2026': choose one of brats2026-met, "):
        find_rules("brats2026")
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        find_rules(str(tmp_path / "none.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match=r"list\.json holds no rules on weights"):
        find_rules(str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    ("dataset", "case", "expected"),
    [
        ("Dataset043_BraTS2019", "BraTS19_CBICA_ABB_1", {"brats2019"}),
        ("Dataset001_BrainTumour", "BRATS_001", {"msd-brain-tumour"}),
        ("Dataset501_BraTS2026MET", "BraTS-MET-00001-000", {"brats-met"}),
        ("Dataset501_BraTS2024GLI", "x", {"brats"}),
        ("Dataset501_BraTSAfrica", "BraTS-SSA-00001-000", {"brats-ssa"}),
        ("Dataset501_Ward", "BraTS-GoAT-00003", {"brats-goat"}),
        ("Dataset501_Ward", "sub-01", set()),
    ],
)
def test_data_without_a_record_is_recognised(dataset: str, case: str, expected: set[str]) -> None:
    assert set(by_ids([case])) | set(by_name(dataset)) == expected


def test_layouts_stand_for_any_data() -> None:
    known = ("bids", "fmri-bids-0a1b2c3d", "folder-0a1b2c3d")
    assert all(map(stands_for_any, known)) and not any(map(stands_for_any, ("brats2021", "cohort", "bids-x")))
