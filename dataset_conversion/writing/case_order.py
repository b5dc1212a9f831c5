"""The order to convert one case: all that a worker process needs for it."""

from dataclasses import dataclass
from pathlib import Path

from bdfm_nnunet.dataset_conversion.reading.scanning import FoundCase
from bdfm_nnunet.dataset_conversion.release import LABEL, MASK, Release
from bdfm_nnunet.dataset_conversion.writing.case_record import TEST, TRAIN, CaseRecord
from bdfm_nnunet.dataset_conversion.writing.resume_log import stamp_of
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.volumes import Volume, read_volumes
from bdfm_nnunet.safe_names import fault_of_name


@dataclass(frozen=True)
class CaseOrder:
    """One case to be converted.

    Attributes:
        release: the table entry.
        case: case id.
        found: what the scan found of it, paths relative to `source`.
        source: the download.
        folder: the nnU-Net data set.
        unlabelled: label with the foreground.
        link: how unchanged files are placed.
        dry_run: check only.
    """

    release: Release
    case: str
    found: FoundCase
    source: Path
    folder: Path
    unlabelled: bool
    link: str
    dry_run: bool

    @property
    def part(self) -> str:
        """`test` for a case that was published without segmentation and is converted as it was published."""
        return TEST if self.found.test and not self.unlabelled else TRAIN

    def label_roles(self) -> list[str]:
        """Return the roles of the label file or the mask files that the case must have."""
        if self.unlabelled or self.part == TEST:
            return []
        return [MASK + name for name in self.release.masks] or [LABEL]

    def roles(self) -> list[str]:
        """Return the roles of the files that the case must have."""
        return [*self.release.channels, *self.label_roles()]

    def optional(self) -> set[str]:
        """Return channels that a repair of the release allows to be missing or empty."""
        return {role for repair in self.release.repairs_of(self.case) for role in repair.missing}

    def index_of(self, role: str) -> int | None:
        """Return which volume of a 4-D file has the role."""
        alternatives = self.release.sources()[role]
        kind = self.found.kinds.get(role, "")
        return next((source for source in alternatives if source.kind == kind), alternatives[0]).volume

    def targets(self) -> dict[str, str]:
        """Map each role to its path inside the data set."""
        ending = "Ts" if self.part == TEST else "Tr"
        images = {role: f"images{ending}/{self.case}_{i:04d}.nii.gz" for i, role in enumerate(self.release.channels)}
        return images if self.part == TEST else {**images, LABEL: f"labelsTr/{self.case}.nii.gz"}

    def other_targets(self) -> set[str]:
        """Return the paths at which an earlier run may have put the case when it belonged to the other part."""
        other = "Tr" if self.part == TEST else "Ts"
        images = {f"images{other}/{self.case}_{i:04d}.nii.gz" for i in range(len(self.release.channels))}
        return images | {f"labels{other}/{self.case}.nii.gz"}

    def sources(self) -> dict[str, str]:
        """Return the one file of every role; a channel that may be missing and is missing has none.

        Raises:
            Refusal: the case id cannot be the name of a file, a file is missing, or there are two of one role.
        """
        if fault := fault_of_name(self.case):
            raise Refusal(f"its id cannot be the name of a file ({fault}): rename its files")
        chosen: dict[str, str] = {}
        missing: list[str] = []
        for role in self.roles():
            paths = self.found.files.get(role, [])
            if len(paths) > 1:
                more = "give --label more of its name" if self.release.by_entities and role == LABEL else ""
                raise Refusal(
                    f"{self.case} has {len(paths)} files for {role}, {' and '.join(paths)}: keep the right one and "
                    f"move the others out of the folder{more and f', or {more}'}",
                    entry="two-files-for-one",
                )
            if paths:
                chosen[role] = paths[0]
            elif role not in self.optional():
                missing.append(role)
        if missing or not set(chosen) & set(self.release.channels):
            raise self._missing(missing or list(self.release.channels))
        return chosen

    def stamp(self, name: str) -> list[int] | None:
        """Return numbers that change when a source does; None if it is not there."""
        return stamp_of(self.source / name)

    def read(self, record: CaseRecord) -> dict[str, Volume]:
        """Read the volumes of `record.sources` by role; a file that has several of them is read once.

        Raises:
            Refusal: a file cannot be used.
        """
        plain = next((repair for repair in self.release.repairs_of(self.case) if repair.plain), None)
        found: dict[str, Volume] = {}
        for name in dict.fromkeys(record.sources.values()):
            roles = [role for role, path in record.sources.items() if path == name]
            indices = [self.index_of(role) for role in roles]
            found.update(zip(roles, read_volumes(self.source / name, name, indices, plain=plain is not None)))
            if plain and found[roles[0]].plain:
                record.add_repair(f"{plain.why} ({name} is not compressed)")
        return {role: found[role] for role in record.sources}

    def _missing(self, roles: list[str]) -> Refusal:
        labels = set(roles) <= set(self.label_roles())
        names = " and ".join(self.release.example(role, self.case) for role in roles)
        remedy = "download the case again"
        if self.release.by_entities:
            names = " and ".join(roles)  # the folder and the entities of a file that is not there are not known
        if self.release.is_open:
            remedy = "check the names of its files and the options that tell them"
        if labels:
            remedy += ", or use --unlabelled for cases without segmentation"
        return Refusal(f"{names} of {self.case} {'is' if len(roles) == 1 else 'are'} missing: {remedy}")

    def new_record(self) -> CaseRecord:
        """Return the row of the case as far as its id and the scan tell it."""
        release, found = self.release, self.found
        return CaseRecord(
            case=self.case,
            patient=release.patient_of(self.case),
            session=release.session_of(self.case),
            site=found.site,
            aliases=list(found.aliases),
            family=found.family,
            part=self.part,
        )
