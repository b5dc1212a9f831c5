"""How many of the subjects that are scored a model's pre-training has seen, for the line beside every score."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure.exposure_record import Exposure
from bdfm_nnunet.exposure.exposure_report import TEST, ExposureReport, Record, compare
from bdfm_nnunet.exposure.known_cohorts import FREPA, cohort_sentences, is_frepa
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.patients import CaseList

RECORD_ENDING = ".exposure.json"
"""A table of predictions `subjects.csv` has the record of its model in `subjects.exposure.json`."""
_FINETUNING = {"nnUNetTrainerBDFM"}
_SUBJECT_TASKS = ("Classification", "Regression", "Survival")
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
NO_WEIGHTS = "no weights are named and no record lies beside the table: name them with --weights"


def joined(exposures: Iterable[Exposure]) -> Exposure:
    """Return what any of several models has seen, each training once.

    Example:
        >>> run = {"dataset": "Dataset900_Cohort"}
        >>> both = joined([Exposure((run,)), Exposure((run,), "nothing more is known")])
        >>> len(both.runs), both.note
        (1, 'nothing more is known')
    """
    runs: list[dict[str, Any]] = []
    notes: list[str] = []
    for exposure in exposures:
        runs += [run for run in exposure.runs if run not in runs]
        notes += [exposure.note] if exposure.note and exposure.note not in notes else []
    return Exposure(tuple(runs), "; ".join(notes))


def write_record(table: Path, exposures: Iterable[Exposure], *, targets: Sequence[Mapping[str, Any]] = ()) -> Path:
    """Write what the models behind a table of predictions have seen, beside it, and return where.

    Args:
        table: the table.
        exposures: of the models.
        targets: name, type, classes and unit of what they have learned.

    Raises:
        InputError: it cannot be written.

    Example:
        >>> write_record(Path("subjects.csv"), [Exposure(({"dataset": "Dataset900_Cohort"},))]).name
        'subjects.exposure.json'
        >>> beside(Path("subjects.csv")).exposure.runs
        ({'dataset': 'Dataset900_Cohort'},)
    """
    path, whole = table.with_suffix(RECORD_ENDING), joined(exposures)
    write_json(path, {**whole.as_dict(), "note": whole.note, "targets": [dict(each) for each in targets]})
    return path


@dataclass(frozen=True)
class Beside:
    """What lies beside a table of predictions.

    Attributes:
        exposure: what its model has seen.
        name: of the file that tells it.
        targets: what the model has learned, in plain types; None if the file does not tell.

    Example:
        >>> Beside(Exposure(), "subjects.exposure.json").targets is None
        True
    """

    exposure: Exposure
    name: str
    targets: Any = None


def beside(table: Path) -> Beside:
    """Return what is known of the model behind a table.

    It is the record beside the table, else a checkpoint in its folder or the one above (the fold of a training).

    Raises:
        InputError: the record or checkpoint is damaged.

    Example:
        >>> beside(Path("elsewhere.csv")).exposure.note == NO_WEIGHTS
        True
    """
    record = table.with_suffix(RECORD_ENDING)
    if os.path.lexists(record):
        content = read_json(record)
        exposure = Exposure.of(content, named=record.name)
        entries = content if isinstance(content, dict) else {}
        note = entries.get("note")
        told = note if isinstance(note, str) and note.isprintable() else ""
        exposure = replace(exposure, note="; ".join(filter(None, (exposure.note, told))))
        return Beside(exposure, record.name, entries.get("targets"))
    folder = table.absolute().parent
    for path in (place / name for place in (folder, folder.parent) for name in _CHECKPOINTS):
        if path.is_file():
            checkpoint = read_checkpoint(path)
            task = checkpoint.task if isinstance(checkpoint.task, Mapping) else {}
            return Beside(Exposure.of_checkpoint(checkpoint), path.name, task.get("targets"))
    return Beside(Exposure(note=NO_WEIGHTS), "unknown weights")


def exposure_of_weights(weights: Path | str) -> tuple[Exposure, str]:
    """Return what a checkpoint has seen, and its name.

    Raises:
        InputError: it is no checkpoint.

    Example:
        >>> exposure_of_weights("nowhere.pth")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: nowhere.pth does not exist: ...
    """
    checkpoint = read_checkpoint(weights)
    if checkpoint.exposure is None and is_frepa(checkpoint.weights):
        return Exposure((FREPA,)), checkpoint.path.name
    return Exposure.of(checkpoint.exposure, named=checkpoint.path.name), checkpoint.path.name


def check_untrained(exposure: Exposure, dataset: str, cases: Iterable[str], name: str) -> None:
    """Check that no subject-level training on a data set behind a checkpoint has used some of its cases.

    A pre-training that has seen them, without their targets, is reported beside the scores instead.

    Args:
        exposure: what the checkpoint has seen; where nothing is known, nothing is refused.
        dataset: name of the data set.
        cases: ids of cases that were kept out.
        name: of the checkpoint, for the message.

    Raises:
        InputError: one was trained on, or chose the epoch.

    Example:
        >>> run = {"dataset": "Dataset501_Demo", "trainer": "nnUNetTrainerBDFMSurvival", "train": {"case": ["a"]}}
        >>> check_untrained(Exposure((run,)), "Dataset501_Demo", ["a"], "weights.pth")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: weights.pth has trained on 1 of the cases that are kept out (a): ...
    """
    own = (run for run in exposure.runs if str(run.get("trainer", "")).endswith(_SUBJECT_TASKS))
    runs = [run for run in own if run.get("dataset") == dataset]
    used = {case for run in runs for part in ("train", "val") for case in run.get(part, {}).get("case", ())}
    if found := sorted(used & set(cases)):
        shown = ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")
        raise InputError(
            f"{name} has trained on {len(found)} of the cases that are kept out ({shown}): the splits were made after "
            "it, so train again, or give the images with -i"
        )


@dataclass(frozen=True)
class SubjectsSeen:
    """What is known of the scored subjects in pre-training.

    Attributes:
        reports: one for each group of cases that one model has predicted.

    Example:
        >>> report = ExposureReport("weights.pth", "Dataset502_GLI", {"test": 20}, [])
        >>> SubjectsSeen((report,)).text
        '0 of 20 seen'
        >>> SubjectsSeen((replace(report, record="none"),)).text
        'unknown for all 20'
    """

    reports: tuple[ExposureReport, ...]

    @property
    def cases(self) -> int:
        """Number of scored cases."""
        return sum(sum(report.counts.values()) for report in self.reports)

    @property
    def seen(self) -> dict[str, tuple[str, ...]]:
        """Case that was seen -> how it is known."""
        return {found.case: found.by for report in self.reports for found in report.findings}

    @property
    def record(self) -> Record:
        """Whether the record is complete; "partial" where it is so for any of the cases."""
        kinds = {report.record for report in self.reports}
        return next(iter(kinds)) if len(kinds) == 1 else "partial"

    @property
    def text(self) -> str:
        """The number of cases seen in a few words, to stand beside a score."""
        perhaps = ", perhaps seen (see the notes)" if any(report.possible for report in self.reports) else ""
        if self.record == "none":
            return f"unknown for all {self.cases}{perhaps}"
        ways = Counter(by for how in self.seen.values() for by in how)
        how = f" ({', '.join(f'{count} by {by}' for by, count in ways.items())})" if ways else ""
        least = "at least " if self.record == "partial" else ""
        unknown = sum(sum(each.counts.values()) for each in self.reports if each.record == "none")
        rest = f", unknown for {unknown}" if unknown else ""
        return f"{least}{len(self.seen)} of {self.cases} seen{how}{rest}{perhaps}"

    @property
    def notes(self) -> list[str]:
        """Sentences on what may have been seen and what is not known."""
        found = [
            f"{report.checkpoint}: {text}" for report in self.reports for text in (*report.possible, *report.notes)
        ]
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        seen = {case: list(by) for case, by in self.seen.items()}
        return {"text": self.text, "record": self.record, "cases": self.cases, "seen": seen, "notes": self.notes}


def subjects_seen(cases: CaseList, predicted: Sequence[tuple[Sequence[str], Exposure, str]]) -> SubjectsSeen:
    """Look for scored cases among those that the models' trainings have seen.

    The validation cases of the model's own fine-tuning are those that are scored out of fold, so they count as new;
    its training cases do not.

    Args:
        cases: the data set.
        predicted: case ids, what their model has seen, and its name.

    Example:
        >>> run = {"dataset": "Dataset900_Cohort", "train": {"case": ["P1_a"], "patient": ["P1"], "release": ["x"],
        ...        "aliases": [[]], "sha256": [[]]}}
        >>> cases = CaseList("Dataset501_Demo", "x", [{"case": "P1_b", "patient": "P1"}, {"case": "P2_a"}])
        >>> subjects_seen(cases, [(["P1_b", "P2_a"], Exposure((run,)), "weights.pth")]).text
        '1 of 2 seen (1 by patient)'
    """
    reports = []
    for ids, exposure, name in predicted:
        known = _without_own_validation(exposure, cases.name)
        report = compare(known, cases, dict.fromkeys(ids, TEST), checkpoint=name)
        possible = [*report.possible, *cohort_sentences(exposure, cases, ids)]
        reports.append(replace(report, possible=possible))
    if not reports:
        raise InputError("no cases are scored: name a table of predictions")
    return SubjectsSeen(tuple(reports))


def _without_own_validation(exposure: Exposure, dataset: str) -> Exposure:
    """Return the record without the validation cases of the last training, where that was a fine-tuning on the data."""
    last = exposure.runs[-1] if exposure.runs else {}
    trainer = str(last.get("trainer", ""))
    if last.get("dataset") != dataset or not (trainer in _FINETUNING or trainer.endswith(_SUBJECT_TASKS)):
        return exposure
    own = {name: part for name, part in last.items() if name != "val"}
    return Exposure((*exposure.runs[:-1], own), exposure.note)
