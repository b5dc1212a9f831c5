"""Cohorts of converted data sets."""

import csv
import json
import multiprocessing
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

from bdfm_nnunet.dataset_conversion import cohort_masks
from bdfm_nnunet.dataset_conversion.cohort import CohortReport, make_cohort_dataset
from bdfm_nnunet.dataset_conversion.split_checks import check_splits
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.plans import plan_dataset
from tests.conftest import Prepared, point_to, threads_for_spawn
from tests.dataset_conversion.converted import dataset, digest, row, write_files


def _row(case: str, channels: tuple[str, ...], **more: Any) -> dict[str, Any]:
    images = {name: f"imagesTr/{case}_{index:04d}.nii.gz" for index, name in enumerate(channels)}
    hashes = {name: digest(f"{case} {name}") for name in channels}
    return row(case, shape=[7, 6, 5], targets={**images, "label": f"labelsTr/{case}.nii.gz"}, sha256=hashes, **more)


@pytest.fixture
def sources(raw: Path) -> dict[str, Path]:
    """Two tumour data sets, one of one channel; a case of the second is one of the first under another name."""
    first = [_row(f"BraTS-GLI-{n:05d}-000", ("t1c", "t2f"), patient=f"BraTS-GLI-{n:05d}") for n in range(3)]
    second = [_row(f"sub-{n}", ("T1w",), session="1") for n in range(4)]
    second[0]["sha256"] = {"T1w": first[1]["sha256"]["t1c"]}
    folders = {"first": raw / "Dataset011_GLI", "second": raw / "Dataset012_Atlas"}
    for number, (folder, rows, channels) in enumerate(
        [(folders["first"], first, ("t1c", "t2f")), (folders["second"], second, ("T1w",))]
    ):
        write_files(folder, rows, seed=number)
        dataset(folder, rows, channels=channels, release=f"release{number}", licence=f"licence {number}")
    return folders


def _cases(report: CohortReport) -> list[str]:
    return [entry["case"] for entry in report.kept]


def _description(report: CohortReport) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((report.folder / "dataset.json").read_text())
    return content


def test_every_image_is_a_case(sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    report = make_cohort_dataset(40, ["11", sources["second"]], name="All")
    assert report.folder.name == "Dataset040_All"
    assert _cases(report) == [
        *(f"GLI-BraTS-GLI-{n:05d}-000-{channel}" for n in range(3) for channel in ("t1c", "t2f")),
        *(f"Atlas-sub-{n}-T1w" for n in (1, 2, 3)),
    ]
    assert not (report.folder / "imagesTr").exists()
    content = _description(report)
    entry = content["dataset"]["GLI-BraTS-GLI-00002-000-t2f"]
    assert entry["images"] == ["../Dataset011_GLI/imagesTr/BraTS-GLI-00002-000_0001.nii.gz"]
    assert content["channel_names"] == {"0": "mri"} and content["numTraining"] == 9
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    verify_dataset_integrity(str(report.folder), 1)


def test_masks_are_the_brain_of_all_channels_of_a_case(sources: dict[str, Path]) -> None:
    report = make_cohort_dataset(40, [11])
    labels = {entry["source_case"]: entry["label"] for entry in report.kept}
    assert len(list((report.folder / "labelsTr").iterdir())) == 3 == len(set(labels.values()))
    for case, label in labels.items():
        images = [nib.load(path) for path in sorted((sources["first"] / "imagesTr").glob(f"{case}_*"))]
        mask = nib.load(report.folder / label)
        expected = np.any([np.asarray(image.dataobj) != 0 for image in images], axis=0)
        assert 0 < expected.sum() < expected.size
        assert np.array_equal(np.asarray(mask.dataobj), expected) and np.allclose(mask.affine, images[0].affine)


def test_labels_of_unlabelled_sources_are_used_where_they_are(sources: dict[str, Path]) -> None:
    path = sources["second"] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"unlabelled": True}))
    report = make_cohort_dataset(40, [12])
    assert not (report.folder / "labelsTr").exists()
    assert _description(report)["dataset"]["Atlas-sub-2-T1w"]["label"] == "../Dataset012_Atlas/labelsTr/sub-2.nii.gz"


def test_tables_keep_where_everything_is_from(sources: dict[str, Path]) -> None:
    report = make_cohort_dataset(40, [11, 12])
    with (report.folder / "cohort.csv").open(newline="") as stream:
        table = {entry["case"]: entry for entry in csv.DictReader(stream)}
    assert list(table) == [entry["case"] for entry in json.loads((report.folder / "cohort.json").read_text())]
    kept = table["Atlas-sub-1-T1w"]
    assert (kept["dataset"], kept["release"], kept["session"], kept["licence"]) == (
        "Dataset012_Atlas", "release1", "1", "licence 1",
    )  # fmt: skip
    assert kept["patient"] == "release1:sub-1" and json.loads(kept["modality"]) == ["T1w"]
    assert table["Atlas-sub-0-T1w"]["duplicate"] == "GLI-BraTS-GLI-00001-000-t1c"
    assert "1 duplicates left out" in report.summary()
    manifest = read_cases(report.folder)
    assert [r["case"] for r in manifest.rows] == _cases(report)
    assert set(manifest.releases) == {"release0", "release1"}
    assert all((report.folder / path).is_file() for r in manifest.rows for path in r["targets"].values())


def test_splits_keep_patients_together(sources: dict[str, Path]) -> None:
    report = make_cohort_dataset(40, [11, 12])
    splits = json.loads((report.folder / "splits_final.json").read_text())
    for split in splits:
        patients = [{case.rpartition("-")[0] for case in split[part]} for part in ("train", "val")]
        assert not patients[0] & patients[1]
    assert check_splits(report.folder).faults == []


def test_all_channels_must_agree(sources: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"Dataset012_Atlas has the channels T1w but Dataset011_GLI has t1c, t2f"):
        make_cohort_dataset(40, [11, 12], channels="all")
    report = make_cohort_dataset(40, [11], channels="all")
    assert _description(report)["channel_names"] == {"0": "t1c", "1": "t2f"}
    assert len(_description(report)["dataset"]["GLI-BraTS-GLI-00000-000"]["images"]) == 2


def test_channels_of_zeros_are_no_case_of_their_own(sources: dict[str, Path]) -> None:
    path = sources["first"] / "manifest.json"
    content = json.loads(path.read_text())
    del content["cases"][0]["sha256"]["t2f"]
    path.write_text(json.dumps(content))
    assert "GLI-BraTS-GLI-00000-000-t2f" not in _cases(make_cohort_dataset(40, [11]))
    assert len(make_cohort_dataset(41, [11], name="Whole", channels="all").kept) == 3


def test_second_run_writes_only_what_is_missing(sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = cohort_masks.write_mask, []

    def failing(task: cohort_masks.MaskTask) -> cohort_masks.MaskTask:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(task.target.name)
        return write(task)

    monkeypatch.setattr(cohort_masks, "write_mask", failing)
    with pytest.raises(KeyboardInterrupt):
        make_cohort_dataset(40, [11, 12])
    folder = sources["first"].parent / "Dataset040_Cohort"
    assert not (folder / "dataset.json").exists()
    first, written[:] = set(written), []
    monkeypatch.setattr(cohort_masks, "write_mask", lambda task: written.append(task.target.name) or write(task))
    make_cohort_dataset(40, [11, 12])
    assert len(first) == 3 and len(written) == 3 and not first & set(written)  # the duplicate needs no mask
    before = (folder / "dataset.json").read_text()
    mask = folder / "labelsTr" / sorted(first)[0]
    mask.write_bytes(mask.read_bytes()[:50])  # as after a power failure
    written.clear()
    make_cohort_dataset(40, [11, 12])
    assert written == [mask.name] and (folder / "dataset.json").read_text() == before
    assert np.asarray(nib.load(mask).dataobj).any()


def test_workers_change_nothing(sources: dict[str, Path]) -> None:
    folders = [make_cohort_dataset(40 + n, [12], name="Same", workers=n).folder for n in (1, 2)]
    masks = [{path.name: path.read_bytes() for path in (f / "labelsTr").iterdir()} for f in folders]
    assert masks[0] == masks[1] and len(masks[0]) == 4


def test_a_cohort_can_be_a_source(sources: dict[str, Path]) -> None:
    make_cohort_dataset(40, [11], name="Part")
    report = make_cohort_dataset(41, [40, 12], name="Whole")
    direct = make_cohort_dataset(42, [11, 12], name="Direct")
    assert [r["patient"] for r in report.kept] == [r["patient"] for r in direct.kept]
    assert [r["image"] for r in report.kept] == [r["image"] for r in direct.kept]
    assert {r["release"] for r in report.kept} == {"release0", "release1"}


@pytest.mark.parametrize("name", ["dataset.json", "manifest.json"])
def test_half_converted_source(sources: dict[str, Path], name: str) -> None:
    (sources["second"] / name).unlink()
    with pytest.raises(InputError, match=rf"Dataset012_Atlas has no {name}"):
        make_cohort_dataset(40, [11, 12])


def test_missing_image(sources: dict[str, Path]) -> None:
    (sources["second"] / "imagesTr" / "sub-3_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"sub-3_0000.nii.gz of case sub-3 is missing"):
        make_cohort_dataset(40, [12])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((40, [13]), "0 data sets with the number 13"),
        ((40, ["nowhere"]), "neither a data set of"),
        ((40, []), "no source"),
        ((0, [11]), "not possible in nnU-Net"),
        ((11, [12]), "has that number already"),
    ],
)
def test_impossible_settings(sources: dict[str, Path], arguments: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        make_cohort_dataset(*arguments)


def test_converted_data_sets_are_not_overwritten(sources: dict[str, Path]) -> None:
    before = (sources["first"] / "dataset.json").read_bytes()
    with pytest.raises(InputError, match="is a converted data set, no cohort"):
        make_cohort_dataset(11, [12], name="GLI")
    with pytest.raises(InputError, match="cannot be a source of itself"):
        make_cohort_dataset(11, [11], name="GLI")
    assert (sources["first"] / "dataset.json").read_bytes() == before
    for settings in ({"name": "a/b"}, {"channels": "some"}):
        with pytest.raises(InputError):
            make_cohort_dataset(40, [11], **settings)  # type: ignore[arg-type]


def test_cohort_is_planned_and_preprocessed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(tmp_path, monkeypatch)
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    both = [prepared.folder("nnUNet_raw", number) for number in (prepared.unlabelled, prepared.labelled)]
    report = make_cohort_dataset(560, both)
    assert len(report.kept) == 24 and {r["dataset"] for r in report.kept} == {both[0].name}
    plan_dataset(560, network="swin", gpu_memory=0.05, workers=1)
    folder = tmp_path / "nnUNet_preprocessed" / report.folder.name
    assert len(list(folder.glob("*/*_seg.b2nd"))) == 24
    assert (folder / "manifest.json").read_bytes() == (report.folder / "manifest.json").read_bytes()


# ----------------------------------------------------------------------------------- manifests that somebody else wrote


def _changed(folder: Path, change: Any) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def _case_ids(prefix: str) -> Any:
    return lambda content: [row.update(case=prefix + row["case"]) for row in content["cases"]]


def _every_row(**fields: Any) -> Any:
    return lambda content: [row.update(fields) for row in content["cases"]]


@pytest.mark.parametrize(
    "change",
    [
        _case_ids("../../../../escape"), _case_ids("/tmp/escape/"), _case_ids("x" * 190),
        _every_row(targets={"t1c": "/etc/passwd", "label": "/etc/passwd"}), _every_row(targets={}),
        _every_row(targets={"t1c": "imagesTr/a_0000.nii.gz"}), _every_row(targets={"label": "labelsTr/a.nii.gz"}),
        _every_row(shape="x"), _every_row(patient=None),
        lambda content: [row.pop("sha256") for row in content["cases"]],
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_a_sentence_and_writes_nothing(change: Any, sources: dict[str, Path], raw: Path) -> None:
    _changed(sources["first"], change)
    before = sorted(raw.parent.rglob("*"))
    with pytest.raises(InputError, match=r"manifest\.json|case id of"):
        make_cohort_dataset(40, [11])
    assert sorted(raw.parent.rglob("*")) == before


def test_all_channels_must_be_those_of_dataset_json(sources: dict[str, Path]) -> None:
    _changed(sources["first"], lambda content: content["cases"][1]["targets"].pop("t2f"))
    with pytest.raises(InputError, match=r"has the images t1c, but dataset\.json names t1c, t2f"):
        make_cohort_dataset(40, [11], channels="all")


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "5", "{}", '{"channel_names": 5}'])
def test_a_source_with_another_dataset_json_is_a_sentence(content: str, sources: dict[str, Path]) -> None:
    (sources["first"] / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json"):
        make_cohort_dataset(40, [11])


def test_a_source_named_twice_is_refused(sources: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="Dataset011_GLI is named twice"):
        make_cohort_dataset(40, [11, sources["first"]])


def test_test_cases_that_take_no_part_are_told(sources: dict[str, Path]) -> None:
    _changed(sources["first"], lambda content: content["cases"][0].update(part="test"))
    assert "note: 1 test cases of Dataset011_GLI take no part" in make_cohort_dataset(40, [11]).summary()


def test_a_journal_of_any_content_writes_masks_anew_and_nothing_elsewhere(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    report = make_cohort_dataset(40, [11])
    whole = {path: path.read_bytes() for path in report.folder.rglob("*.nii.gz")}
    victim = tmp_path / "victim"
    for content in (
        b"[" * 100_000,
        b"\xff",
        b"5",
        b'{"a": 1}',
        b'[["x"], 5]',
        b'["a"]',
        b'["a", 5]',
        b'["a", [["x"]]]',
    ):
        victim.write_bytes(content)
        (report.folder / ".cohort.jsonl").unlink()
        (report.folder / ".cohort.jsonl").symlink_to(victim)
        make_cohort_dataset(40, [11])
        assert victim.read_bytes() == content
        assert {path: path.read_bytes() for path in report.folder.rglob("*.nii.gz")} == whole


def test_formulas_in_ids_are_escaped(sources: dict[str, Path]) -> None:
    _changed(sources["first"], _every_row(patient="=1+1", session="@SUM(1)"))
    report = make_cohort_dataset(40, [11])
    with (report.folder / "cohort.csv").open(newline="") as stream:
        cells = [cell for line in csv.reader(stream) for cell in line]
    assert "'@SUM(1)" in cells and not [cell for cell in cells if cell[:1] in "=+@" and cell]
