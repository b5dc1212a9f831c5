"""What the engine must know about one release of one data set."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

LABEL = "label"
"""The role of the label file beside the channels' names."""


@dataclass(frozen=True)
class Release:
    """One release: where its files lie, what its labels mean and what nnU-Net shall see.

    `path` is a regular expression for the whole path of a file inside the download, with `/` between folders;
    `{case}` stands for `case_pattern` and `{suffix}` for the suffix of the channel or of the label.

    Attributes:
        name: as typed by users, for instance `brats2023-gli`.
        title: one line for lists.
        dataset_name: the part of the nnU-Net folder's name after `DatasetXXX_`.
        case_pattern: regular expression of a case id.
        patient_pattern: regular expression that finds the patient key (its group 1) at the start of a case id.
        channels: channel name to file suffix, in the order of the network's input channels.
        label_suffix: suffix of the label file.
        labels: label values as they are on the disk, without background, and their meaning.
        label_map: value on the disk to value for nnU-Net, where they differ; nnU-Net wants 0, 1, 2, ... without gaps.
        regions: name to values for nnU-Net; one value each where labels do not overlap.
        regions_class_order: value painted for each region at prediction, later ones over earlier ones; empty where
            every region is one label.
        grid: voxels per axis (x, y, z) of the release, None where cases differ. A case on another grid is noted.
        licence: terms of use.
        url: where to get the data.
        citation: what to cite.
        notes: what a user should know.
    """

    name: str
    title: str
    dataset_name: str
    case_pattern: str
    patient_pattern: str
    channels: Mapping[str, str]
    label_suffix: str
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    regions_class_order: tuple[int, ...] = ()
    label_map: Mapping[int, int] = field(default_factory=dict)
    path: str = r"(?:.*/)?{case}{suffix}\.nii(?:\.gz)?"
    grid: tuple[int, int, int] | None = None
    licence: str = ""
    url: str = ""
    citation: str = ""
    notes: tuple[str, ...] = ()

    def patient_of(self, case: str) -> str:
        """The patient key of a case id: cases that share it are never on two sides of a split."""
        match = re.match(self.patient_pattern, case)
        return match.group(1) if match else case

    def suffixes(self) -> dict[str, str]:
        """Role (a channel's name or `label`) to file suffix."""
        return {**self.channels, LABEL: self.label_suffix}

    def file_patterns(self) -> dict[str, re.Pattern[str]]:
        """Role to the expression that a path inside the download must match as a whole; its group is `case`."""
        case = f"(?P<case>{self.case_pattern})"
        return {
            role: re.compile(self.path.replace("{case}", case).replace("{suffix}", re.escape(suffix)))
            for role, suffix in self.suffixes().items()
        }

    def target_of(self, value: int) -> int:
        """The value that nnU-Net sees for a value on the disk."""
        return self.label_map.get(value, value)

    def inverse_label_map(self) -> dict[int, int]:
        """Value for nnU-Net to value on the disk, for every label."""
        return {self.target_of(value): value for value in self.labels}

    def as_dict(self) -> dict[str, Any]:
        """The entry as plain JSON types."""
        return asdict(self)

    def describe(self) -> str:
        """The entry as text for a terminal."""
        files = [f"  {role:<8} CASE{suffix}.nii.gz" for role, suffix in self.suffixes().items()]
        labels = [f"  {value}  {meaning}" for value, meaning in self.labels.items()]
        regions = [f"  {name:<18} {', '.join(map(str, values))}" for name, values in self.regions.items()]
        parts = [
            f"{self.name}: {self.title}",
            "files (CASE matches " + self.case_pattern + "):", *files,
            "labels on the disk:", *labels,
            "regions:", *regions,
            f"grid: {' x '.join(map(str, self.grid)) if self.grid else 'differs from case to case'}",
            f"licence: {self.licence}", f"where to get it: {self.url}", f"cite: {self.citation}",
            *(f"note: {note}" for note in self.notes),
        ]  # fmt: skip
        return "\n".join(parts)
