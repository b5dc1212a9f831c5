"""The check of containers finds what is wrong, and nothing that is not; the model is a threshold."""

import io
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.containers import entry, model_runs
from bdfm_nnunet.containers.challenge_forms import FORMS
from bdfm_nnunet.containers.container_check import check_container
from bdfm_nnunet.containers.container_settings import ContainerSettings
from bdfm_nnunet.containers.result_checks import fault_of_result, same_result
from bdfm_nnunet.containers.sandboxes import IN, OUT, RunReport, Sandbox
from bdfm_nnunet.containers.staged_case import StagedCase
from tests.test_nnunet_files import PLANS, SETTINGS

BRATS = ("t1n", "t1c", "t2w", "t2f")
CHANNELS = {"fomo26-task1": ("flair", "adc", "dwi", "t2s"), "fomo26-task2": ("dwi", "swi"), "fomo26-task3": ("T1",),
            "fomo26-task4": ("t2",), "fomo26-task5": ("t1w",)}  # fmt: skip


def container(folder: Path, challenge: str, **settings: Any) -> Path:
    """A container whose model holds nothing but plans."""
    form = next(form for form in FORMS if form.name == challenge)
    channels = CHANNELS.get(challenge, ("input",) if form.result == "embedding" else BRATS)
    known: dict[str, Any] = {
        "challenge": challenge, "folds": ("0",), "checkpoint": "checkpoint_final.pth", "version": "0",
        "channels": channels, "labels": {"1": 1}, "target": "age", "orientation": "LPS",
    }  # fmt: skip
    (folder / "model").mkdir(parents=True)
    ContainerSettings(**known | settings).write(folder)
    plans = PLANS | {"configurations": {"3d_fullres": SETTINGS | {"median_image_size_in_voxels": [16, 18, 20]}}}
    (folder / "model" / "plans.json").write_text(json.dumps(plans))
    return folder


@dataclass
class Threshold(model_runs.ModelRun):
    """What is brighter than a number, its mean, or the image's statistics."""

    settings: ContainerSettings

    def result(self, case: StagedCase, work: Path) -> bytes:
        values = nib.load(case.files[0]).get_fdata()
        values = values.reshape(values.shape[:3])
        kind = self.settings.form.result
        if kind == "segmentation":
            return case.packed((values > 150).astype(np.uint8))
        if kind == "embedding":
            stream = io.BytesIO()
            np.save(stream, np.array([values.mean(), values.std(), 1], np.float32))
            return stream.getvalue()
        return f"{values.mean() / 1000:.6f}\n".encode()


@dataclass(frozen=True)
class InThisProcess(Sandbox):
    """Runs the entry point in this process."""

    def run(self, arguments: Sequence[str], source: Path, out: Path, *, timeout: float) -> RunReport:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logging.getLogger("bdfm_nnunet").addHandler(handler)
        try:
            code = self.called(
                [word.replace(IN, str(source)).replace(OUT, str(out)) for word in arguments], source, out
            )
        finally:
            logging.getLogger("bdfm_nnunet").removeHandler(handler)
        return RunReport(code, stream.getvalue(), 0.1, 100.0)

    def called(self, words: list[str], source: Path, out: Path) -> int:
        return entry.main(self.folder, words)


class Seen(Exception):
    """What the first image was like."""


def test_images_have_the_voxels_that_the_model_wants(tmp_path: Path) -> None:
    """Plans as nnU-Net writes them: 2-D first, and axes in another order."""
    folder = container(tmp_path / "c", "brats2026-goat")
    plans = json.loads((folder / "model" / "plans.json").read_text())
    plans |= {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]}
    plans["configurations"] = {
        "2d": SETTINGS | {"spacing": [3.0, 5.0], "patch_size": [16, 16]},
        "3d_fullres": SETTINGS | {"spacing": [4.0, 3.0, 5.0]},
        "short": {"inherits_from": "3d_fullres"},
    }
    (folder / "model" / "plans.json").write_text(json.dumps(plans))

    class Looking(InThisProcess):
        def called(self, words: list[str], source: Path, out: Path) -> int:
            raise Seen(nib.load(sorted(source.rglob("*-t1n.nii.gz"))[0]).header.get_zooms()[:3])

    with pytest.raises(Seen) as seen:
        check_container(folder, Looking("here", folder))
    assert tuple(map(float, seen.value.args[0])) == (3.0, 4.0, 5.0)  # (z, y, x) of the image is (5, 4, 3)


@pytest.fixture(autouse=True)
def _threshold(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(model_runs, "load_model", lambda folder, settings: Threshold(settings))


@pytest.mark.parametrize(
    "challenge",
    ["brats2026-met", "fomo26-task5", *(pytest.param(f"fomo26-task{n}", marks=pytest.mark.slow) for n in (1, 2, 6)),
     pytest.param("plain", marks=pytest.mark.slow)],
)  # fmt: skip
def test_nothing_is_wrong_with_the_entry_point(challenge: str, tmp_path: Path) -> None:
    folder = container(tmp_path / "c", challenge, optional=("t2w",) if challenge == "brats2026-met" else ())
    report = check_container(folder, InThisProcess("here", folder))
    assert not report.failed, report.table()
    assert len(report.rows) >= 50 and report.seconds_per_case is not None
    written = json.loads((folder / "check" / "here.json").read_text())
    assert written["failed"] == 0 and len(written["rows"]) == len(report.rows)
    table = (folder / "check" / "here.md").read_text()
    assert "| a file that was cut off | named with a reason, not predicted | named: cut file-" in table
    told = {"brats2026-met": "voxels labelled", "fomo26-task5": "predicted: 0.0", "fomo26-task6": "3 numbers"}
    assert told.get(challenge, "") in report.rows[0].did
    minutes = {"brats2026-met": 303}.get(challenge)
    assert report.minutes == (None if minutes is None else pytest.approx(report.seconds_per_case * minutes / 60))


class Refusing(InThisProcess):
    def called(self, words: list[str], source: Path, out: Path) -> int:
        return 1


class Careless(InThisProcess):
    """Writes what nobody asked for, changes the input, and loses the rest when a case is bad."""

    def called(self, words: list[str], source: Path, out: Path) -> int:
        code = super().called(words, source, out)
        if words[0] == str(source) and out.name == "results":
            for path in out.glob("p*.nii.gz"):
                image = nib.load(path)
                nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj) + np.uint8(7), image.affine), path)
            for path in out.glob("type*.nii.gz"):
                path.unlink()
            for path in out.glob("scaled.nii.gz"):
                nib.save(nib.Nifti1Image(np.asanyarray(nib.load(path).dataobj), np.eye(4)), path)
            (out / "temporary").mkdir(exist_ok=True)
            (source / "new").touch() if source.stat().st_mode & 0o200 or os.geteuid() == 0 else None
        return code


def test_a_container_that_does_nothing(tmp_path: Path) -> None:
    folder = container(tmp_path / "c", "fomo26-task4")
    report = check_container(folder, Refusing("here", folder))
    passed = {row.what for row in report.rows if row.passed}
    assert passed <= {"a folder of segmentations", "what a Mac adds to archives", "the folder of the input",
                      "the folder of the results"}  # fmt: skip


def test_a_container_that_is_careless(tmp_path: Path) -> None:
    folder = container(tmp_path / "c", "fomo26-task4")
    failed = {row.what: row.did for row in check_container(folder, Careless("here", folder)).failed}
    assert failed["no digits in the name"] == "the result has the label 7"
    assert failed["values of type uint8"] == "not predicted"
    assert failed["a scaling in the header"] == "the result lies elsewhere than the image"
    assert failed["the folder of the results"] == "also temporary"
    if os.geteuid() == 0:
        assert failed["the folder of the input"] == "changed"
    assert "a file that was cut off" not in failed


def test_the_command_ends_with_three_where_anything_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = container(tmp_path / "c", "fomo26-task3")
    for kind, code in ((InThisProcess, 0), (Refusing, 3)):
        monkeypatch.setattr("bdfm_nnunet.containers.sandboxes.local_sandbox", lambda f, m, k=kind: k("here", f))
        assert cli.main(["container", "check", str(folder), "--engine", "here"]) == code
    assert "| FAIL |" in capsys.readouterr().out
    assert cli.main(["container", "check", str(tmp_path)]) == 2
    assert "is no container, it has no container.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("challenge", "content", "fault"),
    [
        ("fomo26-task1", b"0.25\n", ""), ("fomo26-task1", b"1.5", "the result is 1.5"), ("fomo26-task3", b"63.5", ""),
        ("fomo26-task3", b"nan", "the result is nan"), ("fomo26-task3", b"old", "cannot be read (ValueError)"),
        ("fomo26-task6", b"0.5", "cannot be read"), ("brats2026-goat", b"0.5", "cannot be read"),
    ],
)  # fmt: skip
def test_forms_of_results(challenge: str, content: bytes, fault: str, tmp_path: Path) -> None:
    settings = ContainerSettings.read(container(tmp_path / "c", challenge))
    path = tmp_path / f"x{'.npy' if challenge == 'fomo26-task6' else '.nii.gz' if 'brats' in challenge else '.txt'}"
    path.write_bytes(content)
    found = fault_of_result(path, settings, None)
    assert fault in found and bool(found) == bool(fault)


def test_agreement_of_results(tmp_path: Path) -> None:
    values = np.zeros((9, 9, 9), np.uint8)
    values[2:5, 3:4, 1:8] = 1
    image = nib.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]))
    nib.save(image, tmp_path / "a.nii.gz")
    turn = nib.orientations.axcodes2ornt(("A", "S", "R"))
    nib.save(
        image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), turn)),
        tmp_path / "b.nii.gz",
    )
    nib.save(nib.Nifti1Image(values[::-1], image.affine), tmp_path / "c.nii.gz")
    assert same_result(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    assert not same_result(tmp_path / "a.nii.gz", tmp_path / "c.nii.gz")
    for name, number in (("a", 0.25), ("b", 0.2501), ("c", 0.3)):
        (tmp_path / f"{name}.txt").write_text(str(number))
    assert same_result(tmp_path / "a.txt", tmp_path / "b.txt") and not same_result(
        tmp_path / "a.txt", tmp_path / "c.txt"
    )


def test_words_of_runs(tmp_path: Path) -> None:
    source, out = Path("/data/in put"), Path("/data/out")
    here = Sandbox("here", tmp_path, ("unshare", "--net")).command([IN, OUT], source, out)
    assert here == ["unshare", "--net", str(tmp_path / "entrypoint"), "/data/in put", "/data/out"]
    docker = Sandbox("docker", tmp_path, (), "image", 32).command([IN, OUT], source, out)
    assert docker[:7] == ["docker", "run", "--rm", "--network", "none", "--memory", "32g"]
    assert "/data/in put:/input:ro" in docker and docker[-3:] == ["image", "/input", "/output"]
    words = ["--t1", f"{IN}/x.nii.gz", "--output", f"{OUT}/y.txt"]
    apptainer = Sandbox("apptainer", tmp_path, (), "c.sif").command(words, source, out)
    assert apptainer[-5:] == ["c.sif", "--t1", "/input/x.nii.gz", "--output", "/output/y.txt"]
    assert "--containall" in apptainer
