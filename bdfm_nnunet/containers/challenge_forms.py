"""The form in which challenges take containers: one table entry each, with its source and date."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bdfm_nnunet.errors import InputError

Result = Literal["segmentation", "probability", "value", "embedding"]
ENDINGS: Mapping[Result, str] = {
    "segmentation": ".nii.gz", "probability": ".txt", "value": ".txt", "embedding": ".npy"
}  # fmt: skip
"""What a container writes of a case, to the ending of its file."""


@dataclass(frozen=True, kw_only=True)
class ChallengeForm:
    """The form in which a challenge takes a container.

    Attributes:
        name: as users type it.
        title: the challenge.
        result: what is written of a case.
        source: `text`, `address` and `date` (of the page, or of when it was read) of where this is written.
        release: the release of `bdfm convert` whose channels and label values it has; empty: those of the model.
        rules: its rules on weights, see `weight_rules`; empty: none.
        labels: label values of a segmentation, background aside, where no release tells them; empty: any.
        flags: options by which a case's images are named, `--flair FILE` say, with `--output FILE`; empty: the
            container goes through folders.
        stand_ins: flag to one that may be given in its place.
        interface: how the container is called.
        hardware: on which it runs.
        memory_gib: main memory that it has; None: not told.
        hours: for all cases; None: not told.
        cases: number of hidden cases; None: not told.
        seconds_per_case: None: not told.
        partial_exit: exit code where some cases were predicted and others could not be.
        notes: sentences without full stops.

    Example:
        >>> form = find_form("brats2026-goat")
        >>> form.seconds
        63.85809312638581
        >>> find_form("fomo26-task3").flags
        ('t1',)
    """

    name: str
    title: str
    result: Result
    source: Mapping[str, str]
    release: str = ""
    rules: str = ""
    labels: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    interface: str = ""
    hardware: str = ""
    memory_gib: float | None = None
    hours: float | None = None
    cases: int | None = None
    seconds_per_case: float | None = None
    partial_exit: int = 0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """Seconds that a case may take; None where that is not known."""
        if self.seconds_per_case is not None or self.hours is None or self.cases is None:
            return self.seconds_per_case
        return self.hours * 3600 / self.cases

    @property
    def told_source(self) -> str:
        """Where this is written, in a line."""
        return "{text}, {address}, as of {date}".format_map(self.source)


_BRATS = {
    "text": "Submission Instructions of BraTS 2026, `Containerized Algorithm`",
    "address": "https://www.synapse.org/Synapse:syn74274097/wiki/639582",
    "date": "2026-05-27",
}
_FOMO = {
    "text": "Preparing your models for submission to FOMO26",
    "address": "https://www.synapse.org/Synapse:syn72120565/wiki/640840",
    "date": "2026-11-26",
}


def _brats(task: str, title: str, cases: int | None, *notes: str) -> ChallengeForm:
    return ChallengeForm(
        name=f"brats2026-{task}",
        title=title,
        result="segmentation",
        source=_BRATS,
        release=f"brats2026-{task}",
        rules=f"brats2026-{task}",
        interface="read-only /input with a folder per case, flat /output with CASE.nii.gz; no network",
        hardware="NVIDIA A10G with 24 GB",
        memory_gib=32,
        hours=8,
        cases=cases,
        notes=(
            "the page says nothing of exit codes: 0 as long as any case was predicted, so that one bad case does not "
            "make the whole run a failed one",
            *notes,
        ),
    )


def _fomo(task: int, title: str, result: Result, *flags: str, labels: tuple[int, ...] = ()) -> ChallengeForm:
    return ChallengeForm(
        name=f"fomo26-task{task}",
        title=f"FOMO26, task {task}: {title}",
        result=result,
        source=_FOMO,
        rules="fomo26-methods",
        labels=labels,
        flags=flags,
        stand_ins={"t2s": "swi", "swi": "t2s"} if "t2s" in flags else {},
        interface="`python /app/predict.py --FLAG IMAGE ... --output FILE` in an Apptainer image, once per case",
        hardware="NVIDIA H100 with 80 GB",
        seconds_per_case=120,
        partial_exit=2,
        notes=("120 seconds a case are the limit of the organisers' container-validator, not of this page",),
    )


FORMS = (
    _brats("met", "BraTS 2026, task 1: brain metastases", 303,
           "303 is the number of test cases on the data page (syn74274097/wiki/639600) of 28 April 2026",
           "a missing or empty T2 is replaced by zeros, as `bdfm convert brats2026-met` does"),
    _brats("ped", "BraTS 2026, task 2: paediatric tumours", None, "the number of test cases is not known to us"),
    _brats("goat", "BraTS 2026, task 3: all kinds of tumours (GoAT)", 451,
           "the page asks for names that end in five digits and three of a time point; ids of GoAT have the "
           "five alone: outputs are named after the whole folder"),
    _fomo(1, "infarct", "probability", "flair", "adc", "dwi", "t2s", "swi"),
    _fomo(2, "meningioma", "segmentation", "flair", "dwi", "t2s", "swi", labels=(1,)),
    _fomo(3, "brain age", "value", "t1"),
    _fomo(4, "trigeminal nerve and vessels", "segmentation", "t2", labels=(1, 2)),
    _fomo(5, "polymicrogyria", "probability", "t1"),
    _fomo(6, "linear probe of the embedding", "embedding", "input"),
    _fomo(7, "fairness of the embedding", "embedding", "input"),
    ChallengeForm(
        name="plain",
        title="no challenge: folders of images in, segmentations out",
        result="segmentation",
        source={"text": "our own form", "address": "docs/challenges.md", "date": "2026-11-26"},
        interface="IN with a folder per case, or files CASE_0000.nii.gz; flat OUT",
        memory_gib=32,
        partial_exit=3,
    ),
)  # fmt: skip
"""All known forms."""


def find_form(name: str) -> ChallengeForm:
    """Return the form of a challenge by its name.

    Raises:
        InputError: there is none.
    """
    for form in FORMS:
        if form.name == name:
            return form
    raise InputError(f"there is no challenge {name!r}: choose one of {', '.join(form.name for form in FORMS)}")
