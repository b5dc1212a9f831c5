"""Releases of 4-D runs: their trees convert as planted, and their entries are whole."""

import json
from pathlib import Path

import pytest

from bdfm_nnunet.dataset_conversion import RELEASES, Release, convert, find_release
from bdfm_nnunet.dataset_conversion.releases.functional import in_space
from bdfm_nnunet.dataset_conversion.run_settings import RunSettings
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import read_header
from tests.dataset_conversion.run_trees import FRAMES, TR, TREES, Runs

NAMES = [name for name, release in RELEASES.items() if release.runs is not None]
SMALL = RunSettings(spacing=8, time_step=TR, size=24, min_frames=4)


def test_every_release_of_runs_has_a_tree_and_a_name_that_says_so() -> None:
    assert list(TREES) == NAMES
    assert all(name.startswith("fmri-") for name in NAMES)
    assert not [name for name in RELEASES if name.startswith("fmri-") and name not in NAMES]


TOLD = {
    "fmri-fmriprep": ("Ulm", "F1", 2, "rest"),
    "fmri-ucla": ("Ulm", "F1", 1, "rest"),
    "fmri-hcp-ya": ("", "", 0, "MOTOR"),
    "fmri-adhd200": ("3", "", 0, "rest"),
    "fmri-bids": ("", "", 0, "rest"),
}
"""Site of the first run, family of the last one, its dropped frames and its task."""


@pytest.mark.parametrize("name", NAMES)
def test_tree_converts_as_planted(name: str, tmp_path: Path, raw: Path) -> None:
    runs = Runs(tmp_path / "download")
    TREES[name](runs)
    report = convert(name, runs.root, dataset_id=700, settings=SMALL)
    assert {record.case: record.status for record in report.records} == dict.fromkeys(runs.patients, "ok"), (
        report.refused
    )
    assert {record.case: record.patient for record in report.records} == runs.patients
    for record in report.records:
        header = read_header(report.folder / record.targets["header"])
        assert header.source_repetition_time == TR
        assert header.shape == (24, 24, 24, FRAMES - header.frames_dropped)
        assert header.mask.startswith("given") == bool(RELEASES[name].label)
        assert (header.displacement is not None) == ("confounds" in record.sources)
    if name in TOLD:
        header = read_header(report.folder / report.records[-1].targets["header"])
        told = (report.records[0].site, report.records[-1].family, header.frames_dropped, header.task)
        assert told == TOLD[name]


@pytest.mark.parametrize(
    ("name", "channel", "cases"),
    [
        ("fmri-hcp-ya", "clean", 2),
        ("fmri-hcp-a", "clean", 1),
        ("fmri-adhd200", "filtered", 1),
        ("fmri-cobre", "raw", 1),
    ],
)
def test_other_runs_on_request(name: str, channel: str, cases: int, tmp_path: Path, raw: Path) -> None:
    runs = Runs(tmp_path / "download")
    TREES[name](runs)
    report = convert(name, runs.root, dataset_id=700, settings=SMALL, channels=[channel], dry_run=True,
                     manifest=tmp_path / "m.json")  # fmt: skip
    assert len(report.good) == cases and all(channel in record.sha256 for record in report.good)
    with pytest.raises(InputError, match="has runs of one channel"):
        convert(name, runs.root, dataset_id=700, channels=["bold", channel])


def test_native_runs_of_the_biobank_are_refused_for_the_template(tmp_path: Path, raw: Path) -> None:
    runs = Runs(tmp_path / "download")
    TREES["fmri-ukb"](runs)
    arguments = {"dataset_id": 700, "channels": ["native"], "dry_run": True, "manifest": tmp_path / "m.json"}
    (record,) = convert("fmri-ukb", runs.root, settings=SMALL, **arguments).refused
    assert "lies in the space of the scanner" in record.reason and "--grid own" in record.reason
    own = RunSettings(spacing=8, time_step=TR, size=24, min_frames=4, grid="own")
    assert not convert("fmri-ukb", runs.root, settings=own, **arguments).refused


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete_and_survives_json(name: str) -> None:
    release = RELEASES[name]
    assert release.licence and release.url and release.citation
    assert Release.from_dict(json.loads(json.dumps(release.as_dict()))) == release
    words = " ".join(release.describe().split())
    for text in (release.title, release.example("bold"), *release.notes):
        assert " ".join(text.split()) in words


def test_another_space_has_its_own_files(tmp_path: Path, raw: Path) -> None:
    runs = Runs(tmp_path / "download")
    TREES["fmri-fmriprep"](runs)
    stem = "sub-01/func/sub-01_task-rest_space-MNI152NLin6Asym"
    for resolution in ("res-1", "res-2"):
        runs.run(f"{stem}_{resolution}_desc-preproc_bold.nii.gz")
        runs.mask(f"{stem}_{resolution}_desc-brain_mask.nii.gz")
    release, dry = find_release("fmri-fmriprep"), {"dataset_id": 700, "dry_run": True, "manifest": tmp_path / "m.json"}
    (record,) = convert(in_space(release, "MNI152NLin6Asym_res-2"), runs.root, settings=SMALL, **dry).records
    assert record.sources["bold"].endswith("6Asym_res-2_desc-preproc_bold.nii.gz") and record.status == "ok"
    assert record.sources["label"].endswith("6Asym_res-2_desc-brain_mask.nii.gz")
    (record,) = convert(in_space(release, "MNI152NLin6Asym"), runs.root, settings=SMALL, **dry).records
    assert "has 2 files for bold" in record.reason and "--space" in record.reason
    with pytest.raises(InputError, match="has no form of BIDS"):
        in_space(release, "MNI/../x")
