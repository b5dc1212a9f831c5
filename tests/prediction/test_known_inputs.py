"""`bdfm predict` names wrong images: faults planted in made-up heads, through the whole command."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from bdfm_nnunet import cli
from bdfm_nnunet.inputs.input_fingerprint import INPUT_FINGERPRINT
from bdfm_nnunet.prediction.case_quality import QUALITY_TABLE
from bdfm_nnunet.table_files import read_table
from tests.inputs.heads import SPACING, head, save
from tests.prediction.test_whole_command import arguments, model

TRAINING, HELD_OUT = range(14), range(20, 24)
Command = Any


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of two channels, whose folder holds no fingerprint, beside its training images."""
    folder = tmp_path_factory.mktemp("wrong_inputs")
    model(folder / "model", axes=3, channels=2, ending=".nii.gz", reader=SimpleITKIO)
    for number in TRAINING:
        save(folder / "imagesTr", f"case_{number:02d}", list(head(number).values()))
    return folder


@pytest.fixture
def command(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, caplog: Any) -> Command:
    """Run a command of `bdfm`, and return its exit code and what it told."""
    monkeypatch.setattr(sys, "argv", ["bdfm"])

    def run(*given: str) -> tuple[int, str]:
        caplog.clear()
        code = cli.main(list(given))
        return code, caplog.text + capsys.readouterr().err

    return run


@pytest.fixture
def known(trained: Path, command: Command) -> Path:
    """The model with the fingerprint of its training images."""
    path = trained / "model" / INPUT_FINGERPRINT
    if not path.is_file():
        assert command("fingerprint", "-m", str(trained / "model"), "-i", str(trained / "imagesTr"))[0] == 0
    return trained / "model"


def planted(folder: Path) -> dict[str, tuple[str, str]]:
    """Write held-out heads with a fault each; return case to the file that is named and a part of the sentence."""
    t1, t2 = head(30).values()
    grid = np.diag([SPACING] * 3 + [1.0])
    mirrored = np.diag([-SPACING, SPACING, SPACING, 1.0])
    cases: dict[str, tuple[list[Any], Any, str, str]] = {
        "swapped": ([t2, t1], None, "0000", "the channels are swapped"),
        "doubled": ([t1, t1], None, "0001", "holds the same image as doubled_0000.nii.gz"),
        "inverted": ([np.where(t1 > 0, t1.max() + 1 - t1, 0), t2], None, "0000", "does not look like c0"),
        "skull": (list(head(30, skull=True).values()), None, "0000", "does not look skull-stripped"),
        "upside_down": ([t1[:, :, ::-1], t2[:, :, ::-1]], None, "0000", "mirrored along z"),
        "turned": ([t1.transpose(1, 0, 2), t2.transpose(1, 0, 2)], None, "0000", "axes in the order y, x, z"),
        "header": ([t1, t2], mirrored, "0000", "stores its axes as LAS, expected RAS"),
        "spacing": ([t1, t2], grid / 2, "0000", "has voxels of 0.5 x 0.5 x 0.5 mm"),
    }
    for case, (images, affine, _, _) in cases.items():
        save(folder, case, images, affine=affine)
    return {case: (f"{case}_{channel}.nii.gz", words) for case, (_, _, channel, words) in cases.items()}


def test_planted_faults_are_named_and_predicted_all_the_same(known: Path, tmp_path: Path, command: Command) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    faults = planted(images)
    good = [f"good_{number}" for number in HELD_OUT]
    for case, number in zip(good, HELD_OUT):
        save(images, case, list(head(number).values()))
    code, told = command(*arguments(known, images, out))
    assert code == 0 and {path.name for path in out.glob("*.nii.gz")} == {f"{c}.nii.gz" for c in (*faults, *good)}
    for case, (file, words) in faults.items():
        lines = [line for line in told.splitlines() if str(images / f"{case}_") in line]
        assert any(str(images / file) in line and words in line and ":" in line for line in lines), (case, lines)
    assert not [line for line in told.splitlines() if str(images / "good_") in line]
    assert f"{len(faults)} of {len(faults) + len(good)} cases depart" in told
    listed = {row[0]: row for row in read_table(out / QUALITY_TABLE)[1:]}
    assert {case: row[-1] == "good" for case, row in listed.items()} == {
        **dict.fromkeys(faults, False), **dict.fromkeys(good, True)
    }  # fmt: skip
    assert listed["swapped"][-1] == "swapped channels" and listed["header"][-1] == "another orientation"


def test_strict_input_refuses(known: Path, tmp_path: Path, command: Command) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    save(images, "good", list(head(20).values()))
    assert command(*arguments(known, images, out), "--strict-input")[0] == 0
    save(images, "swapped", list(head(21).values())[::-1])
    code, told = command(*arguments(known, images, tmp_path / "other"), "--strict-input")
    assert code == 2 and "swapped_0000.nii.gz looks like c1" in told and told.strip().endswith("nothing was predicted")
    assert not list((tmp_path / "other").glob("*.nii.gz"))


def test_without_a_fingerprint_nothing_is_called_good(trained: Path, tmp_path: Path, command: Command) -> None:
    path = trained / "model" / INPUT_FINGERPRINT
    kept = path.read_bytes() if path.is_file() else None
    path.unlink(missing_ok=True)
    try:
        save(tmp_path / "images", "swapped", list(head(21).values())[::-1])
        code, told = command(*arguments(path.parent, tmp_path / "images", tmp_path / "out"))
        assert code == 0 and "unknown: no fingerprint" in told and "bdfm fingerprint -m" in told
        assert read_table(tmp_path / "out" / QUALITY_TABLE)[1][-1] == "unknown: no fingerprint"
        code, told = command(*arguments(path.parent, tmp_path / "images", tmp_path / "strict"), "--strict-input")
        assert code == 2 and "unknown: no fingerprint" in told
    finally:
        if kept is not None:
            path.write_bytes(kept)


def test_voxels_that_are_no_numbers_are_refused(known: Path, tmp_path: Path, command: Command) -> None:
    t1, t2 = head(20).values()
    t2[3, 4, 5] = np.nan
    save(tmp_path / "images", "a", [t1, t2])
    code, told = command(*arguments(known, tmp_path / "images", tmp_path / "out"))
    assert code == 2 and "a_0001.nii.gz has 1 voxels that are NaN or infinite: repair it" in told


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"template": "AAAA"}, "no fingerprint of inputs"),
        ({"template": "no base 64!"}, "no fingerprint of inputs"),
        ({"version": 2}, "version 2"),
        ({"limits": {}}, "limits"),
        ({"channels": ["a"]}, "the template has not 4096 values"),
        ({"means": {}}, "intensities"),
    ],
)
def test_damaged_fingerprints(
    change: dict[str, Any], sentence: str, known: Path, tmp_path: Path, command: Command
) -> None:
    path = known / INPUT_FINGERPRINT
    kept = path.read_text()
    save(tmp_path / "images", "a", list(head(20).values()))
    try:
        path.write_text(json.dumps(json.loads(kept) | change))
        code, told = command(*arguments(known, tmp_path / "images", tmp_path / "out"))
        assert code == 2 and str(path) in told and sentence in told
    finally:
        path.write_text(kept)


def test_too_few_cases_give_no_fingerprint(trained: Path, tmp_path: Path, command: Command) -> None:
    for number in range(3):
        save(tmp_path / "images", f"case_{number}", list(head(number).values()))
    code, told = command("fingerprint", "-m", str(trained / "model"), "-i", str(tmp_path / "images"))
    assert code == 2 and "3 cases are too few" in told
    code, told = command("fingerprint", "-m", str(tmp_path), "-i", str(tmp_path / "images"))
    assert code == 2 and str(tmp_path / "dataset.json") in told
