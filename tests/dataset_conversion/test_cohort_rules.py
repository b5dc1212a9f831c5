"""Cohorts that leave out what the rules of a challenge forbid weights to have seen."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion.cohort import make_cohort_dataset
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, describe_run, verdict
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.weight_rules import find_rules
from tests.conftest import point_to
from tests.dataset_conversion.converted import dataset, digest, row, write_files


def _source(folder: Path, cases: list[str], **content: Any) -> None:
    rows = [row(case, sha256={"t1c": digest(content.get("same", "") + case)}) for case in cases]
    content.pop("same", None)
    write_files(folder, rows)
    dataset(folder, rows, **({"overlaps": []} | content))


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tumours of BraTS, free data that holds one of their scans, data that shares scans, and a folder."""
    raw = point_to(tmp_path, monkeypatch) / "nnUNet_raw"
    _source(raw / "Dataset011_GLI", ["g1", "g2"], release="brats2023-gli")
    _source(raw / "Dataset012_Free", ["f1", "f2", "g2"], release="msd-hippocampus")
    _source(raw / "Dataset013_Kin", ["k1"], release="new-gliomas", overlaps=["brats2021"])
    _source(raw / "Dataset014_Ward", ["w1"], release="folder")
    _source(raw / "Dataset015_Hidden", ["BraTS2021_00001", "BraTS2021_00002"], release="folder", source="other")
    return raw


def _exposure(folder: Path) -> Exposure:
    cases = read_cases(folder)
    return Exposure().then(describe_run(cases, train=[each["case"] for each in cases.rows], val=[]))


def test_what_is_forbidden_is_left_out_and_told(raw: Path) -> None:
    report = make_cohort_dataset(40, [11, 12, 13, 15], allowed_by="brats2026-met")
    assert [each["source_case"] for each in report.kept] == ["f1", "f2"]
    text = report.summary()
    assert "note: 2 cases of Dataset011_GLI left out, which brats2026-met forbids (brats2023-gli: data of" in text
    assert "1 cases of Dataset012_Free left out: images of a forbidden source under another name" in text
    assert "(new-gliomas: shares scans with brats2021" in text
    assert "recognised by ids like BraTS2021_00001" in text
    manifest = json.loads((report.folder / "manifest.json").read_text())
    assert list(manifest["releases"]) == ["msd-hippocampus"] and len(manifest["allowed_by"]["notes"]) == 4
    rules = find_rules("brats2026-met")
    assert verdict(_exposure(report.folder), rules).answer == "allowed"
    whole = make_cohort_dataset(41, [11, 12], name="Whole")
    assert verdict(_exposure(whole.folder), rules).answer == "forbidden"
    assert "allowed_by" not in json.loads((whole.folder / "manifest.json").read_text())


def test_what_nobody_can_tell_takes_part_and_is_told(raw: Path) -> None:
    report = make_cohort_dataset(40, [12, 14], allowed_by="brats2026-met")
    assert [each["source_case"] for each in report.kept] == ["f1", "f2", "g2", "w1"]
    assert "Dataset014_Ward takes part, but brats2026-met does not tell whether it may (folder-" in report.summary()
    assert verdict(_exposure(report.folder), find_rules("brats2026-met")).answer == "unknown"


def test_a_cohort_keeps_the_names_of_releases_whose_images_are_all_doubles(raw: Path) -> None:
    _source(raw / "Dataset016_Copy", ["f1", "f2"], release="brats2021")
    report = make_cohort_dataset(40, [12, 16])
    assert set(read_cases(report.folder).releases) == {"msd-hippocampus", "brats2021"}
    assert verdict(_exposure(report.folder), find_rules("brats2026-met")).answer == "forbidden"


def test_nothing_is_left(raw: Path) -> None:
    with pytest.raises(InputError, match=r"brats2026-goat forbids every case of Dataset011_GLI, Dataset012_Free: name"):
        make_cohort_dataset(40, [11, 12], allowed_by="brats2026-goat")
    with pytest.raises(InputError, match=r"there are no rules 'brats'"):
        make_cohort_dataset(40, [11], allowed_by="brats")
    assert not (raw / "Dataset040_Cohort").exists()


def test_channels_of_sources_that_are_left_out_need_not_fit(raw: Path) -> None:
    rows = [
        row(
            "c1",
            sha256={"t2f": digest("c1")},
            targets={"t2f": "imagesTr/c1_0000.nii.gz", "label": "labelsTr/c1.nii.gz"},
        )
    ]
    write_files(raw / "Dataset017_Other", rows)
    dataset(raw / "Dataset017_Other", rows, channels=("t2f",), release="ixi", overlaps=[])
    report = make_cohort_dataset(40, [17, 11], channels="all", allowed_by="brats2026-met")
    assert [each["source_case"] for each in report.kept] == ["c1"]
