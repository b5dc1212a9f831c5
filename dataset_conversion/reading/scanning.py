"""Finding the files of a release in a download."""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from bdfm_nnunet.dataset_conversion.path_patterns import literal_end, literal_letters, path_pattern
from bdfm_nnunet.dataset_conversion.reading.bids_entities import match_masks, session_of
from bdfm_nnunet.dataset_conversion.reading.folder_walk import Walk, some
from bdfm_nnunet.dataset_conversion.reading.linked_files import keep_each_once
from bdfm_nnunet.dataset_conversion.reading.patient_tables import add_what_tables_say
from bdfm_nnunet.dataset_conversion.release import CONFOUNDS, LABEL, MASK, Release, Repair
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.volume_endings import unread_ending, without_ending

NO_MASKS = (
    "no mask has a name that --label tells: give the end of the masks' names, with the entities that tell them from "
    "others (label-lesion_mask, FLAIR_roi), or name the files by patterns with `bdfm convert folder`, for instance "
    "--image T1w='**/{case}_T1w' --label '**/{case}_mask'"
)


@dataclass
class FoundCase:
    """The files found for one case.

    Attributes:
        files: role to paths relative to the download; more than one path is a clash. A case whose folder is there
            without any of its files has no role.
        kinds: role to the kind of the alternative that was chosen, where it has a name.
        repaired: one sentence for every repair of the release that the scan applied.
        test: whether the case was published without segmentation.
        aliases: ids of the patient elsewhere, from tables in the download.
        site: where the case was scanned, from tables or its id; empty if unknown.
        family: of the patient, from tables; empty if unknown.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)
    test: bool = False
    aliases: list[str] = field(default_factory=list)
    site: str = ""
    family: str = ""


@dataclass
class Scan:
    """The content of a download.

    Attributes:
        cases: case id to what was found of it, in the order of ids.
        junk: left-overs of operating systems (`._*`, `__MACOSX`, `.DS_Store`), relative paths.
        unused: volumes that belong to no role of the release or are of a form that is not read, relative paths.
        notes: what else a user should know of, for instance a table that could not be read or hidden folders.
    """

    cases: dict[str, FoundCase] = field(default_factory=dict)
    junk: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def scan(source: Path, release: Release, *, only: str | None = None, leave_out: Path | None = None) -> Scan:
    """Walk `source`, nested in any way, and sort its files by case and role; only the release's tables are read.

    Links are followed, each folder and file counts once; folders whose names begin with a dot are not looked into.

    Args:
        source: the folder of the unpacked download.
        release: what to look for.
        only: regular expression for whole case ids; other cases are left out.
        leave_out: a folder that is not looked into (the data set being written).

    Raises:
        InputError: `source` is not a folder, holds nothing of the release, or no case that `only` asks for.
    """
    if not source.is_dir():
        raise InputError(
            f"{source} is not a folder: name the folder of the unpacked {release.name} download",
            entry="no-source-folder",
        )
    sorter, walk = _Sorter(release, source.resolve().name), Walk(source, leave_out)
    for prefix, folders, names in walk.folders():
        for name in folders:
            sorter.take_folder(prefix + name)
        for name in names:
            sorter.take(prefix + name)
    found = sorter.finish()
    found.junk = walk.junk
    found.notes += [*walk.notes(), *keep_each_once(source, found.cases)]
    if not found.cases:
        raise _nothing_found(source, release, found)
    found.cases = {case: found.cases[case] for case in chosen_cases(sorted(found.cases), only)}
    for case, content in found.cases.items():
        content.site = release.site_of(case)
    add_what_tables_say(source, release, sorter.tables, found.cases, found.notes)
    return found


def chosen_cases(cases: list[str], only: str | None) -> list[str]:
    """Return the case ids that `only` matches in full, all where it is None.

    Raises:
        InputError: it is no regular expression, or matches none.
    """
    if only is None:
        return cases
    try:
        chosen = [case for case in cases if re.fullmatch(only, case)]
    except re.error as error:
        raise InputError(f"only = {only!r} is no regular expression ({error}): correct it") from None
    if not chosen:
        raise InputError(
            f"none of the {len(cases)} cases has an id that {only!r} matches in full, for instance not {cases[0]}: "
            "correct the expression"
        )
    return chosen


# ------------------------------------------------------------------------------------------------ sorting the files


@dataclass(frozen=True)
class _Slot:
    """One expression and the role of a file that matches it.

    Attributes:
        pattern: of paths without ending.
        end: letters that a matching path ends with.
        letters: number of letters that the expression holds as they are.
        roles: roles with the rank of this alternative; several for the channels of a 4-D file.
        repair: the repair whose stand-in this is.
    """

    pattern: re.Pattern[str]
    end: str
    letters: int
    roles: tuple[tuple[str, int], ...]
    repair: Repair | None = None


class _Sorter:
    """A sorter of paths that settles, once it has seen all, which of the alternatives each case has."""

    def __init__(self, release: Release, source_name: str) -> None:
        self.release = release
        self.source_name = source_name
        self.found = Scan()
        self.tables: list[str] = []
        self._slots = _slots_of(release)
        self._folder = path_pattern(release.case_folder, release.case_pattern) if release.case_folder else None
        self._tables = [re.compile(table.path) for table in release.tables]
        confounds = release.runs.confounds if release.runs else ()
        self._confounds = [path_pattern(path, release.case_pattern) for path in confounds]
        self._motion: dict[str, dict[int, list[str]]] = {}
        self._ranked: dict[tuple[str, str], dict[int, list[str]]] = {}
        self._stand_ins: dict[tuple[str, str], list[tuple[str, Repair]]] = {}
        self._masks: dict[str, int] = {}
        self._extra: dict[str, list[str]] = {}
        self._unread: dict[str, list[str]] = {}

    def take_folder(self, path: str) -> None:
        """Make a folder that is named like a case a case, so that one with all files missing is not passed over."""
        if self._folder is not None and (match := self._folder.fullmatch(path)):
            self.found.cases.setdefault(self._case(match), FoundCase())

    def take(self, path: str) -> None:
        """Put a file where it belongs."""
        stem = without_ending(path)
        if stem is None:
            self._take_other(path)
            return
        matches = [
            (slot, match) for slot in self._slots if stem.endswith(slot.end) and (match := slot.pattern.fullmatch(stem))
        ]
        if matches:
            slot, match = max(matches, key=lambda found: (found[0].repair is None, found[0].letters))
            self._put(path, self._case(match), slot)
        else:
            self.found.unused.append(path)

    def _take_other(self, path: str) -> None:
        if any(table.fullmatch(path) for table in self._tables):
            self.tables.append(path)
        elif ending := unread_ending(path):
            self.found.unused.append(path)
            self._unread.setdefault(ending, []).append(path)
        for rank, pattern in enumerate(self._confounds):
            if match := pattern.fullmatch(path):
                self._motion.setdefault(self._case(match), {}).setdefault(rank, []).append(path)
                return

    def _put(self, path: str, case: str, slot: _Slot) -> None:
        for role, rank in slot.roles:
            if slot.repair is not None:
                if re.fullmatch(slot.repair.case, case):
                    self._stand_ins.setdefault((case, role), []).append((path, slot.repair))
                else:
                    self.found.unused.append(path)
            elif role == LABEL and self.release.by_entities:
                self._masks[path] = rank
            elif role in self.release.extra_channels:
                self._extra.setdefault(role, []).append(case)
            else:
                self.found.cases.setdefault(case, FoundCase())
                self._ranked.setdefault((case, role), {}).setdefault(rank, []).append(path)

    def _case(self, match: re.Match[str]) -> str:
        groups = defaultdict(str, {name: text or "" for name, text in match.groupdict().items()})
        return self.release.case_name.format_map(groups).replace("/", "_")

    def finish(self) -> Scan:
        """Settle alternatives, replacements, stand-ins and the cases that were published without labels."""
        self._match_masks()
        alternatives = self.release.sources()
        for (case, role), ranked in self._ranked.items():
            content, rank = self.found.cases[case], min(ranked)
            content.files[role] = self._newest(ranked[rank], content, role)
            if kind := alternatives[role][rank].kind:
                content.kinds[role] = kind
        self._use_stand_ins()
        for case, content in self.found.cases.items():
            content.files = {role: content.files[role] for role in alternatives if role in content.files}
            if case in self._motion:
                content.files[CONFOUNDS] = self._motion[case][min(self._motion[case])]
            content.test = self._published_without_label(content)
        self._note_extra_channels()
        self._note_unread()
        return self.found

    def _match_masks(self) -> None:
        """Give masks to the cases whose entities they have."""
        if not self._masks and self.release.by_entities and self.release.label:
            self.found.notes.append(NO_MASKS)
        found, doubtful, alone = match_masks(self._masks, list(self.found.cases))
        for mask, case in (*found.items(), *((mask, session_of(mask)) for mask in alone)):
            self.found.cases.setdefault(case, FoundCase())
            self._ranked.setdefault((case, LABEL), {}).setdefault(self._masks[mask], []).append(mask)
        if doubtful:
            self.found.unused += doubtful
            self.found.notes.append(
                f"masks that do not have the entities of exactly one image ({len(doubtful)}): {some(doubtful)}"
            )

    def _newest(self, paths: list[str], content: FoundCase, role: str) -> list[str]:
        newer = [path for path in paths if re.search(self.release.replacements or "$^", path)]
        if not newer or len(newer) == len(paths):
            return paths
        content.repaired.append(f"{' and '.join(newer)} was published in place of another file for {role} and is used")
        return newer

    def _use_stand_ins(self) -> None:
        for (case, role), candidates in self._stand_ins.items():
            content = self.found.cases.setdefault(case, FoundCase())
            if role in content.files:
                self.found.unused += [path for path, _ in candidates]
                continue
            content.files[role] = [path for path, _ in candidates]
            content.repaired.append(candidates[0][1].why)

    def _published_without_label(self, content: FoundCase) -> bool:
        if not self.release.unlabelled_part or any(role == LABEL or role.startswith(MASK) for role in content.files):
            return False
        paths = [f"{self.source_name}/{path}" for found in content.files.values() for path in found]
        return any(re.search(self.release.unlabelled_part, path) for path in paths)

    def _note_extra_channels(self) -> None:
        if self._extra:
            counts = ", ".join(f"{role} ({len(cases)})" for role, cases in sorted(self._extra.items()))
            self.found.notes.append(f"files of channels that were not asked for were left aside: {counts}")
        others = {case for cases in self._extra.values() for case in cases} - set(self.found.cases)
        if others:
            self.found.notes.append(
                f"{len(others)} cases have none but such channels and are left out, for instance {min(others)}"
            )

    def _note_unread(self) -> None:
        paths = [path for found in self._unread.values() for path in found]
        if paths:
            self.found.notes.append(
                f"volumes of a form that is not read, {' and '.join(sorted(self._unread))} ({len(paths)}): "
                f"{some(paths)}; export them as .nii.gz to use them"
            )


def _slots_of(release: Release) -> list[_Slot]:
    """Return the roles by expression in the order in which they are tried: own files, then stand-ins."""
    roles: dict[str, list[tuple[str, int]]] = {}
    for role, alternatives in release.sources().items():
        for rank, source in enumerate(alternatives):
            roles.setdefault(source.path, []).append((role, rank))
    for role, source in release.extra_channels.items():
        roles.setdefault(source.path, []).append((role, 0))
    slots = [_slot(release, path, tuple(found), None) for path, found in roles.items()]
    for repair in release.repairs:
        slots += [_slot(release, path, ((role, 0),), repair) for role, path in repair.files.items()]
    return slots


def _slot(release: Release, path: str, roles: tuple[tuple[str, int], ...], repair: Repair | None) -> _Slot:
    pattern = path_pattern(path, release.case_pattern)
    return _Slot(pattern, literal_end(pattern.pattern), literal_letters(pattern.pattern), roles, repair)


def _nothing_found(source: Path, release: Release, found: Scan) -> InputError:
    expected = f"files named like {release.example(next(iter(release.channels)))}"
    there = f"for instance {found.unused[0]}" if found.unused else "no .nii, .nii.gz or .img file at all"
    remedy = "check the folder and the name of the release (`bdfm releases`)"
    if release.is_open:
        remedy = "check the folder and the options that tell the names of its files"
    more = "".join(f"; {note}" for note in found.notes)
    return InputError(
        f"{source} holds no case of {release.name}: {expected} were expected, there is {there}{more}; {remedy}",
        entry="no-cases-found",
    )
