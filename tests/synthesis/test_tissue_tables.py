import json
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.synthesis.tissue_tables import HEAD, LESION_PARTS, modality_levels, read_tissues


def test_every_tissue_has_a_brightness_in_every_contrast() -> None:
    for channel in ("T1", "t1ce", "T2w", "t2-FLAIR"):
        assert {*HEAD.values(), *LESION_PARTS} <= set(modality_levels(channel))


def test_contrasts_differ_as_they_should() -> None:
    t1, t1c, t2, flair = (modality_levels(name) for name in ("t1", "t1c", "t2", "flair"))
    assert t1["white"] > t1["grey"] > t1["fluid"]
    assert t2["white"] < t2["grey"] < t2["fluid"]
    assert flair["fluid"] < flair["white"] < flair["oedema"]
    assert t1c["enhancing"] > t1c["white"] > t1["enhancing"]
    assert t2["cavity"] == t2["fluid"]


def test_a_table_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"1": "white", "7": "plaque"}))
    assert read_tissues(str(path)) == {1: "white", 7: "plaque"}
    path.write_text(json.dumps({"white": [2, 41]}))
    with pytest.raises(InputError, match=r"table\.json"):
        read_tissues(str(path))
    path.write_text(json.dumps({"white": "2"}))
    with pytest.raises(InputError, match="'white' where a label was expected"):
        read_tissues(str(path))
    with pytest.raises(InputError, match="neither head nor a file"):
        read_tissues("haed")


def test_unknown_contrasts_are_refused() -> None:
    with pytest.raises(InputError, match="'MRA' is not known"):
        modality_levels("MRA")
