"""The cases in a folder of images with any names, at any level; what cannot be used is told of its case alone."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from bdfm_nnunet.dataset_conversion.reading.folder_walk import Walk, some
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.volume_endings import unread_ending, without_ending
from bdfm_nnunet.modality_names import modality_of

_MARKS = re.compile(r"[-_. ]+")
_LABEL = re.compile(r"seg|label|mask|gt|gtv|roi|lesion|annotation", re.I)
_NUMBER = re.compile(r"\d{4}")


@dataclass(frozen=True)
class ChannelNames:
    """The channels of a model, found in names of files.

    Attributes:
        channels: names in the model's order.
        optional: those that a case may lack.
        stand_ins: channel to a modality that may take its place.
    """

    channels: tuple[str, ...]
    optional: tuple[str, ...] = ()
    stand_ins: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _known(self) -> dict[str, str]:
        return {modality_of(name): name for name in self.channels}

    @cached_property
    def _others(self) -> dict[str, str]:
        return {modality_of(other): f"{name}*" for name, other in self.stand_ins.items() if name in self.channels}

    def of_name(self, name: str) -> str | None:
        """Return the channel that a name stands for; with a `*` behind it where it only takes its place.

        >>> ChannelNames(("t1c", "t2f")).of_name("FLAIR"), ChannelNames(("t2s",), (), {"t2s": "swi"}).of_name("swi")
        ('t2f', 't2s*')
        """
        key = modality_of(name)
        return self._known.get(key) or self._others.get(key)

    def split(self, stem: str) -> tuple[str, str | None]:
        """Split the name of a file, without its ending, into what comes before the channel, and the channel.

        >>> ChannelNames(("t1c", "dwi")).split("sub-01_dwi_b1000"), ChannelNames(("t1c",)).split("a_0000")
        (('sub-01', 'dwi'), ('a', 't1c'))
        """
        marks = list(_MARKS.finditer(stem))
        starts = [0, *(mark.end() for mark in marks)]
        ends = [0, *(mark.start() for mark in marks)]
        for count in (2, 1):
            if len(starts) >= count and (channel := self.of_name(stem[starts[-count] :])):
                return stem[: ends[-count]], channel
        last = stem[starts[-1] :]
        if marks and _NUMBER.fullmatch(last) and int(last) < len(self.channels):
            return stem[: ends[-1]], self.channels[int(last)]
        return stem, None


@dataclass
class InputCase:
    """One case.

    Attributes:
        name: of its result, without ending.
        files: channel to its file.
        faults: why it cannot be predicted; sentences without full stops.
        notes: what else there is to say of it.
    """

    name: str
    files: dict[str, Path] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    path: Path
    before: str
    channel: str | None

    @property
    def is_label(self) -> bool:
        return self.channel is None and any(map(_LABEL.fullmatch, _MARKS.split(without_ending(self.path.name) or "")))


def find_inputs(source: Path, names: ChannelNames) -> tuple[list[InputCase], list[str]]:
    """Find the cases in a folder, and notes on what else is there.

    A folder that holds images is a case, called after the folder; where images of several whole cases lie together,
    each is called as its files are before the channel. Names that two cases would have become paths, with underscores.

    Args:
        source: the folder; links are followed.
        names: channels of the model.

    Raises:
        InputError: `source` is no folder that can be read, or holds no case at all.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder: name the folder that holds the cases")
    if not os.access(source, os.R_OK | os.X_OK):
        raise InputError(f"{source} cannot be read: give yourself permission to read it")
    walk, notes = Walk(source, lenient=True), []
    placed: list[tuple[str, InputCase]] = []
    for prefix, folders, files in walk.folders():
        notes += _unread(prefix, files)
        placed += [(prefix, case) for case in _cases_of(source, prefix, folders, files, names)]
    placed += list(_hidden_cases(source, walk.hidden, names))
    for prefix in walk.unreadable:
        placed.append((prefix, InputCase(_last(prefix), faults=["its folder must not be read"])))
    cases = _with_own_names(placed)
    if walk.junk:
        notes.append(f"left-overs of operating systems were passed over: {len(walk.junk)}")
    notes += walk.notes()
    if not cases:
        raise InputError(
            f"{source} holds no case: expected a folder for each, with images called {', '.join(names.channels)}"
            + "".join(f"; {note}" for note in notes)
        )
    return sorted(cases, key=lambda case: case.name), notes


def _unread(prefix: str, files: Sequence[str]) -> list[str]:
    found = [prefix + name for name in files if unread_ending(name)]
    return [f"volumes of a form that is not read: {some(found)}"] if found else []


def _last(prefix: str) -> str:
    return prefix.strip("/").rpartition("/")[2]


def _cases_of(
    source: Path, prefix: str, folders: Sequence[str], names: Sequence[str], channels: ChannelNames
) -> Iterator[InputCase]:
    """Yield the cases whose images lie in one folder."""
    folder, stems = source / prefix, [(name, without_ending(name)) for name in names]
    files = [_File(folder / name, *channels.split(stem)) for name, stem in stems if stem is not None]
    if not files:
        inside = [name for name in folders if without_ending(name) is None]
        if prefix and not inside and without_ending(_last(prefix)) is None:
            yield InputCase(_last(prefix), faults=["its folder holds no image"])
        return
    images = [file for file in files if file.channel is not None]
    aside = [file.path.name for file in files if file.channel is None]
    if not images:
        if prefix and not all(file.is_label for file in files):
            missing = ", ".join(channels.channels)
            yield InputCase(
                _last(prefix), faults=[f"none of its files ({some(aside)}) is called after one of {missing}"]
            )
        return
    groups = _groups(images, channels, alone=bool(prefix))
    for name, group in groups.items():
        case = InputCase(name if name is not None else _last(prefix) or source.resolve().name)
        if len(groups) == 1 and aside:
            case.notes.append(f"files that are no images of the model were left aside: {some(aside)}")
        _choose(case, group, channels)
        yield case


def _groups(images: Sequence[_File], channels: ChannelNames, *, alone: bool) -> dict[str | None, list[_File]]:
    """Return name to images; None for one case that is called after its folder.

    Args:
        images: in one folder.
        channels: of the model.
        alone: whether a folder is usually one case.
    """
    groups: dict[str | None, list[_File]] = {}
    for file in images:
        groups.setdefault(file.before or None, []).append(file)
    needed = set(channels.channels) - set(channels.optional)
    whole = [name for name, files in groups.items() if needed <= {str(f.channel).rstrip("*") for f in files}]
    if alone and len(whole) < 2:
        return {None: list(images)}
    return groups


def _choose(case: InputCase, files: Sequence[_File], channels: ChannelNames) -> None:
    """Take one file for each channel, and note what is missing or there twice."""
    for channel in channels.channels:
        found = [file for file in files if file.channel == channel]
        if not found and (found := [file for file in files if file.channel == f"{channel}*"]):
            case.notes.append(f"{found[0].path.name} takes the place of {channel}")
        ranked = sorted(((_rank(file, case.name, channel), file) for file in found), key=lambda each: each[0])
        if not ranked:
            if channel not in channels.optional:
                case.faults.append(f"it has no {channel}")
            continue
        same = [file.path.name for rank, file in ranked if rank == ranked[0][0]]
        if len(same) > 1:
            case.faults.append(f"it has {len(same)} files for {channel} ({some(same)})")
            continue
        if len(ranked) > 1:
            others = some([file.path.name for _, file in ranked[1:]])
            case.notes.append(f"{ranked[0][1].path.name} is taken for {channel}, not {others}")
        if _NUMBER.fullmatch(_MARKS.split(without_ending(ranked[0][1].path.name) or "")[-1]):
            case.notes.append(f"{ranked[0][1].path.name} is taken for {channel} by its number")
        case.files[channel] = ranked[0][1].path


def _rank(file: _File, case: str, channel: str) -> tuple[bool, bool, bool]:
    """Return how far a name is from what a challenge publishes; less is nearer."""
    stem = without_ending(file.path.name) or ""
    token = _MARKS.split(stem)[-1]
    return stem != f"{case}-{channel}", token.casefold() != channel.casefold(), not file.path.name.endswith(".nii.gz")


def _hidden_cases(source: Path, hidden: Sequence[str], names: ChannelNames) -> Iterator[tuple[str, InputCase]]:
    """Yield whole cases whose folders begin with a dot; other folders of that kind belong to programs."""
    for prefix in hidden:
        try:
            files = sorted(entry.name for entry in os.scandir(source / prefix) if not entry.is_dir())
        except OSError:
            continue
        for case in _cases_of(source, f"{prefix}/", [], files, names):
            if not case.faults:
                yield f"{prefix}/", case


def _with_own_names(placed: Sequence[tuple[str, InputCase]]) -> list[InputCase]:
    """Give each case a name of its own."""
    counts = Counter(case.name for _, case in placed)
    for prefix, case in placed:
        if counts[case.name] > 1:
            own = case.name
            path = prefix.strip("/").replace("/", "_")
            case.name = path if _last(prefix) == own else f"{path}_{own}".strip("_")
            case.notes.append(f"there are {counts[own]} cases called {own}: the result is called after its path")
    seen: set[str] = set()
    for _, case in placed:
        if case.name in seen:
            case.faults.append("another case has the same name")
        seen.add(case.name)
    return [case for _, case in placed]
