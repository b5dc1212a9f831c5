"""What checkpoints have seen, compared with data sets."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PublicBdfmReader
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import PUBLIC_BDFM, Exposure, ExposureReport, compare, describe_run, exposure_report, parts_of
from bdfm_nnunet.patients import CaseList, groups
from tests.conftest import point_to
from tests.dataset_conversion.converted import dataset, digest, row

NO_CASES: dict[str, list[Any]] = {key: [] for key in ("case", "patient", "release", "aliases", "sha256")}
WEIGHTS = {"network_weights": {"encoder.a": torch.ones(2)}}


def _cases(rows: list[dict[str, Any]], *, release: str = "brats2023-gli", overlaps: tuple[str, ...] = ()) -> CaseList:
    return CaseList(
        "Dataset100_Seen", release, rows, content={"release": release, "overlaps": overlaps, "licence": "L"}
    )


def _save(path: Path, cases: CaseList, *, val: tuple[str, ...] = ()) -> Path:
    train = [r["case"] for r in cases.rows if r["case"] not in val]
    exposure = Exposure().then(describe_run(cases, train=train, val=val, trainer="T", weights={}))
    torch.save({**WEIGHTS, EXPOSURE: exposure.as_dict()}, path)
    return path


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return point_to(tmp_path, monkeypatch) / "nnUNet_raw"


def _found(report: ExposureReport) -> dict[str, tuple[str, ...]]:
    return {finding.case: finding.by for finding in report.findings}


# ------------------------------------------------------------------------------------------------------- comparing


def test_every_kind_of_evidence(tmp_path: Path, raw: Path) -> None:
    seen = [
        row("BraTS-GLI-00001-000", "BraTS-GLI-00001"),
        row("BraTS-GLI-00002-000", "BraTS-GLI-00002"),
        row("BraTS-GLI-00003-000", "BraTS-GLI-00003", aliases=["UCSF-PDGM-0044"]),
        row("BraTS-GLI-00004-000", "BraTS-GLI-00004"),
    ]
    checkpoint = _save(tmp_path / "a.pth", _cases(seen), val=("BraTS-GLI-00002-000",))
    own = [
        row("BraTS-GLI-00001-100", "BraTS-GLI-00001"),
        row("other-a-1", "other-a", sha256={"t1c": seen[1]["sha256"]["t1c"]}),
        row("other-a-2", "other-a"),
        row("ucsf-pdgm-44", "ucsf-pdgm-44", part="test"),
        row("other-b", part="test"),
        row("free-a"),
        row("free-b", part="test"),
    ]
    dataset(raw / "Dataset200_Own", own, release="brats2024-gli", overlaps=[])
    table = tmp_path / "aliases.csv"
    table.write_text("mine,theirs\nOTHER-B,brats-gli-4,somebody\n")
    report = exposure_report(checkpoint, 200, aliases=table)
    assert _found(report) == {
        "BraTS-GLI-00001-100": ("patient",), "other-a-1": ("content",), "other-a-2": ("related",),
        "ucsf-pdgm-44": ("alias",), "other-b": ("alias",),
    }  # fmt: skip
    assert {f.case: f.seen for f in report.findings}["other-a-1"] == "validation"
    assert report.counts == {"test": 3, "cross-validation": 4}
    without = exposure_report(checkpoint, 200)
    assert set(_found(report)) - set(_found(without)) == {"other-b"}
    text = report.summary()
    assert "test: 2 of 3 cases seen" in text and "its t1c image is one of BraTS-GLI-00002-000 (validation case" in text
    assert json.loads(json.dumps(report.as_dict()))["findings"][0]["evidence"]


@pytest.mark.parametrize("seed", range(15))
def test_cases_found_are_those_that_share_a_group_with_one_seen(seed: int) -> None:
    draw = random.Random(seed)

    def rows(prefix: str) -> list[dict[str, Any]]:
        return [
            row(
                f"{prefix}case{n}x",
                f"Pat{draw.randrange(40)}xy",
                aliases=[f"also{draw.randrange(60)}xy"] * draw.randrange(2),
                sha256={"t1": digest(str(draw.randrange(80)))},
            )
            for n in range(draw.randrange(1, 25))
        ]

    seen, own = rows("s"), rows("o")
    exposure = Exposure().then(describe_run(_cases(seen), train=[r["case"] for r in seen], val=[]))
    report = compare(exposure, _cases(own), {r["case"]: "test" for r in own}, checkpoint="c")
    group = groups([*seen, *own])
    expected = {r["case"] for r in own if any(group[r["case"]] == group[s["case"]] for s in seen)}
    assert set(_found(report)) == expected


def test_keys_without_meaning_are_not_compared_over_releases(tmp_path: Path, raw: Path) -> None:
    checkpoint = _save(tmp_path / "a.pth", _cases([row("7", sha256={})], release="mrbrains13"))
    dataset(raw / "Dataset200_Other", [row("7", sha256={})], release="mrbrains18", overlaps=[])
    dataset(raw / "Dataset201_Same", [row("07", sha256={})], release="mrbrains13", overlaps=[])
    assert not exposure_report(checkpoint, 200).findings
    assert _found(exposure_report(checkpoint, 201)) == {"07": ("patient",)}
    table = tmp_path / "aliases.csv"
    table.write_text("mrbrains13:7,mrbrains18:7\n")
    assert _found(exposure_report(checkpoint, 200, aliases=table)) == {"7": ("alias",)}


def test_fold_tells_validation_from_training(tmp_path: Path, raw: Path) -> None:
    rows = [row(f"BraTS-GLI-{n:05d}") for n in range(4)]
    checkpoint = _save(tmp_path / "a.pth", _cases(rows[:2]))
    folder = dataset(raw / "Dataset200_Own", [*rows, row("unseen-test", part="test")])
    splits = [{"train": [r["case"] for r in rows[1:]], "val": [rows[0]["case"]]}]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    report = exposure_report(checkpoint, 200, fold=0)
    assert {f.case: f.part for f in report.findings} == {rows[0]["case"]: "validation", rows[1]["case"]: "training"}
    assert report.counts == {"test": 1, "training": 3, "validation": 1}
    assert "1 of 1 validation cases (BraTS-GLI-00000)" in report.warning() and "training cases" not in report.warning()
    with pytest.raises(InputError, match="so there is no fold 1"):
        exposure_report(checkpoint, 200, fold=1)


def test_releases_that_share_scans_are_possible(tmp_path: Path, raw: Path) -> None:
    seen = [row("BraTS-GLI-00001")]
    dataset(raw / "Dataset200_Own", [row("BraTS2021_00001"), row("BraTS2021_00002")])  # says: overlaps brats2023-gli
    report = exposure_report(_save(tmp_path / "a.pth", _cases(seen)), 200)
    assert not report.findings
    assert (
        report.possible[0].startswith("brats2021 shares scans with brats2023-gli") and "2 further" in report.possible[0]
    )
    other = _save(tmp_path / "b.pth", _cases(seen, release="atlas-r2", overlaps=("brats2021",)))
    assert len(exposure_report(other, 200).possible) == 1
    assert not exposure_report(_save(tmp_path / "c.pth", _cases(seen, release="atlas-r2")), 200).possible


def test_checkpoint_without_exposure_says_nothing(tmp_path: Path, raw: Path) -> None:
    dataset(raw / "Dataset200_Own", [row("a-b")])
    torch.save(WEIGHTS, tmp_path / "a.pth")
    report = exposure_report(tmp_path / "a.pth", 200)
    assert not report.findings and "says nothing about the cases it was trained on" in report.summary()
    assert report.record == "none"
    assert "cross-validation: unknown for all 1 cases" in report.summary() and "0 of 1" not in report.summary()
    torch.save({**WEIGHTS, EXPOSURE: {"format": 99}}, tmp_path / "b.pth")
    assert "a form that this version does not know" in exposure_report(tmp_path / "b.pth", 200).summary()


def test_public_bdfm_checkpoint_has_seen_brats_2023(tmp_path: Path, raw: Path) -> None:
    content = {"conv3d_transpose_1.weight": torch.ones(1), "encoder.patch_embed.proj.weight": torch.ones(1)}
    torch.save({"state_dict": content}, tmp_path / "a.pt")
    dataset(raw / "Dataset200_Gli", [row("BraTS-GLI-1"), row("BraTS-GLI-2", part="test")], release="brats2023-gli")
    dataset(raw / "Dataset201_Msd", [row("BRATS_001")], release="msd-brain-tumour")
    dataset(raw / "Dataset202_Old", [row("BraTS2021_00001")], release="brats2021", overlaps=["brats2023-gli"])
    dataset(raw / "Dataset203_Isles", [row("sub-strokecase0001")], release="topcow2024", overlaps=[])
    assert _found(exposure_report(tmp_path / "a.pt", 200)) == {"BraTS-GLI-1": ("release",), "BraTS-GLI-2": ("release",)}
    assert "inferred" in exposure_report(tmp_path / "a.pt", 201).findings[0].evidence[0]
    assert "brats2021 shares scans with brats2023-gli" in exposure_report(tmp_path / "a.pt", 202).possible[0]
    other = exposure_report(tmp_path / "a.pt", 203)
    assert not other.findings and not other.possible and "lists no cases" in other.notes[0]


def test_data_set_without_manifest_is_compared_by_case_ids(tmp_path: Path, raw: Path) -> None:
    checkpoint = _save(tmp_path / "a.pth", _cases([row("BraTS-GLI-00001-000")]))
    folder = dataset(raw / "Dataset200_Own", [])
    (folder / "manifest.json").unlink()
    (folder / "labelsTr").mkdir()
    (folder / "labelsTr" / "brats-gli-1-0.nii.gz").touch()
    report = exposure_report(checkpoint, 200)
    assert _found(report) == {"brats-gli-1-0": ("patient",)} and "no manifest.json" in report.notes[0]
    assert "at least 1 of 1 cases seen" in report.summary()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_unreadable_table(tmp_path: Path, raw: Path, content: bytes | None) -> None:
    dataset(raw / "Dataset200_Own", [row("a-b")])
    if content is not None:
        (tmp_path / "aliases.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"aliases\.csv (does not exist|is no table)"):
        exposure_report(_save(tmp_path / "a.pth", _cases([])), 200, aliases=tmp_path / "aliases.csv")


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_tables_of_every_program(tmp_path: Path, raw: Path, mark: str, encoding: str) -> None:
    checkpoint = _save(tmp_path / "a.pth", _cases([row(f"alpha-{number:02d}") for number in range(3)]))
    dataset(raw / "Dataset200_Own", [row(f"hosp{number}") for number in range(3)], release="own")
    rows = "".join(f"alpha-{number:02d}{mark}hosp{number}\r\n" for number in range(2))
    (tmp_path / "aliases.csv").write_bytes(rows.encode(encoding))
    report = exposure_report(checkpoint, 200, aliases=tmp_path / "aliases.csv")
    assert _found(report) == {"hosp0": ("alias",), "hosp1": ("alias",)}
    assert "of 2 rows 2 name a patient of Dataset200_Own, 2 one that was seen, 2 both" in report.notes[-1]


def test_a_table_that_was_not_understood_is_no_clean_bill(tmp_path: Path, raw: Path) -> None:
    checkpoint = _save(tmp_path / "a.pth", _cases([row("alpha-00")]))
    dataset(raw / "Dataset200_Own", [row("hosp0")], release="own")
    table = tmp_path / "aliases.csv"
    for content in ("", "alpha-00\nhosp0\n", "alpha-00/hosp0\n", "alpha-00,Alpha-0\n"):
        table.write_text(content)
        with pytest.raises(InputError, match="no row with two ids"):
            exposure_report(checkpoint, 200, aliases=table)
    table.write_text("beta-00,gamma7\n")
    with pytest.raises(InputError, match="no case or patient that Dataset200_Own or the checkpoint knows"):
        exposure_report(checkpoint, 200, aliases=table)
    table.write_text("alpha-00,hosp0\nalone,\n")
    report = exposure_report(checkpoint, 200, aliases=table)
    assert report.findings and "nothing can be learnt from 1 rows with a single id (alone)" in report.notes[-1]


def test_unknown_ancestors_are_never_none_seen(tmp_path: Path, raw: Path) -> None:
    dataset(raw / "Dataset200_Own", [row("a-b"), row("c-d")], release="own")
    run = _cases([row("a-b")], release="own")
    exposure = Exposure.of(None, named="old.pth").then(describe_run(run, train=["a-b"], val=[]))
    torch.save({**WEIGHTS, EXPOSURE: exposure.as_dict()}, tmp_path / "a.pth")
    report = exposure_report(tmp_path / "a.pth", 200)
    assert report.record == "partial" and "at least 1 of 2 cases seen" in report.summary()
    assert "old.pth says nothing" in report.summary()
    known = Exposure().then(describe_run(run, train=["a-b"], val=[]))
    torch.save({**WEIGHTS, EXPOSURE: known.as_dict()}, tmp_path / "b.pth")
    assert exposure_report(tmp_path / "b.pth", 200).record == "complete"


@pytest.mark.parametrize(
    "stored",
    [
        5,
        {"format": 1, "runs": 5},
        {"format": 1, "runs": [5]},
        {"format": 1, "runs": [{"releases": [1]}]},
        {"format": 1, "runs": [{"whole": 5}]},
        {"format": 1, "runs": [{"perhaps": {"a": 1}}]},
        {"format": 1, "runs": [{"train": dict.fromkeys(("case", "patient", "release", "aliases", "sha256"), 5)}]},
        {"format": 1, "runs": [{"train": {key: [5] for key in ("case", "patient", "release", "aliases", "sha256")}}]},
        {"format": 1, "runs": [{"train": {"case": ["a"]}}]},
        {"format": 1, "runs": [{"train": {**NO_CASES, "case": ["a", "b"], "patient": ["a"]}}]},
        {"format": 1, "runs": [{"note": 5}]},
        {"format": 1, "runs": [{"note": "half a character \udcff"}]},
        {"format": 1, "runs": [{"dataset": "\x1b[2J"}]},
        {"format": 1, "runs": [{"dataset": ["a"]}]},
        {"format": 1, "runs": [{"weights": {"name": 5}}]},
    ],
)
def test_odd_entries_are_noted(tmp_path: Path, raw: Path, stored: object) -> None:
    dataset(raw / "Dataset200_Own", [row("a-b")])
    torch.save({**WEIGHTS, EXPOSURE: stored}, tmp_path / "a.pth")
    report = exposure_report(tmp_path / "a.pth", 200)
    assert report.record == "none" and "a form that this version does not know" in report.summary()


# ---------------------------------------------------------------------------------------------------------- record


def test_chain_of_trainings_is_kept() -> None:
    first = describe_run(_cases([row("a-b")]), train=["a-b"], val=[], trainer="first")
    second = describe_run(_cases([row("c-d")]), train=["c-d"], val=[], trainer="second")
    both = Exposure.of(Exposure().then(first).as_dict()).then(second)
    assert [run["trainer"] for run in both.runs] == ["first", "second"]
    found = compare(both, _cases([row("a-b"), row("c-d")]), {"a-b": "test", "c-d": "test"}, checkpoint="c")
    assert set(_found(found)) == {"a-b", "c-d"}
    unknown = Exposure.of(None, named="x.pth").then(second)
    assert unknown.runs[0]["ancestors"] == "x.pth says nothing about the cases it was trained on"
    public = PublicBdfmReader().origin({}).exposure
    assert Exposure.of(public).then(second).runs[0] == PUBLIC_BDFM


def test_counted_runs_name_numbers_in_the_place_of_cases() -> None:
    lists = {"case": ["a", "b"], "patient": ["a", "b"]}
    seen = Exposure(({"dataset": "D", "train": lists, "val": {"case": []}}, {"dataset": "E"}), "more may be known")
    assert seen.counted() == {
        "runs": [{"dataset": "D", "train": 2, "val": 0}, {"dataset": "E"}],
        "note": "more may be known",
    }
    assert seen.runs[0]["train"] == lists and Exposure().counted() == {"runs": [], "note": None}


def test_cases_that_the_manifest_does_not_know_are_kept_by_id() -> None:
    run = describe_run(_cases([row("a-b", "P-a", aliases=["x"])]), train=["a-b", "new"], val=["other"])
    assert run["train"]["case"] == ["a-b", "new"] and run["train"]["patient"] == ["P-a", "new"]
    assert run["train"]["aliases"] == [["x"], []] and run["train"]["sha256"] == [[digest("a-b")], []]
    assert run["val"]["case"] == ["other"] and run["releases"] == {"brats2023-gli": {"licence": "L", "overlaps": []}}


def test_parts_of_a_fold() -> None:
    cases = _cases([row("a"), row("b"), row("c", part="test")])
    assert parts_of(cases, ["a"], ["b"]) == {"c": "test", "a": "training", "b": "validation"}


def test_fifteen_thousand_cases_are_small_and_fast(tmp_path: Path) -> None:
    channels = ("t1n", "t1c", "t2w", "t2f")
    rows = [
        row(f"BraTS-GLI-{n:05d}-000", f"BraTS-GLI-{n:05d}", sha256={c: digest(f"{n}{c}") for c in channels})
        for n in range(15_300)
    ]
    path = _save(tmp_path / "a.pth", _cases(rows))
    assert path.stat().st_size < 10_000_000
    begin = time.process_time()
    checkpoint = read_checkpoint(path)
    assert time.process_time() - begin < 5
    exposure = Exposure.of_checkpoint(checkpoint)
    assert exposure.runs[0]["train"]["case"] == [r["case"] for r in rows]
    report = compare(
        exposure, _cases(rows[::100]), dict.fromkeys((r["case"] for r in rows[::100]), "test"), checkpoint="c"
    )
    assert len(report.findings) == 153 and time.process_time() - begin < 10


def test_plain_types_alone(tmp_path: Path) -> None:
    path = _save(tmp_path / "a.pth", _cases([row("a-b", aliases=["x"])]))
    stored = torch.load(path, weights_only=True)[EXPOSURE]
    assert json.loads(json.dumps(stored)) == stored


def test_table_of_the_summary_can_be_long() -> None:
    rows = [row(f"case-of-{n}x") for n in range(9)]
    exposure = Exposure().then(describe_run(_cases(rows), train=[r["case"] for r in rows], val=[]))
    report = compare(exposure, _cases(rows), {r["case"]: "test" for r in rows}, checkpoint="c")
    assert "and 4 more" in report.summary() and "and 4 more" in report.warning()
