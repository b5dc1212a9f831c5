"""A second run finishes what the first one began, and trusts nothing that is half done."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.dataset_conversion import conversion, convert
from bdfm_nnunet.dataset_conversion.splits import make_splits
from bdfm_nnunet.dataset_conversion.writing import case_conversion, case_order, case_record
from bdfm_nnunet.dataset_conversion.writing.folder_lock import only_writer
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json

GLI = "brats2023-gli"
KILLED_IN_THE_MIDDLE = """
import os, signal, sys
from bdfm_nnunet.dataset_conversion import convert
from bdfm_nnunet.dataset_conversion.writing import case_conversion

place, placed = case_conversion.place_file, []

def dying(*args, **settings):
    place(*args, **settings)
    placed.append(args)
    if len(placed) == {files}:
        args[1].with_name(f".{{os.getpid()}}.partial.{{args[1].name}}").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

case_conversion.place_file = dying
convert("brats2023-gli", sys.argv[1], dataset_id=501)
"""


def _count_cases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def counting(task: case_order.CaseOrder) -> case_record.CaseRecord:
        done.append(task.case)
        return case_conversion.convert_case(task)

    monkeypatch.setattr(conversion, "convert_case", counting)
    return done


def test_kill_in_the_middle(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tree.add(patient) for patient in range(5)]
    tree.file(names[1], "seg").unlink()
    undisturbed = convert(GLI, tree.root, dataset_id=501)
    contents = {path.name: path.read_bytes() for path in undisturbed.folder.rglob("*") if path.is_file()}
    shutil.rmtree(undisturbed.folder)

    script = KILLED_IN_THE_MIDDLE.format(files=5 + 3)  # one case whole, one refused, three files of the third
    result = subprocess.run([sys.executable, "-c", script, str(tree.root)], check=False)
    assert result.returncode == -signal.SIGKILL
    folder = undisturbed.folder
    assert not (folder / "dataset.json").exists()
    assert list(folder.rglob("*.partial.*"))

    done = _count_cases(monkeypatch)
    convert(GLI, tree.root, dataset_id=501)
    assert done == names[1:]  # the refused one is looked at again
    journal = ".conversion.jsonl"  # holds times
    after = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert contents.pop(journal) and after.pop(journal)
    assert after == contents


def test_nothing_is_done_twice(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for patient in range(3):
        tree.add(patient)
    first = convert(GLI, tree.root, dataset_id=501)
    done = _count_cases(monkeypatch)
    second = convert(GLI, tree.root, dataset_id=501)
    assert not done
    assert second.records == first.records
    assert read_json(second.folder / "dataset.json")["numTraining"] == 3


def test_changed_source_is_done_anew(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tree.add(patient) for patient in range(3)]
    before = convert(GLI, tree.root, dataset_id=501).records
    tree.add(1)  # the same case with other voxels
    done = _count_cases(monkeypatch)
    after = convert(GLI, tree.root, dataset_id=501).records
    assert done == [names[1]]
    assert [old.sha256 == new.sha256 for old, new in zip(before, after)] == [True, False, True]


@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_damaged_target_is_done_anew(damage: str, tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tree.add(patient) for patient in range(2)]
    folder = convert(GLI, tree.root, dataset_id=501).folder
    target = folder / f"imagesTr/{names[1]}_0002.nii.gz"
    whole = target.read_bytes()
    target.write_bytes(whole[:-10]) if damage == "cut" else target.unlink()
    done = _count_cases(monkeypatch)
    convert(GLI, tree.root, dataset_id=501)
    assert done == [names[1]] and target.read_bytes() == whole


def test_case_that_went_bad_leaves_the_data_set(tree: Any, raw: Path) -> None:
    names = [tree.add(patient) for patient in range(3)]
    convert(GLI, tree.root, dataset_id=501)
    path = tree.file(names[0], "t1c")
    path.write_bytes(path.read_bytes()[:-30])
    report = convert(GLI, tree.root, dataset_id=501)
    assert [record.case for record in report.refused] == [names[0]]
    assert not list(report.folder.rglob(f"{names[0]}*.nii.gz"))
    assert read_json(report.folder / "dataset.json")["numTraining"] == 2


def test_repaired_download_enters_the_data_set(tree: Any, raw: Path) -> None:
    names = [tree.add(patient) for patient in range(2)]
    tree.file(names[1], "seg").rename(tree.root / "away")
    assert len(convert(GLI, tree.root, dataset_id=501).refused) == 1
    (tree.root / "away").rename(tree.file(names[1], "seg"))
    report = convert(GLI, tree.root, dataset_id=501)
    assert not report.refused and read_json(report.folder / "dataset.json")["numTraining"] == 2


def test_torn_journal(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [tree.add(patient) for patient in range(2)]
    folder = convert(GLI, tree.root, dataset_id=501).folder
    journal = folder / ".conversion.jsonl"
    os.truncate(journal, journal.stat().st_size - 40)
    done = _count_cases(monkeypatch)
    assert len(convert(GLI, tree.root, dataset_id=501).good) == 2
    assert done == [names[1]]


def test_two_conversions_at_a_time(tree: Any, raw: Path) -> None:
    tree.add(0)
    folder = raw / "Dataset501_BraTS2023GLI"
    with only_writer(folder), pytest.raises(InputError, match=r"another process is writing .*choose another number"):
        convert(GLI, tree.root, dataset_id=501)
    assert not list(folder.rglob("*.nii.gz"))
    assert len(convert(GLI, tree.root, dataset_id=501).good) == 1


def test_a_file_that_a_worker_wrote_elsewhere(tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a cluster whose machines do not share the folder."""
    case = tree.add(0)

    def elsewhere(task: case_order.CaseOrder) -> case_record.CaseRecord:
        record = case_conversion.convert_case(task)
        (task.folder / record.targets["t2w"]).unlink()
        return record

    monkeypatch.setattr(conversion, "convert_case", elsewhere)
    with pytest.raises(InputError, match=rf"{case}_0002.nii.gz was written by a worker but is not there"):
        convert(GLI, tree.root, dataset_id=501)
    assert not (raw / "Dataset501_BraTS2023GLI/dataset.json").exists()


COMMAND = [sys.executable, "-c", "import sys; from bdfm_nnunet.cli import main; sys.exit(main())", "convert", GLI]


def _files(folder: Path) -> dict[str, bytes]:
    names = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".conversion"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


@pytest.mark.slow
def test_500_cases_with_a_kill_in_the_middle(tree: Any, raw: Path) -> None:
    for number in range(500):
        tree.add(number // 2, number % 2)
    tree.file(tree.case_id(77), "t2f").unlink()
    undisturbed = raw / "Dataset501_BraTS2023GLI"
    command = [*COMMAND, str(tree.root), "-d", "501", "--workers", "2"]
    assert subprocess.run(command, check=False).returncode == 3
    expected, rows = _files(undisturbed), read_json(undisturbed / "manifest.json")["cases"]
    shutil.rmtree(undisturbed)

    process = subprocess.Popen(command, start_new_session=True)
    labels = undisturbed / "labelsTr"
    while not labels.is_dir() or len(os.listdir(labels)) < 150:
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (undisturbed / "dataset.json").exists()
    early = {path: path.stat().st_mtime_ns for path in labels.iterdir() if not path.name.startswith(".")}
    assert 140 <= len(early) < 490  # hidden files were counted above

    assert subprocess.run(command, check=False).returncode == 3
    assert _files(undisturbed) == expected
    assert read_json(undisturbed / "manifest.json")["cases"] == rows and len(rows) == 500
    done_again = sum(path.stat().st_mtime_ns != before for path, before in early.items())
    assert done_again <= 4  # two workers, and a case each that was done but not noted


def test_fractions_survive_a_second_conversion(tree: Any, raw: Path) -> None:
    for patient in range(6):
        tree.add(patient)
    folder = convert(GLI, tree.root, dataset_id=501).folder
    make_splits(folder, fractions=(0.5, 1.0))
    kept = (folder / "splits_final.json").read_bytes()
    convert(GLI, tree.root, dataset_id=501)
    assert (folder / "splits_final.json").read_bytes() == kept
    tree.add(6)
    convert(GLI, tree.root, dataset_id=501)
    assert sum(len(split["val"]) for split in read_json(folder / "splits_final.json")) == 7


# ------------------------------------------------------------------------------------------ journals of any content


def _journal(raw: Path) -> Path:
    return raw / "Dataset501_BraTS2023GLI/.conversion.jsonl"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"[" * 100_000, b"9" * 5000, b"\xff\xfe{}", b"5", b"null", b'"x"', b"[]", b"{}",
     b'{"row": {}, "stamps": {}}', b'{"engine": "x"}', b'{"row": 5, "stamps": []}'],
)  # fmt: skip
def test_a_journal_of_any_content_does_every_case_anew(
    content: bytes, tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = tree.add(0)
    convert(GLI, tree.root, dataset_id=501)
    _journal(raw).write_bytes(content)
    done = _count_cases(monkeypatch)
    assert [record.status for record in convert(GLI, tree.root, dataset_id=501).records] == ["ok"]
    assert done == [case]


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry["row"].pop("notes"),
        lambda entry: entry["row"].update(more=1),
        lambda entry: entry["row"].update(labels={"x": 1}),
        lambda entry: entry["row"].update(sha256={"t1c": 5}),
        lambda entry: entry["row"].update(sources=[]),
        lambda entry: entry["row"].update(targets={"t1c": "../../../escape.nii.gz"}),
        lambda entry: entry.update(stamps=[]),
        lambda entry: entry.update(stamps={"x": "y"}),
        lambda entry: entry.update(row=None),
    ],
)
def test_a_line_of_another_shape_does_its_case_anew(
    change: Any, tree: Any, raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tree.add(patient) for patient in range(2)]
    convert(GLI, tree.root, dataset_id=501)
    before = (raw / "Dataset501_BraTS2023GLI/manifest.json").read_bytes()
    header, first, second = _journal(raw).read_text().splitlines()
    entry = json.loads(first)
    change(entry)
    _journal(raw).write_text("\n".join([header, json.dumps(entry), second]) + "\n")
    done = _count_cases(monkeypatch)
    convert(GLI, tree.root, dataset_id=501)
    assert done == names[:1]
    assert (raw / "Dataset501_BraTS2023GLI/manifest.json").read_bytes() == before
    assert not list(raw.parent.rglob("*escape*"))


def test_a_journal_that_is_no_file_is_a_sentence(tree: Any, raw: Path) -> None:
    tree.add(0)
    convert(GLI, tree.root, dataset_id=501)
    _journal(raw).unlink()
    _journal(raw).mkdir()
    with pytest.raises(InputError, match=r"\.conversion\.jsonl is a folder"):
        convert(GLI, tree.root, dataset_id=501)
    _journal(raw).rmdir()
    os.mkfifo(_journal(raw))
    with pytest.raises(InputError, match=r"\.conversion\.jsonl is a named pipe"):
        convert(GLI, tree.root, dataset_id=501)
