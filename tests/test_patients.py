"""Groups of cases, against a slow search through the graph."""

import json
import random
from pathlib import Path
from typing import Any

import networkx
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import components, duplicates, groups, identify, plain_id, qualified, read_cases, says_whose


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("UCSF-PDGM-004", "ucsf-pdgm-0004", True),
        ("BraTS-GLI-00012", "BraTS-GLI-12", True),
        (" sub-07 ", "SUB-7", True),
        ("a000", "a0", True),
        ("a10", "a1", False),
        ("a100", "a1", False),
        ("a1", "b1", False),
    ],
)
def test_ids_are_compared_without_case_and_leading_zeros(one: str, other: str, same: bool) -> None:
    assert (plain_id(one) == plain_id(other)) is same


@pytest.mark.parametrize("key", ["7", "070", "sub-07", "case_12", "Patient 3", "subject-01", "P012", ""])
def test_keys_that_every_data_set_has(key: str) -> None:
    assert not says_whose(key)
    assert qualified(key, "mrbrains13") == f"mrbrains13:{key}"


@pytest.mark.parametrize("key", ["BraTS-GLI-00012", "OAS1_0001", "sub-r001s001", "sub-strokecase0001"])
def test_keys_that_tell_their_data_set(key: str) -> None:
    assert says_whose(key) and qualified(key, "any") == key


def _random_rows(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    rows = []
    for number in range(draw.randrange(1, 60)):
        rows.append({
            "case": f"C{number:03d}x",
            "patient": f"P{draw.randrange(30):02d}x",
            "aliases": [f"{draw.choice('pq')}{draw.randrange(60)}X" for _ in range(draw.choice([0, 0, 0, 1, 2]))],
            "sha256": {"t1": f"h{draw.randrange(200)}", "t2": f"h{draw.randrange(200)}", "label": "empty"},
        })  # fmt: skip
    return rows


def _brute_force(rows: list[dict[str, Any]]) -> set[frozenset[str]]:
    graph = networkx.Graph()
    graph.add_nodes_from(row["case"] for row in rows)
    for one in rows:
        for other in rows:
            names, others = ({plain_id(n) for n in (r["case"], r["patient"], *r["aliases"])} for r in (one, other))
            images, theirs = ({r["sha256"][c] for c in ("t1", "t2")} for r in (one, other))
            if names & others or images & theirs:
                graph.add_edge(one["case"], other["case"])
    return {frozenset(part) for part in networkx.connected_components(graph)}


@pytest.mark.parametrize("seed", range(25))
def test_groups_are_the_connected_components(seed: int) -> None:
    rows = _random_rows(seed)
    group = groups(rows)
    assert sorted(group) == sorted(row["case"] for row in rows)
    members = {frozenset(c for c, g in group.items() if g == name) for name in group.values()}
    assert members == _brute_force(rows)
    random.Random(seed).shuffle(rows)
    assert groups(rows) == group


def test_random_graphs_have_groups_of_several_patients_and_more_than_one_group() -> None:
    sizes = [len(part) for seed in range(25) for part in _brute_force(_random_rows(seed))]
    assert max(sizes) > 5 and sizes.count(1) > 10


def test_labels_join_nobody() -> None:
    rows = [{"case": f"a{n}", "sha256": {"label": "x", "mask:OR_left": "y"}} for n in range(3)]
    assert len(set(groups(rows).values())) == 3
    assert identify(rows[0]).hashes == frozenset()


def test_keys_without_meaning_count_within_a_release_only() -> None:
    rows = [{"case": f"{name}-{n}", "patient": str(n), "release": name} for name in ("mrbrains13", "mrbrains18")
            for n in (1, 2)]  # fmt: skip
    assert len(set(groups(rows).values())) == 4
    assert len(set(groups([{**row, "release": "one"} for row in rows]).values())) == 2


def test_duplicates_under_different_patient_keys() -> None:
    rows = [
        {"case": "a", "patient": "A", "sha256": {"t1": "x"}},
        {"case": "b", "patient": "B", "sha256": {"t1": "y", "t2": "x"}},
        {"case": "c", "patient": "C", "sha256": {"t1": "z"}},
        {"case": "c2", "patient": "C", "sha256": {"t1": "z"}},
    ]
    assert duplicates(rows) == [("a", "b")]


def test_members_without_anything_stand_alone() -> None:
    assert len(set(components([set(), set(), {1}, {1}]))) == 3
    assert components([set(), set()]) == [0, 1] and components([]) == []


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_cases_of_a_manifest(tmp_path: Path) -> None:
    widest = {str(2**64 - 1): 1, str(-(2**63)): 1}  # such labels are why a case is refused
    rows = [{"case": "a"}, {"case": "b", "status": "refused", "labels": widest}, {"case": "c", "part": "test"}]
    _write(tmp_path / "manifest.json", {"release": "bids", "source": "/a", "licence": "L", "cases": rows})
    (tmp_path / "imagesTs").mkdir()
    for name in ("c_0000.nii.gz", "d_0000.nii.gz", "d_0001.nii.gz", "._e_0000.nii.gz"):
        (tmp_path / "imagesTs" / name).touch()
    cases = read_cases(tmp_path)
    assert [(row["case"], row["part"]) for row in cases.rows] == [("a", "train"), ("c", "test"), ("d", "test")]
    assert cases.scope.startswith("bids-") and cases.releases == {cases.scope: {"licence": "L", "overlaps": []}}
    _write(tmp_path / "manifest.json", {"release": "bids", "source": "/b", "cases": rows})
    assert read_cases(tmp_path).scope != cases.scope


def test_cases_without_a_manifest_come_from_the_files(tmp_path: Path) -> None:
    raw, preprocessed = tmp_path / "raw" / "Dataset001_A", tmp_path / "pre" / "Dataset001_A"
    description = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    _write(raw / "dataset.json", description)
    (raw / "labelsTr").mkdir()
    (raw / "labelsTr" / "x.nii.gz").touch()
    cases = read_cases(raw, preprocessed)
    assert cases.rows == [{"case": "x", "part": "train"}] and "no manifest.json" in cases.note
    _write(preprocessed / "splits_final.json", [{"train": ["p"], "val": ["q"]}])
    assert [row["case"] for row in read_cases(preprocessed).rows] == ["p", "q"]
    with pytest.raises(InputError, match="hold no case"):
        read_cases(tmp_path)


def test_damaged_manifest(tmp_path: Path) -> None:
    _write(tmp_path / "manifest.json", [1])
    with pytest.raises(InputError, match="no manifest of bdfm convert"):
        read_cases(tmp_path)


ROW = {"case": "a", "targets": {"t1": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}}


@pytest.mark.parametrize(
    "content",
    [
        {}, {"cases": {}}, {"cases": [1]}, {"cases": [{}]}, {"cases": [{"case": 5}]}, {"cases": [ROW, ROW]},
        *({"cases": [ROW | {"case": name}]} for name in ("../x", "/tmp/x", "..", "a/b", "a\\b", "", "x" * 300, "a\n")),
        *({"cases": [ROW | change]} for change in (
            {"targets": {"t1": "/etc/passwd"}}, {"targets": {"t1": "../../x/imagesTr/a_0000.nii.gz"}},
            {"targets": {"t1": "imagesTr/.."}}, {"targets": {"t1": "imagesTr/x/a.nii.gz"}}, {"targets": {"t1": 5}},
            {"targets": ["a"]}, {"labels": {"x": 5}}, {"labels": {"1": "x"}}, {"labels": {"9" * 5000: 1}},
            {"aliases": "abc"}, {"sha256": {"t1": None}}, {"patient": 5}, {"spacing": ["x"]}, {"part": "other"},
        )),
        {"cases": [ROW], "inverse_labels": {"x": 1}}, {"cases": [ROW], "releases": ["x"]},
        {"cases": [ROW], "releases": {"x": {"overlaps": 5}}}, {"cases": [ROW], "release": ["x"]},
        {"cases": [ROW | {"targets": {"t1": "../../../etc/passwd"}}], "release": "cohort"},
        {"cases": [ROW | {"targets": {"t1": "/x/imagesTr/a_0000.nii.gz"}}], "release": "cohort"},
    ],
)  # fmt: skip
def test_a_manifest_of_any_other_content_is_a_sentence(content: Any, tmp_path: Path) -> None:
    _write(tmp_path / "manifest.json", content)
    with pytest.raises(InputError, match=r"manifest\.json"):
        read_cases(tmp_path)


def test_images_of_a_cohort_lie_in_other_data_sets(tmp_path: Path) -> None:
    row = {"case": "a", "targets": {"mri": "../Dataset001_A/imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}}
    _write(tmp_path / "manifest.json", {"release": "cohort", "cases": [row]})
    assert read_cases(tmp_path).rows == [row | {"part": "train"}]


def test_a_manifest_that_is_there_but_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    """Case ids alone would tell other patients than it does."""
    _write(tmp_path / "a" / "splits_final.json", [{"train": ["p"], "val": ["q"]}])
    (tmp_path / "a" / "manifest.json").mkdir()
    with pytest.raises(InputError, match=r"manifest\.json is a folder"):
        read_cases(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").rmdir()
    (tmp_path / "a" / "manifest.json").symlink_to("nowhere")
    with pytest.raises(InputError, match="is a link whose target"):
        read_cases(tmp_path / "a")


@pytest.mark.parametrize("case", ["../x", "/x", "a/b"])
def test_names_of_other_files_are_checked_too(case: str, tmp_path: Path) -> None:
    description = {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz",
        "dataset": {case: {"images": ["a.nii.gz"], "label": "b.nii.gz"}},
    }  # fmt: skip
    _write(tmp_path / "dataset.json", description)
    with pytest.raises(InputError, match=r"case id in .*dataset\.json"):
        read_cases(tmp_path)
    (tmp_path / "dataset.json").unlink()
    _write(tmp_path / "splits_final.json", [{"train": [case], "val": ["q"]}])
    with pytest.raises(InputError, match=r"case id in .*splits_final\.json"):
        read_cases(tmp_path)


def test_families_are_groups_where_they_are_asked_for() -> None:
    """Subjects of a family are two subjects to every score, and one group to splits."""
    rows = [
        {"case": "a", "patient": "P1", "family": "F1"}, {"case": "b", "patient": "P2", "family": "f01"},
        {"case": "c", "patient": "P3", "family": ""}, {"case": "d", "patient": "P4"},
        {"case": "e", "patient": "P5", "family": "F1", "release": "another"},
    ]  # fmt: skip
    assert len(set(groups(rows, "r").values())) == 5
    together = groups(rows, "r", families=True)
    assert together["a"] == together["b"] and len(set(together.values())) == 4
