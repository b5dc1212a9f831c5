"""The time between frames: who is asked first, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion.reading.repetition_times import Sidecars, repetition_time
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.run_files import RunFile, open_run
from tests.dataset_conversion.run_trees import save


def _run(tmp_path: Path, tr: float | None, unit: str = "sec") -> RunFile:
    path = save(tmp_path / "run.nii", np.zeros((2, 3, 4, 5), np.int16), tr=tr, unit=unit)
    return open_run(path, "run.nii")


def _json(path: Path, content: Any) -> tuple[Path, str]:
    path.write_text(json.dumps(content))
    return path, path.name


@pytest.mark.parametrize(("tr", "unit"), [(2.0, "sec"), (2000, "msec"), (2e6, "usec"), (2.0, "unknown")])
def test_units_of_the_header(tr: float, unit: str, tmp_path: Path) -> None:
    seconds, notes = repetition_time(_run(tmp_path, tr, unit), [])
    assert seconds == 2.0
    assert bool(notes) == (unit == "unknown") and all("names no unit of time" in note for note in notes)


def test_the_order_in_which_they_are_asked(tmp_path: Path) -> None:
    run = _run(tmp_path, 1.0)
    near = _json(tmp_path / "near.json", {"EchoTime": 0.03})
    far = _json(tmp_path / "far.json", {"RepetitionTime": 2.5})
    farthest = _json(tmp_path / "farthest.json", {"RepetitionTime": 3.0})
    seconds, notes = repetition_time(run, [near, far, farthest])
    assert seconds == 2.5 and notes == [
        "the header of run.nii has 1 s between frames, far.json 2.5 s, which was taken"
    ]  # fmt: skip
    assert repetition_time(run, [near])[0] == 1.0
    seconds, notes = repetition_time(run, [far], given=0.9)
    assert seconds == 0.9 and "--tr 0.9 s" in notes[0]
    assert repetition_time(run, [_json(tmp_path / "same.json", {"RepetitionTime": 1.001})]) == (1.001, [])


@pytest.mark.parametrize(
    ("tr", "unit", "told", "given", "sentence"),
    [
        (None, "sec", None, None, "does not tell the time between its frames"),
        (2000, "sec", None, None, "header of run.nii is 2000 s.*if ms are meant, give --tr 2$"),
        (2000, "unknown", None, None, "if ms are meant, give --tr 2$"),
        (0.1, "sec", None, None, "is 0.1 s, where 0.2 to 10 s were expected: give the seconds"),
        (30, "sec", None, None, "is 30 s, where 0.2 to 10 s were expected: give the seconds"),
        (2, "sec", 720, None, "RepetitionTime of a.json is 720 s.*give --tr 0.72$"),
        (2, "sec", "2.0", None, r"a\.json is not as expected"),
        (2, "sec", 2, 2000, "--tr is 2000 s.*give --tr 2$"),
    ],
)
def test_what_is_no_time_between_frames(
    tr: float | None, unit: str, told: Any, given: float | None, sentence: str, tmp_path: Path
) -> None:
    sidecars = [] if told is None else [_json(tmp_path / "a.json", {"RepetitionTime": told})]
    with pytest.raises(Refusal, match=sentence):
        repetition_time(_run(tmp_path, tr, unit), sidecars, given)


def test_json_files_are_inherited(tmp_path: Path) -> None:
    for path in (
        "task-rest_bold.json",
        "task-motor_bold.json",
        "task-rest_acq-fast_bold.json",
        "dataset_description.json",
        "sub-01/sub-01_task-rest_bold.json",
        "sub-01/func/sub-01_task-rest_run-1_bold.json",
        "sub-01/func/sub-01_task-rest_run-1_sbref.json",
        "sub-01/func/sub-01_bold.json",
        "sub-02/sub-02_task-rest_bold.json",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("{}")
    sidecars = Sidecars(tmp_path)
    assert sidecars.of("sub-01/func/sub-01_task-rest_run-1_bold.nii.gz") == (
        "sub-01/func/sub-01_task-rest_run-1_bold.json",
        "sub-01/func/sub-01_bold.json",
        "sub-01/sub-01_task-rest_bold.json",
        "task-rest_bold.json",
    )
    assert sidecars.of("sub-03_task-motor_bold.nii") == ("task-motor_bold.json",)
    assert sidecars.of("a.nii") == ()
