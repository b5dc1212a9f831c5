"""One row of the manifest."""

from dataclasses import asdict, dataclass, field
from typing import Any

OK, REPAIRED, REFUSED = "ok", "repaired", "refused"
TRAIN, TEST = "train", "test"


@dataclass
class CaseRecord:
    """The result of converting a case.

    Attributes:
        case: case id.
        patient: patient key.
        session: empty where the release has no sessions.
        site: where it was scanned; empty if unknown.
        aliases: ids of the patient elsewhere.
        family: of the patient; empty if unknown.
        part: `train`, or `test` for a case that was published without segmentation.
        status: `ok`, `repaired` (the release's repair list covered a fault) or `refused`.
        reason: why it was refused or what was repaired, one sentence.
        notes: what is unusual but fine.
        sources: role to path relative to the download; a channel filled with zeros has none.
        targets: role to path relative to the data set; empty when refused.
        labels: label values on the disk and their voxels (of separate masks: their bits in one value).
        sha256: role to the hash of the voxel values, for channels with contrast, labels and masks.
        shape: voxels, (x, y, z).
        spacing: mm, (x, y, z).
        orientation: where the axes point to.
    """

    case: str
    patient: str
    session: str = ""
    site: str = ""
    aliases: list[str] = field(default_factory=list)
    family: str = ""
    part: str = TRAIN
    status: str = OK
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    shape: list[int] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    orientation: str = ""

    def add_repair(self, what: str) -> None:
        """Note a repair: the row becomes `repaired`, and its reason names every repair once."""
        self.status = REPAIRED
        if what not in self.reason.split("; "):
            self.reason = f"{self.reason}; {what}" if self.reason else what

    def as_dict(self) -> dict[str, Any]:
        """Return the row as plain JSON types."""
        return {**asdict(self), "labels": {str(value): count for value, count in self.labels.items()}}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "CaseRecord":
        """Return the row that `as_dict` gave."""
        return cls(**{**row, "labels": {int(value): count for value, count in row["labels"].items()}})
