"""The table entry of a release: all that the engine knows about one version of one data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bdfm_nnunet.dataset_conversion.path_patterns import CASE, example_of, path_pattern
from bdfm_nnunet.dataset_conversion.release_description import describe
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import OPEN_RELEASES

LABEL = "label"
"""The role of the label file beside the channels' names."""
CONFOUNDS = "confounds"
"""The role of a run's table of confounds."""
MASK = "mask:"
"""Starts the role of one of several mask files: `mask:OR_left`."""


@dataclass(frozen=True)
class Source:
    """Where the file of a role lies, and what of it is used.

    Attributes:
        path: regular expression for the whole path inside the download, with `/` between folders. `{case}` stands for
            the release's `case_pattern`; where it stands twice, both must be the same. Other named groups may be used
            by `case_name`. A path ends before `.nii`, `.nii.gz`, `.img` or `.hdr` (in any case), which the
            engine adds.
        kind: tells alternatives apart in the manifest, for instance `manual` and `automated`.
        volume: index on the fourth axis of a 4-D file; None where the file must be three-dimensional.
    """

    path: str
    kind: str = ""
    volume: int | None = None


@dataclass(frozen=True)
class Repair:
    """A known fault of the published files, and its repair. The case becomes `repaired`.

    Attributes:
        case: regular expression for the whole case id.
        why: one sentence for the manifest.
        files: role to the regular expression of another path (as in `Source`) that stands in where the role's own file
            is missing.
        values: stray label value on the disk to the value that it is read as.
        missing: channels that may be missing or empty; a missing one is written as zeros.
        plain: whether a file named `.nii.gz` may be an uncompressed NIfTI file.
    """

    case: str
    why: str
    files: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[int, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    plain: bool = False


@dataclass(frozen=True)
class Table:
    """A table (CSV or XLSX) inside the download that says more about its cases.

    Ids are compared without regard to case and to leading zeros of numbers: `UCSF-PDGM-004` is `UCSF-PDGM-0004`.

    Attributes:
        path: regular expression for the whole path inside the download.
        id: column of the case or patient id; the first of these that the table has.
        aliases: columns with ids that the same patient has elsewhere; those the table does not have are left out.
        alias_pattern: regular expression that finds the patient key in such an id: its groups, one after the other.
        site: columns with the site; the first of these that the table has.
        family: columns with the family, whose members are never on two sides of a split; the first of these that the
            table has.
    """

    path: str
    id: tuple[str, ...]
    aliases: tuple[str, ...] = ()
    alias_pattern: str = r"^(.+)$"
    site: tuple[str, ...] = ()
    family: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRules:
    """What there is to know of a release of 4-D runs; its one channel is the run, its label the brain mask.

    Attributes:
        confounds: regular expressions for the whole path of a run's table of confounds, with ending and `{case}`;
            alternatives in order of preference.
        template: whether the runs lie in the space of the MNI template.
        task_pattern: regular expression that finds the task (its group 1) in a case id.
    """

    confounds: tuple[str, ...] = ()
    template: bool = True
    task_pattern: str = r"_task-([A-Za-z0-9+]+)"


@dataclass(frozen=True)
class Release:
    """One release: where its files lie, what its labels mean and what nnU-Net gets.

    Attributes:
        name: as typed by users, for instance `brats2023-gli`.
        title: one line for lists.
        dataset_name: the part of the nnU-Net folder's name after `DatasetXXX_`.
        case_pattern: regular expression of `{case}` in paths, without capturing groups.
        patient_pattern: regular expression that finds the patient key in a case id: its groups, one after the other.
        channels: channel name to its file, in the order of the network's input channels.
        extra_channels: further channels that a user may ask for (`--channels`).
        label: the label file, alternatives in order of preference; empty where there are no labels or `masks`.
        masks: structure name to its own file of zeros and non-zeros. They may overlap: structure i becomes bit i of
            the label, and `regions` has one entry per structure with every value that has its bit.
        labels: label values as they are on the disk, without background, and their meaning.
        label_map: value on the disk to value for nnU-Net, where they differ; nnU-Net wants 0, 1, 2, ... without gaps.
        regions: name to values for nnU-Net; one value each where labels do not overlap.
        regions_class_order: value painted for each region at prediction, later ones over earlier ones; empty where
            every region is one label.
        scored_regions: name to values for nnU-Net of the regions that the organisers score, where these are not
            `regions`, which must be fit for painting.
        case_name: case id made of the named groups of a path; `{case}` where the path itself holds it. A slash in an
            id becomes an underscore.
        case_folder: path of a folder that shows by its name that there is a case, though all its files be missing.
        ending: ending of the published files, for messages and lists; every ending is read.
        unlabelled_part: regular expression searched in the path of a case without label file, which starts with the
            name of the download's own folder: such cases were published without segmentation and go to `imagesTs`
            instead of being refused. Empty: there are none.
        session_pattern: regular expression that finds the session (its group 1) in a case id; empty: one session.
        site_pattern: regular expression that finds the site (its group 1) in a case id; empty: not known from the id.
        grid: voxels per axis (x, y, z) of the release, None where cases differ. A case on another grid is noted.
        spacing: mm per axis that goes with `grid`.
        origin: of `grid`, mm towards left, posterior, superior (LPS).
        repairs: known faults.
        replacements: regular expression searched in paths: of two files for one role, the one that matches was
            published later in place of the other and is taken. Empty: two files for one role are always a clash.
        by_entities: the label is a mask whose name has the entities of its image among others (BIDS): it belongs to
            the case whose entities its name holds, whatever `{case}` stands for in its path.
        tables: tables inside the download.
        aliases: patient key to the key of the same patient, where the release itself has two.
        overlaps: names of releases, or free text, that share scans with this one.
        runs: what else there is to know of a release of 4-D runs; None for volumes.
        submission_name: file name of a segmentation handed in to the challenge, with `{case}`; empty: no challenge.
        licence: terms of use.
        url: where to get the data.
        citation: what to cite.
        notes: what a user should know, also what is not certain about the layout.
    """

    name: str
    title: str
    dataset_name: str
    case_pattern: str
    patient_pattern: str
    channels: Mapping[str, Source]
    extra_channels: Mapping[str, Source] = field(default_factory=dict)
    label: tuple[Source, ...] = ()
    masks: Mapping[str, Source] = field(default_factory=dict)
    labels: Mapping[int, str] = field(default_factory=dict)
    label_map: Mapping[int, int] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    regions_class_order: tuple[int, ...] = ()
    scored_regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    case_name: str = CASE
    case_folder: str = r"(?:.*/)?{case}"
    ending: str = ".nii.gz"
    unlabelled_part: str = ""
    session_pattern: str = ""
    site_pattern: str = ""
    grid: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    origin: tuple[float, float, float] | None = None
    repairs: tuple[Repair, ...] = ()
    replacements: str = ""
    by_entities: bool = False
    tables: tuple[Table, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    overlaps: tuple[str, ...] = ()
    runs: RunRules | None = None
    submission_name: str = ""
    licence: str = ""
    url: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether it stands for a user's own data, whose layout the user has described."""
        return self.name in OPEN_RELEASES

    @property
    def has_labels(self) -> bool:
        """Whether segmentations were published for any case."""
        return bool(self.label or self.masks)

    @property
    def evaluated_regions(self) -> Mapping[str, tuple[int, ...]]:
        """The regions that the organisers score."""
        return self.scored_regions or self.regions

    def sources(self) -> dict[str, tuple[Source, ...]]:
        """Map each role to its files, alternatives in order of preference: channels, the label, or the masks."""
        channels = {name: (source,) for name, source in self.channels.items()}
        label = {LABEL: self.label} if self.label else {}
        return {**channels, **label, **{MASK + name: (source,) for name, source in self.masks.items()}}

    def with_channels(self, names: Sequence[str]) -> "Release":
        """Return the release with these of its channels, in this order; the others become extra channels.

        Raises:
            InputError: there is no such channel, or one is named twice.
        """
        every = {**self.channels, **self.extra_channels}
        for name in names:
            if name not in every:
                raise InputError(f"{self.name} has no channel {name!r}: choose among {', '.join(every)}")
        if not names or len(set(names)) < len(names):
            raise InputError(f"channels {', '.join(names) or '(none)'} of {self.name}: name one or more, each once")
        chosen = {name: every.pop(name) for name in names}
        return replace(self, channels=chosen, extra_channels=every)

    def examples(self, role: str, case: str = "") -> list[str]:
        """Return a path for every alternative of a role, of `case` where paths hold the id, else of a made-up case."""
        sources = {**self.sources(), **{name: (source,) for name, source in self.extra_channels.items()}}[role]
        patterns = [path_pattern(source.path, re.escape(case) if case else self.case_pattern) for source in sources]
        return [example_of(pattern.pattern) + self.ending for pattern in patterns]

    def example(self, role: str, case: str = "") -> str:
        """Return the first of `examples`, for messages."""
        return self.examples(role, case)[0]

    def patient_of(self, case: str) -> str:
        """Return the patient key of a case id: cases that share it are never on two sides of a split."""
        key = _found(self.patient_pattern, case) or case
        return self.aliases.get(key, key)

    def session_of(self, case: str) -> str:
        """Return the session of a case id, empty where ids do not tell."""
        return _found(self.session_pattern, case)

    def site_of(self, case: str) -> str:
        """Return the site of a case id, empty where ids do not tell."""
        return _found(self.site_pattern, case)

    def repairs_of(self, case: str) -> tuple[Repair, ...]:
        """Return the known faults that may concern a case."""
        return tuple(repair for repair in self.repairs if re.fullmatch(repair.case, case))

    def target_of(self, value: int) -> int:
        """Return the value that nnU-Net sees for a value on the disk."""
        return self.label_map.get(value, value)

    def inverse_label_map(self) -> dict[int, int]:
        """Map nnU-Net's value to the value on the disk, for every label."""
        return {self.target_of(value): value for value in self.labels}

    def describe(self) -> str:
        """Return the entry in words."""
        return describe(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON types; `from_dict` is its inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> "Release":
        """Return the checked entry that `as_dict` wrote and a user may have changed.

        Raises:
            InputError: it has unknown names, values of another kind, or cannot work.
        """
        from bdfm_nnunet.dataset_conversion.release_json import entry_from_dict  # it builds on this module

        return entry_from_dict(content)


def _found(pattern: str, case: str) -> str:
    match = re.search(pattern, case) if pattern else None
    return "".join(text or "" for text in match.groups()) if match else ""


def one_label_each(labels: dict[int, str]) -> dict[str, Any]:
    """Return the fields of a release in which each label is a region, renumbered without gaps."""
    targets = {value: index for index, value in enumerate(sorted(labels), start=1)}
    return {
        "labels": labels,
        "label_map": {value: target for value, target in targets.items() if value != target},
        "regions": {labels[value].replace(" ", "_"): (target,) for value, target in targets.items()},
    }
