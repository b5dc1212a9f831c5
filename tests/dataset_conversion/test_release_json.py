"""Entries that a user has edited."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, Release, convert
from bdfm_nnunet.dataset_conversion.path_patterns import example_of, literal_end
from bdfm_nnunet.errors import InputError
from tests.dataset_conversion.trees import make_tree


def _entry(name: str = "brats2021") -> dict[str, Any]:
    return json.loads(json.dumps(RELEASES[name].as_dict()))


def test_an_edited_entry_converts(tmp_path: Path, raw: Path) -> None:
    make_tree("brats2021", tmp_path / "download")
    entry = _entry()
    entry["dataset_name"] = "Mine"
    entry["channels"] = {"flair": {"path": r"(?:.*/)?{case}_flair"}}
    report = convert(Release.from_dict([entry]), tmp_path / "download", dataset_id=9)
    assert report.folder.name == "Dataset009_Mine"
    assert {len(record.targets) for record in report.training} == {2}


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": ({"chanels": {}}, "has 'chanels', which is none of its names"),
    "unknown name inside": ({"channels": {"a": {"pth": "x"}}}, "a in channels of the entry has 'pth'"),
    "name missing inside": ({"channels": {"a": {}}}, "lacks path"),
    "no table": ({"channels": 3}, "channels of the entry cannot be 3"),
    "number for text": ({"title": 7}, "title of the entry cannot be 7"),
    "text for a list": ({"notes": "x"}, "notes of the entry cannot be 'x'"),
    "text for a number": ({"labels": {"x": "y"}}, "labels of the entry cannot be"),
    "half a grid": ({"grid": [1, 2]}, "grid of the entry cannot be"),
    "truth": ({"repairs": [{"case": "x", "why": "y", "plain": 1}]}, "plain of an item of repairs"),
    "no channel": ({"channels": {}}, "has no channels"),
    "channel named label": ({"channels": {"label": {"path": "{case}"}}}, "cannot be called label"),
    "bad path": ({"channels": {"a": {"path": "{case}("}}}, "is no regular expression"),
    "path without case": ({"channels": {"a": {"path": "x"}}}, "does not tell the case"),
    "bad expression": ({"site_pattern": "["}, "is no regular expression"),
    "patient without group": ({"patient_pattern": "x"}, "patient_pattern has no group"),
    "folder": ({"dataset_name": "a b"}, "no good for a folder"),
    "gaps": ({"label_map": {}}, r"become \[1, 2, 4\], but nnU-Net wants 1, 2, 3"),
    "not one-to-one": ({"label_map": {"4": 2}}, "not one-to-one"),
    "map of nothing": ({"label_map": {"4": 3, "9": 4}}, "maps 9"),
    "no labels": ({"labels": {}, "label_map": {}}, "no labels; name the values"),
    "no regions": ({"regions": {}, "regions_class_order": []}, "labels but no regions"),
    "unknown value": ({"scored_regions": {"x": [4]}}, r"region x has values \[4\]"),
    "several values": ({"regions_class_order": []}, "give regions_class_order"),
    "short order": ({"regions_class_order": [2, 1]}, "must have one of"),
    "lost label": ({"regions_class_order": [1, 2, 3]}, "value 1 would be painted as 2"),
    "masks too": ({"masks": {"m": {"path": "{case}"}}}, "leave out one of them"),
    "repair of nothing": ({"repairs": [{"case": "x", "why": "y", "missing": ["t9"]}]}, "repair names 't9'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_entry_is_refused_in_a_sentence(fault: str) -> None:
    change, sentence = FAULTS[fault]
    with pytest.raises(InputError, match=sentence) as caught:
        Release.from_dict({**_entry(), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, 3, "x", [], [1, 2], {}])
def test_no_entry_at_all(content: Any) -> None:
    with pytest.raises(InputError, match="the entry"):
        Release.from_dict(content)


@pytest.mark.parametrize(
    ("pattern", "example", "end"),
    [
        (r"(?:.*/)?(?P<case>A-\d{3})/(?P=case)_(?:T1|t1)", "A-000/A-000_T1", ""),
        (r"x[^/]+?\.a(?=b)[a-z]?", "xx.a", ""),
        (r"(?P<s>s)?(?(s)a|b)-end", "-end", "-end"),
    ],
)
def test_examples_for_people(pattern: str, example: str, end: str) -> None:
    assert example_of(pattern) == example
    assert literal_end(pattern) == end


def test_examples_hold_the_id_of_a_case() -> None:
    assert RELEASES["ucsf-pdgm"].example("T1c", "UCSF-PDGM-0541") == "UCSF-PDGM-0541_T1c.nii.gz"
    assert RELEASES["upenn-gbm"].examples("label", "UPENN-GBM-00001_11") == [
        "images_segm/UPENN-GBM-00001_11_segm.nii.gz",
        "automated_segm/UPENN-GBM-00001_11_segm.nii.gz",
    ]
    assert RELEASES["oasis1"].example("T1").endswith("_masked_gfc.img")
