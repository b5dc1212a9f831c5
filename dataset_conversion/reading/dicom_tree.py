"""The series below a folder of DICOM files, under pseudonyms."""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from bdfm_nnunet.dataset_conversion.reading.folder_walk import Walk
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.images.dicom_headers import (
    Frame,
    Header,
    KnownFacts,
    SeriesFacts,
    pydicom_package,
    quietly,
    read_header,
)
from bdfm_nnunet.images.dicom_key import DicomKey, KeyPatient
from bdfm_nnunet.images.dicom_volumes import Stack, stack_of
from bdfm_nnunet.worker_pools import run_in_processes

_UIDS = re.compile(r"\d+(?:\.\d+){4,}")
_MONTH = r"(?:jan|feb|m[aä]r|apr|ma[iy]|jun|jul|aug|sep|o[ck]t|nov|de[cz])[a-zé]*"
_DATES = re.compile(
    r"(?<!\d)(?:(?:19|20)\d{6}(?:\d{6})?|\d{1,4}[.\-/]\d{1,2}[.\-/]\d{2,4})(?!\d)"
    rf"|\d{{1,2}}[. \-]{{0,2}}{_MONTH}[. \-]{{0,2}}\d{{2,4}}|{_MONTH}[. ]{{1,2}}\d{{1,2}},? \d{{4}}",
    re.IGNORECASE,
)
"""Dates as people write them."""
FEWEST_FILES, FILES_AT_ONCE = 5000, 500
"""Files for which further processes pay, and how many of them make a task."""
FEWEST_LETTERS = 3
"""Letters of the shortest part of a name that is taken out of texts: `T2` may be somebody's initials."""


@dataclass
class FoundSeries:
    """A series of images under its pseudonym.

    Attributes:
        facts: what its first file tells.
        frames: its planes, each once.
        copies: files that are there twice.
        damaged: a sentence if its files contradict each other.
        case: id of the patient's study, such as `sub-0001_ses-01`.
        number: number of the series in it, as the scanner counts, with a letter where two have the same.
        description: as typed at the scanner, without names, numbers and dates of the patient.
    """

    facts: SeriesFacts
    frames: list[Frame] = field(default_factory=list)
    copies: int = 0
    damaged: str = ""
    case: str = ""
    number: str = ""
    description: str = ""
    _instances: dict[tuple[str, int], Frame] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Pseudonym, such as `sub-0001_ses-01_ser-003`."""
        return f"{self.case}_ser-{self.number}"

    @property
    def told(self) -> str:
        """Pseudonym and description, for messages."""
        return f"series {self.name}{f' ({self.description})' if self.description else ''}"

    @property
    def mark(self) -> str:
        """A short text that tells the series from all others; no program takes it for a number."""
        who = self.facts.identity
        text = "\n".join((who.series, who.study, *who.patient))  # some anonymisers give one UID to many
        return f"m{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def files(self) -> list[Path]:
        """Its files, in a fixed order."""
        return sorted({frame.path for frame in self.frames})

    def add(self, facts: SeriesFacts, frames: Sequence[Frame]) -> None:
        """Add the planes of a file; a copy of one that is there counts once."""
        if facts.burned_in or facts.colours:
            self.facts = facts
        for frame in frames:
            known = self._instances.setdefault((frame.instance, frame.number), frame)
            if known is frame:
                self.frames.append(frame)
            elif (known.position, known.marks, known.size) == (frame.position, frame.marks, frame.size):
                self.copies += frame.number == 0
            else:
                self.damaged = "has different images under one SOP instance UID: export the series again"

    def settle(self) -> None:
        """Forget what is needed to tell copies only."""
        self._instances.clear()

    def stack(self) -> Stack:
        """Return its planes in order.

        Raises:
            Refusal: they are not the slices of one volume.
        """
        if self.damaged:
            raise Refusal(f"{self.told} {self.damaged}")
        if self.facts.colours:
            raise Refusal(f"{self.told} holds colours, expected grey values: leave it out")
        if "MOSAIC" in self.facts.image_type:
            raise Refusal(f"{self.told} holds mosaics, all slices in one image: export it as multi-frame images")
        if self.facts.burned_in:
            raise Refusal(
                f"{self.told} says that annotations which tell the patient are burnt into its pixels: leave it out"
            )
        return stack_of(self.frames, self.told)


@dataclass
class DicomTree:
    """What lies below a folder.

    Attributes:
        series: all series of images, by case and number.
        scope: name of the pseudonyms: the key's, or else made of all studies together.
        notes: for the user; they hold no names of files.
    """

    series: list[FoundSeries]
    scope: str
    notes: list[str]


def read_tree(
    source: Path, key: DicomKey | None = None, *, leave_out: Path | None = None, workers: int = 1
) -> DicomTree:
    """Read the headers of all files below a folder, with any ending or none, and give everything a pseudonym.

    Patients become `sub-0001`, ..., their studies sessions in the order of time. The numbers of patients follow no
    order of names, numbers or dates; with a key those that it knows keep theirs, and it is filled in.

    Args:
        source: the folder.
        key: of an earlier conversion, or an empty one.
        leave_out: a folder that is not looked into.
        workers: processes that read headers, where there are many.

    Raises:
        InputError: it is no folder or holds no series of images, or pydicom is not installed.
    """
    pydicom_package("bdfm convert dicom")
    if not source.is_dir():
        raise InputError(f"{source} is not a folder: name the folder of the DICOM files")
    walk, others = Walk(source, leave_out), Counter[str]()
    found: dict[object, FoundSeries] = {}
    paths = [source / prefix / name for prefix, _, names in walk.folders() for name in names]
    for header in _headers(paths, workers):
        if isinstance(header, str):
            others[header] += 1
            continue
        facts, frames = header
        whose = (facts.identity.patient, facts.identity.study, facts.identity.series)
        found.setdefault(whose, FoundSeries(facts)).add(facts, frames)
    notes = [*_notes_of_walk(walk), *_notes_of_others(others)]
    if not found:
        more = "".join(f"; {note}" for note in notes)
        raise InputError(f"{source} holds no series of DICOM images{more}: name the folder of the DICOM files")
    series = list(found.values())
    notes += _give_names(series, key)
    if copies := sum(each.copies for each in series):
        notes.append(f"{copies} files are copies of others and were read once")
    series.sort(key=lambda each: each.name)
    for each in series:
        each.settle()
    studies = sorted({each.facts.identity.study for each in series})
    scope = key.scope if key is not None else hashlib.sha256("\n".join(studies).encode()).hexdigest()[:16]
    return DicomTree(series, f"dicom-{scope}", notes)


def _headers(paths: Sequence[Path], workers: int) -> Iterator[Header]:
    """Yield what `read_header` tells of each file, in their order; few files are not worth further processes."""
    chunks = [paths[start : start + FILES_AT_ONCE] for start in range(0, len(paths), FILES_AT_ONCE)]
    workers = workers if len(paths) >= FEWEST_FILES else 1
    with tqdm(total=len(paths), unit="file", desc="headers", disable=None) as bar:
        for headers in run_in_processes(chunks, read_headers, workers=workers, ordered=True):
            bar.update(len(headers))
            yield from headers


def read_headers(paths: Sequence[Path]) -> list[Header]:
    """Return what `read_header` tells of each file."""
    known: KnownFacts = {}
    with quietly():
        return [read_header(path, known) for path in paths]


def _notes_of_walk(walk: Walk) -> list[str]:
    """Return how much was passed over; names of files may be names of patients."""
    counts = (
        (len(walk.junk), "left-overs of operating systems were passed over"),
        (len(walk.hidden), "folders whose names begin with a dot were not looked into"),
        (len(walk.lost), "links lead nowhere and were passed over"),
    )
    return [f"{count} {what}" for count, what in counts if count]


def _notes_of_others(others: Counter[str]) -> list[str]:
    bad = others.pop("", 0)
    kinds = ", ".join(f"{kind} ({count})" for kind, count in sorted(others.items()))
    return [
        *([f"{bad} files are no DICOM or cannot be read, and were passed over"] if bad else []),
        *([f"DICOM files without images were passed over: {kinds}"] if kinds else []),
    ]


# ---------------------------------------------------------------------------------------------------- pseudonyms


def _give_names(series: Sequence[FoundSeries], key: DicomKey | None) -> list[str]:
    """Give each series its case, number and description, and return notes."""
    notes = []
    patients: dict[tuple[str, str], list[FoundSeries]] = {}
    for each in series:
        patients.setdefault(each.facts.identity.patient, []).append(each)
    known = {(patient.id, patient.issuer): name for name, patient in key.patients.items()} if key else {}
    taken = {int(name.rpartition("-")[2]) for name in known.values()}
    free = iter(number for number in range(1, len(taken) + len(patients) + 1) if number not in taken)
    for identity in sorted(patients, key=lambda each: _shuffled(patients[each])):
        own = patients[identity]
        name = known.get(identity) or f"sub-{next(free):04d}"
        names = {each.facts.identity.name for each in own}
        births = {each.facts.identity.birth for each in own if each.facts.identity.birth}
        entry = KeyPatient(*identity, name=min(names))
        if key is not None:
            entry = key.patients.setdefault(name, entry)
        if len({_plain(each) for each in names}) > 1 or len(births) > 1:
            notes.append(
                f"{name} has different names or dates of birth under one patient id: they count as one patient"
            )
        _name_sessions(name, own, entry)
    return notes


def _shuffled(series: Iterable[FoundSeries]) -> str:
    """Return what patients are ordered by: it follows neither names nor time, and is the same each time."""
    texts = {"\n".join((each.facts.identity.study, *each.facts.identity.patient)) for each in series}
    return min(hashlib.sha256(text.encode()).hexdigest() for text in texts)


def _name_sessions(patient: str, series: Sequence[FoundSeries], entry: KeyPatient) -> None:
    dates = {each.facts.identity.study: each.facts.identity.date for each in series}
    known = {study: session for session, study in entry.studies.items()}
    for study in sorted(dates, key=lambda each: (dates[each], each)):
        if study not in known:
            session = f"{max(map(int, entry.studies), default=0) + 1:02d}"
            known[study] = session
            entry.studies[session] = study
    words = frozenset().union(*(each.facts.identity.words for each in series))
    numbers: dict[tuple[str, int], int] = {}
    for order, each in enumerate(sorted(series, key=lambda one: (one.facts.number or 0, one.facts.identity.series))):
        each.case = f"{patient}_ses-{known[each.facts.identity.study]}"
        number = order + 1 if each.facts.number is None else each.facts.number
        again = numbers[each.case, number] = numbers.get((each.case, number), 0) + 1
        each.number = f"{number:03d}" + (f".{again}" if again > 1 else "")
        each.description = without_names(each.facts.description, words)


def without_names(text: str, words: Iterable[str]) -> str:
    """Return a text without dates, UIDs and these words, compared without regard to case and accents.

    Args:
        text: as typed at the scanner.
        words: names, numbers of patients and studies.

    >>> without_names("t1_mprage MUELLER 2024-01-31", ["Müller^Jo"])
    't1_mprage'
    """
    words = set(words)
    parts = {part for word in words for part in (word, *re.split(r"[\W_]+", word))}
    secret = {form for part in parts for form in _forms(part) if _letters(form) >= FEWEST_LETTERS}
    whole = [re.escape(word) for word in sorted(words, key=len, reverse=True) if len(word) > FEWEST_LETTERS]
    text = re.sub("|".join(whole) or "$^", " ", unicodedata.normalize("NFC", text), flags=re.IGNORECASE)
    pieces = re.split(r"([\W_]+)", _DATES.sub(" ", _UIDS.sub(" ", text)))
    kept = ""
    for word, mark in zip(pieces[::2], [*pieces[1::2], ""]):
        if not any(form in secret or _holds(form, secret) for form in _forms(word)):
            kept += word + mark
    printable = "".join(letter if letter.isprintable() else " " for letter in kept)
    return printable.strip(" _^,;:/\\-([.<'\"")[:80]


def _holds(word: str, secret: Iterable[str]) -> bool:
    """Return whether a longer secret is a part of a word."""
    return any(_letters(form) > FEWEST_LETTERS and form in word for form in secret)


def _letters(form: str) -> int:
    """Return its length; an ideograph is worth two letters."""
    return len(form) if form.isascii() else 2 * len(form)


def _forms(text: str) -> set[str]:
    """Return letters and digits alone, without case and accents, with umlauts as one letter and as two."""
    folded = text.casefold()
    return {_plain(folded), _plain(unicodedata.normalize("NFC", folded).translate(_UMLAUTS))}


_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ø": "oe", "å": "aa", "æ": "ae"})


def _plain(text: str) -> str:
    """Return letters and digits alone, without case and accents."""
    folded = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in folded if letter.isalnum())
