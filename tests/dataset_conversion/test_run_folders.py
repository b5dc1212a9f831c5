"""A folder of runs: manifest, table, splits by family, and a second run that does what is missing."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.dataset_conversion import run_folders
from bdfm_nnunet.dataset_conversion.cohort import make_cohort_dataset
from bdfm_nnunet.dataset_conversion.reading.functional_layout import fmri_folder_release
from bdfm_nnunet.dataset_conversion.run_folders import convert_runs
from bdfm_nnunet.dataset_conversion.run_settings import RunSettings
from bdfm_nnunet.dataset_conversion.splits import make_splits
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.run_conversion import convert_run
from bdfm_nnunet.dataset_conversion.writing.run_order import RunOrder
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.table_files import read_table
from tests.dataset_conversion.run_trees import TR, Runs, confounds, frames, save

SMALL = RunSettings(spacing=16, time_step=TR, size=12, min_frames=4)
RELEASE = fmri_folder_release("{case}_bold", confounds="{case}.tsv", patient=r"^(s\d+)", template=True)


def _download(root: Path, subjects: int = 4) -> Path:
    runs = Runs(root)
    for subject in range(subjects):
        runs.run(f"s{subject}_run1_bold.nii.gz")
    runs.run("s0_run2_bold.nii.gz")
    runs.text("s1_run1.tsv", confounds(displacement=0.3))
    return root


def _convert(root: Path, **more: Any) -> Any:
    return convert_runs(RELEASE, root, **{"dataset_id": 700, "settings": SMALL, **more})


def _count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def counting(order: RunOrder) -> CaseRecord:
        done.append(order.case)
        return convert_run(order)

    monkeypatch.setattr(run_folders, "convert_run", counting)
    return done


def test_manifest_table_and_dataset_json(tmp_path: Path, raw: Path) -> None:
    root = _download(tmp_path / "download")
    save(root / "s9_run1_bold.nii.gz", frames()[..., 0])
    report = _convert(root)
    assert [record.case for record in report.refused] == ["s9_run1"]
    manifest = read_json(report.manifest)
    row = manifest["cases"][0]
    assert (row["patient"], row["shape"], row["spacing"], row["orientation"]) == (
        "s0",
        [23, 27, 23, 14],
        [8, 8, 8],
        "LAS",
    )
    assert row["targets"] == {
        "bold": "sequencesTr/s0_run1.b2nd", "label": "sequencesTr/s0_run1_mask.b2nd",
        "header": "sequencesTr/s0_run1.json",
    }  # fmt: skip
    assert len({row["sha256"]["bold"] for row in manifest["cases"] if row["sha256"]}) == 5
    header, *rows = read_table(report.folder / "runs.csv")
    table = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    assert len(table) == 5 and table["s1_run1"]["displacement"] == "0.3" and table["s2_run1"]["displacement"] == ""
    content = read_json(report.folder / "dataset.json")
    assert content["numTraining"] == 5 and content["sequences"] == {
        "spacing": 16.0, "repetition_time": TR, "standardised": "run", "store": "float16",
        "shapes": [[12, 12, 12]], "frames": [14, 14],
    }  # fmt: skip
    assert any("of 5 of 5 runs were derived" in note for note in report.notes)
    assert SequenceCases(report.folder).cases == tuple(sorted(table))
    cases = read_cases(report.folder)
    assert {row["case"] for row in cases.rows} == set(table)


def test_int8_prints_its_error(tmp_path: Path, raw: Path) -> None:
    settings = RunSettings(spacing=16, time_step=TR, size=12, min_frames=4, store="int8")
    report = _convert(_download(tmp_path / "download", 1), settings=settings)
    (note,) = [note for note in report.notes if note.startswith("int8 changes voxels by up to")]
    worst = max(SequenceCases(report.folder).header(case).largest_error for case in ("s0_run1", "s0_run2"))
    assert f"{worst:g} standard" in note and worst > 0.001


def test_the_command_prints_what_it_did(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _download(tmp_path / "download", 1)
    save(root / "s9_run1_bold.nii.gz", frames(), tr=60)
    options = (
        "--image bold={case}_bold --grid template --spacing 16 --size 12 --time-step 1.6 --min-frames 4 --store int8"
    )
    assert main(["convert", "fmri-folder", str(root), "-d", "700", *options.split(), "--workers", "1"]) == 3
    printed = capsys.readouterr().out
    assert "2 ok, 0 repaired, 1 refused" in printed and "refused s9_run1: the time between frames" in printed
    assert "note: int8 changes voxels by up to" in printed
    with pytest.raises(InputError, match="holds 4-D runs, of which no cohort"):
        make_cohort_dataset(701, [700])


def test_families_stay_on_one_side(tmp_path: Path, raw: Path) -> None:
    """Runs of a subject, and subjects of a family, which a table names in another form of their ids."""
    root = _download(tmp_path / "download", 6)
    (tmp_path / "families.csv").write_text("Subject,Family_ID\nsub-s0,F1\nsub-s1,F2\nsub-s2,F1\nsub-s3,F3\nsub-s4,F4\n")
    report = _convert(root, families=tmp_path / "families.csv")
    assert {record.patient: record.family for record in report.records} == {
        "s0": "F1", "s1": "F2", "s2": "F1", "s3": "F3", "s4": "F4", "s5": "",
    }  # fmt: skip
    for seed in range(5):
        make_splits(report.folder, folds=3, seed=seed, overwrite=True)
        for fold in read_json(report.folder / "splits_final.json"):
            sides = [{case[:2] for case in fold[part]} & {"s0", "s2"} for part in ("train", "val")]
            assert sorted(map(len, sides)) == [0, 2]
    with pytest.raises(InputError, match=r"families\.csv knows no patient"):
        (tmp_path / "families.csv").write_text("Subject,Family_ID\nx,F1\n")
        _convert(root, families=tmp_path / "families.csv")


def test_a_second_run_does_what_is_missing(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _download(tmp_path / "download")
    first = _convert(root)
    done = _count(monkeypatch)
    assert _convert(root).records == first.records and not done
    (first.folder / "sequencesTr/s1_run1_mask.b2nd").unlink()
    save(root / "s2_run1_bold.nii.gz", frames(77))
    (root / "s3_run1.tsv").write_text(confounds())  # a table that was not there
    _convert(root)
    assert done == ["s1_run1", "s2_run1", "s3_run1"]
    done.clear()
    _convert(root, settings=RunSettings(spacing=16, time_step=TR, size=10, min_frames=4))
    assert len(done) == 5 and SequenceCases(first.folder).header("s0_run1").shape[0] == 10


KILLED = """
import os, signal, sys
from pathlib import Path
from bdfm_nnunet.dataset_conversion.writing import run_conversion
from tests.dataset_conversion.test_run_folders import _convert

write, times = run_conversion.write_mask, []

def dying(path, mask):
    times.append(path)
    if len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, mask)

run_conversion.write_mask = dying
_convert(Path(sys.argv[1]))
"""


def test_kill_in_the_middle(tmp_path: Path, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _download(tmp_path / "download", 2)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", KILLED, str(root)], check=False, env=environment)
    assert result.returncode == -signal.SIGKILL
    folder = raw / "Dataset700_FMRI"
    assert not (folder / "dataset.json").exists()
    assert [path.name for path in folder.glob("sequencesTr/*.json")] == ["s0_run1.json"]
    done = _count(monkeypatch)
    _convert(root)
    assert done == ["s0_run2", "s1_run1"]
    names = sorted(path.name for path in folder.glob("sequencesTr/*"))
    assert len(names) == 9 and not any(name.startswith(".") for name in names)


def test_a_dry_run_writes_the_manifest_alone(tmp_path: Path, raw: Path) -> None:
    root = _download(tmp_path / "download", 2)
    report = _convert(root, dry_run=True, manifest=tmp_path / "m.json", only="s0_.*")
    assert len(report.good) == 2 and read_json(tmp_path / "m.json")["counts"]["ok"] == 2
    assert not list(raw.iterdir())


def test_one_run_under_two_names_is_one_patient(tmp_path: Path, raw: Path) -> None:
    """By the hash of its values, as for volumes."""
    root = _download(tmp_path / "download", 3)
    (root / "s8_run1_bold.nii.gz").write_bytes((root / "s1_run1_bold.nii.gz").read_bytes())
    report = make_splits(_convert(root).folder, folds=3, overwrite=True)
    assert report.patients == 3 and report.shared == [("s1_run1", "s8_run1")]


def test_an_id_that_ends_like_a_mask_is_refused(tmp_path: Path, raw: Path) -> None:
    root = tmp_path / "download"
    Runs(root).run("s1_mask_bold.nii.gz")
    (record,) = _convert(root).refused
    assert "cannot be the name of a file (it ends like that of a brain mask)" in record.reason


def test_real_scans(tmp_path: Path, raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two 4-D scans that nibabel ships: a slab of EPI, and one whose header calls milliseconds seconds."""
    shipped = Path(nibabel.__file__).parent / "tests" / "data"
    root = tmp_path / "download"
    root.mkdir()
    for name in ("functional.nii", "example4d.nii.gz"):
        (root / name).write_bytes((shipped / name).read_bytes())
    options = ["--spacing", "8", "--size", "0", "--time-step", "2", "--min-frames", "2", "--workers", "1"]
    command = ["convert", "fmri-folder", str(root), "-d", "700", *options]
    assert main(command) == 3
    told = capsys.readouterr()
    assert "1 ok" in told.out and "example4d" in told.out and "--tr 2" in told.out
    cases = SequenceCases(raw / "Dataset700_FMRI")
    assert cases.cases == ("functional",)
    header = cases.header("functional")
    assert header.shape[3] == header.source_frames == 20 and header.source_repetition_time == 2
    assert header.affine[0][0] > 0 and header.affine[1][1] > 0  # to the right and to the front
    clip, brain = cases.clip("functional", 0, 20), cases.mask("functional")
    assert np.abs(clip[brain].mean()) < 0.01 and np.abs(clip[brain].std() - 1) < 0.01
    assert np.corrcoef(clip[brain].T).min() > 0.9  # frames of one head are alike
    assert main([*command, "--tr", "2"]) == 0
    assert SequenceCases(raw / "Dataset700_FMRI").header("example4d").shape[3] == 2
