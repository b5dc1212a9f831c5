"""The order to convert one 4-D run: all that a worker process needs for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bdfm_nnunet.dataset_conversion.reading.scanning import FoundCase
from bdfm_nnunet.dataset_conversion.release import CONFOUNDS, LABEL, Release, RunRules
from bdfm_nnunet.dataset_conversion.run_settings import RunSettings
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.resume_log import stamp_of
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.sequence_files import FOLDER, FRAMES, HEADER, MASK
from bdfm_nnunet.safe_names import fault_of_name

SIDECAR = "sidecar"
"""Starts the roles of JSON files, the nearest first: `sidecar:0`."""
PROPERTIES = "header"


@dataclass(frozen=True)
class RunOrder:
    """One run to be converted.

    Attributes:
        release: the table entry.
        case: case id.
        found: what the scan found of it, paths relative to `source`.
        sidecars: JSON files that may tell its repetition time, the nearest first.
        source: the download.
        folder: the nnU-Net data set.
        settings: how it is prepared.
        dry_run: check only.
    """

    release: Release
    case: str
    found: FoundCase
    sidecars: tuple[str, ...]
    source: Path
    folder: Path
    settings: RunSettings
    dry_run: bool = False

    @property
    def channel(self) -> str:
        """The role of the run's own file."""
        return next(iter(self.release.channels))

    @property
    def rules(self) -> RunRules:
        """What else the release tells of its runs."""
        assert self.release.runs is not None
        return self.release.runs

    @property
    def task(self) -> str:
        """What the subject did, empty if the id does not tell."""
        match = re.search(self.rules.task_pattern, self.case)
        return (match[1] or "") if match else ""

    @property
    def in_template(self) -> bool:
        """Whether the run is stored in the box of the template."""
        return self.settings.grid == "template" or (self.settings.grid == "" and self.rules.template)

    def sources(self) -> dict[str, str]:
        """Return the files of the run: its frames and, where they are there, brain mask, confounds and JSON files.

        Raises:
            Refusal: the case id cannot be the name of a file, the frames are missing, or there are two files of a role.
        """
        stem = MASK.removesuffix(FRAMES)
        fault = fault_of_name(self.case) or ("it ends like that of a brain mask" if self.case.endswith(stem) else "")
        if fault:
            raise Refusal(f"its id cannot be the name of a file ({fault}): rename its files")
        chosen = {}
        for role in (self.channel, LABEL, CONFOUNDS):
            paths = self.found.files.get(role, [])
            if len(paths) > 1:
                what = {LABEL: "brain mask"}.get(role, role)
                raise Refusal(
                    f"{self.case} has {len(paths)} files for {what}, {' and '.join(paths)}: keep the right one and "
                    "move the others out of the folder, or name the files more closely (--space for fMRIPrep)"
                )
            if paths:
                chosen[role] = paths[0]
        if self.channel not in chosen:
            raise Refusal(
                f"the run of {self.case} is missing, for instance {self.release.example(self.channel)}: download it "
                "again, or check the names of its files"
            )
        return chosen | {f"{SIDECAR}:{number}": path for number, path in enumerate(self.sidecars)}

    def targets(self) -> dict[str, str]:
        """Map each role to its path inside the data set."""
        endings: Mapping[str, str] = {self.channel: FRAMES, LABEL: MASK, PROPERTIES: HEADER}
        return {role: f"{FOLDER}/{self.case}{ending}" for role, ending in endings.items()}

    def other_targets(self) -> set[str]:
        """Return nothing: a run is never in another part."""
        return set()

    def stamp(self, name: str) -> list[int] | None:
        """Return numbers that change when a source does; None if it is not there."""
        return stamp_of(self.source / name)

    def new_record(self) -> CaseRecord:
        """Return the row of the run as far as its id and the scan tell it."""
        return CaseRecord(
            case=self.case,
            patient=self.release.patient_of(self.case),
            session=self.release.session_of(self.case),
            site=self.found.site,
            aliases=list(self.found.aliases),
            family=self.found.family,
        )
