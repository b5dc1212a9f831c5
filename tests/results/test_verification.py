"""Everything that a result names is hashed, and what has changed since is found."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.checksums import checksums_path, write_checksums
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of, write_json
from bdfm_nnunet.results import Provenance, RunResult, hashed_files, read_result, write_result
from bdfm_nnunet.results.hashed_files import hashed_data, hashed_file, hashed_split
from bdfm_nnunet.results.hashed_files import hashed_files as files_of
from bdfm_nnunet.results.verification import Faults, faults_of, results_in, verify_result


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A result that has read two scans, a fold and preprocessed data, and written a table."""
    scans, data, out = tmp_path / "scans", tmp_path / "data", tmp_path / "out"
    for folder in (scans, data, out):
        folder.mkdir()
    for name in ("a", "b"):
        (scans / f"{name}.nii.gz").write_text(name)
        (data / f"{name}.b2nd").write_text(name * 3)
    write_checksums(data, {}, workers=1)
    write_json(tmp_path / "splits_final.json", [{"train": ["a"], "val": ["b"]}])
    (out / "table.csv").write_text("1,2\n")
    provenance = Provenance(
        inputs=[
            files_of("images", scans, scans.iterdir(), beside=out),
            hashed_split(tmp_path / "splits_final.json", 0, ["a"], ["b"], beside=out),
            hashed_data(data, beside=out),
        ],
        outputs=[hashed_file("table", out / "table.csv", beside=out)],
        seeds={"training": 3},
        sessions=[{"hours": 1.5}],
    )
    write_result(out / "result.json", RunResult(kind="evaluation", scores=_SCORES, provenance=provenance))
    return tmp_path


_SUMMARY = {"wt": {"dice": {"mean": 0.5, "low": 0.4, "high": 0.6}}}
_SCORES = {"metrics": "whole", "summary": _SUMMARY, "cases": [{"case": "a", "regions": {"wt": {"dice": 0.5}}}]}


def _verified(run: Path, **how: Any) -> Any:
    return verify_result(run / "out" / "result.json", **how)


def test_a_result_with_its_provenance_is_read_as_it_was_written(run: Path) -> None:
    found = read_result(run / "out" / "result.json")
    write_result(run / "out" / "again.json", found)
    assert read_result(run / "out" / "again.json") == found and found.provenance is not None
    assert [each.place for each in found.provenance.inputs] == ["../scans", "../splits_final.json", "../data"]
    images = found.provenance.inputs[0]
    assert images.files is not None and images.files["a.nii.gz"]["sha256"] == sha256_of(run / "scans/a.nii.gz")
    assert (images.count, images.bytes) == (2, 2)


def test_what_is_the_same_is_said_to_be(run: Path) -> None:
    found = _verified(run)
    assert (found.answer, found.faults) == ("unchanged", Faults()) and len(found.matching) == 4
    os.rename(run, run.with_name("moved"))  # the places lead from one file to the other
    assert _verified(run.with_name("moved")).answer == "unchanged"


def _rewritten(path: Path, text: str) -> None:
    """Write text of the same size and the same times."""
    times = path.stat()
    assert path.stat().st_size == len(text)
    path.write_text(text)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (lambda run: _rewritten(run / "scans/a.nii.gz", "c"), "../scans/a.nii.gz"),
        (lambda run: _rewritten(run / "data/b.b2nd", "bxb"), "../data/b.b2nd"),
        (lambda run: _rewritten(run / "out/table.csv", "1,3\n"), "table.csv"),
        (lambda run: write_json(run / "splits_final.json", [{"train": ["b"], "val": ["a"]}]),
         "../splits_final.json: fold 0"),
        (lambda run: write_json(checksums_path(run / "data"), {"files": {"a.b2nd": [3, 1]}, "labels": {}}),
         "../data: it was preprocessed anew, into other files"),
    ],
)  # fmt: skip
def test_what_has_changed_is_named(run: Path, change: Any, changed: str) -> None:
    change(run)
    found = _verified(run)
    assert (found.answer, found.faults) == ("changed", Faults(changed=(changed,))) and len(found.matching) == 3
    assert f"CHANGED: {changed}" in found.summary()


def test_an_edited_result_is_noticed(run: Path) -> None:
    path = run / "out" / "result.json"
    path.write_text(path.read_text().replace('"mean": 0.5', '"mean": 0.9'))
    assert _verified(run).faults.changed == ("result.json itself: it was edited after it was written",)
    content = json.loads(path.read_text())
    del content["provenance"]["seal"]
    write_json(path, content)
    assert _verified(run).answer == "changed"


def test_a_list_that_was_edited_is_noticed(run: Path) -> None:
    path = run / "out" / "result.json"
    path.write_text(path.read_text().replace(sha256_of(run / "scans/a.nii.gz"), "0" * 64))
    assert "../scans: the list of its files in the result" in _verified(run).faults.changed


def test_what_is_missing_or_cannot_be_checked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "scans/b.nii.gz").unlink()
    (run / "out/table.csv").unlink()
    checksums_path(run / "data").unlink()
    found = _verified(run)
    assert found.answer == "incomplete" and not found.faults.changed
    assert found.faults.missing == ("../scans/b.nii.gz", "table.csv")
    assert found.faults.unknown == ("../data: its list of checksums is gone",)


def test_quick_looks_at_sizes_alone(run: Path) -> None:
    _rewritten(run / "scans/a.nii.gz", "c")
    assert _verified(run, content=False).answer == "unchanged" and _verified(run).answer == "changed"
    (run / "data/a.b2nd").write_text("longer")
    assert _verified(run, content=False).faults.changed == ("../data/a.b2nd",)


def test_data_without_checksums_is_known_by_names_and_sizes(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.npz").write_text("abc")
    found = hashed_data(tmp_path / "data", beside=tmp_path)
    assert found.kind == "sizes" and "only `bdfm plan`" in faults_of(found, beside=tmp_path).unknown[0]
    (tmp_path / "data/b.npz").write_text("abc")
    assert faults_of(found, beside=tmp_path).changed == ("data: names and sizes of its files",)


def test_files_that_are_known_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    first = files_of("images", tmp_path, [tmp_path / "a", tmp_path / "b"], beside=tmp_path)
    read: list[str] = []
    monkeypatch.setattr(hashed_files, "sha256_of", lambda path: read.append(path.name) or sha256_of(path))
    (tmp_path / "b").write_text("new")
    again = files_of("images", tmp_path, [tmp_path / "a", tmp_path / "b"], beside=tmp_path, known=first.files)
    assert read == ["b"] and again.sha256 != first.sha256


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"kind": "telepathy", "place": "a"}, "telepathy is a kind that this version does not know"),
        ({"kind": "file", "place": "$HOME/.ssh/id"}, "is no path of a result file"),
        ({"kind": "file", "place": "/dev/zero"}, "is a device"),
        ({"kind": "files", "place": ".", "files": {"../../x": {"bytes": 1, "modified": 0, "sha256": "0"}}}, "../../x"),
    ],
)
def test_a_forged_result_leads_nowhere(entry: dict[str, Any], why: str, tmp_path: Path) -> None:
    hashed = hashed_files.HashedFiles.from_dict({"role": "r", "sha256": "0" * 64, **entry})
    if entry["kind"] == "files":
        hashed = hashed_files.joined(hashed)
    found = faults_of(hashed, beside=tmp_path)
    assert not found.changed and why in found.unknown[0]


def test_results_are_found_in_folders(run: Path) -> None:
    out = run / "out"
    write_json(out / "other.json", {"schema": 1})
    (out / "broken.json").write_text("{")
    assert results_in(out) == [out / "result.json"] == results_in(out / "result.json")
    (run / "model/fold_0").mkdir(parents=True)
    os.rename(out / "result.json", run / "model/fold_0/training_summary.json")
    assert results_in(run / "model") == [run / "model/fold_0/training_summary.json"]
    with pytest.raises(InputError, match="holds no result file that names what it came from"):
        results_in(out)


def test_a_result_of_an_older_version_is_refused(tmp_path: Path) -> None:
    write_result(tmp_path / "old.json", RunResult(kind="demo"))
    with pytest.raises(InputError, match="does not name what it came from"):
        verify_result(tmp_path / "old.json")


def test_other_versions_are_a_note(run: Path) -> None:
    path = run / "out" / "result.json"
    result = read_result(path)
    write_result(path, RunResult(kind="demo", provenance=result.provenance, versions={"torch": "2.6", "numpy": "2"}))
    found = _verified(run, versions={"torch": "2.8", "numpy": "2"})
    assert (found.answer, found.notes) == ("unchanged", ["the run had torch 2.6, here is 2.8"])
