"""The record of the cases that a checkpoint has seen, as our trainers write it into the file.

A checkpoint holds plain types under `nnunet_reader.EXPOSURE`: `{"format": 1, "runs": [...]}`, the
oldest training first. A run names its data set, releases and licences. It lists the cases that changed the weights
("train") and those that only chose checkpoint_best ("val") in columns: case, patient, release, aliases, sha256 (of the
voxel values of each image).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.checkpoints import Checkpoint
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE_FORMAT
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.patients import CaseList, image_hashes

COLUMNS = ("case", "patient", "release", "aliases", "sha256")

_COLUMNS = {"case": [str], "patient": [str], "release": [str], "aliases": [[str]], "sha256": [[str]]}
_STORED = {
    "runs": [
        {
            "dataset?": str,
            "note?": str,
            "ancestors?": str,
            "weights?": {str: str},
            "train?": _COLUMNS,
            "val?": _COLUMNS,
            "whole?": {str: str},
            "perhaps?": {str: str},
            "releases?": {str: {"licence?": str, "citation?": str, "overlaps?": [str]}},
        }
    ]
}
"""The shape of the entry; other versions or other people may have written it."""


# ---------------------------------------------------------------------------------------------------- what was seen


@dataclass(frozen=True)
class Exposure:
    """The trainings behind a checkpoint.

    Attributes:
        runs: runs in the form above, the oldest first.
        note: reason why nothing, or not everything, is known; a sentence without its full stop.

    Example:
        >>> Exposure.of(None, named="weights.pth").note
        'weights.pth says nothing about the cases it was trained on'
        >>> from bdfm_nnunet.exposure import PUBLIC_BDFM
        >>> "brats2023-gli" in Exposure((PUBLIC_BDFM,)).releases
        True
    """

    runs: tuple[dict[str, Any], ...] = ()
    note: str = ""

    @classmethod
    def of(cls, stored: Any, *, named: str = "the checkpoint") -> "Exposure":
        """Read a checkpoint's record.

        Args:
            stored: the checkpoint's entry; None if it has none.
            named: name of the checkpoint in messages.
        """
        if stored is None:
            return cls(note=f"{named} says nothing about the cases it was trained on")
        if not _is_record(stored):
            return cls(note=f"{named} tells the cases it was trained on in a form that this version does not know")
        return cls(tuple(stored["runs"]))

    @classmethod
    def of_checkpoint(cls, checkpoint: Checkpoint) -> "Exposure":
        """Return the exposure of a checkpoint."""
        return cls.of(checkpoint.exposure, named=str(checkpoint.path))

    def then(self, run: Mapping[str, Any]) -> "Exposure":
        """Return the exposure after one more training that started from these weights."""
        return Exposure((*self.runs, dict(run) | ({"ancestors": self.note} if self.note else {})))

    def as_dict(self) -> dict[str, Any]:
        """Return the plain types that a checkpoint stores."""
        return {"format": EXPOSURE_FORMAT, "runs": list(self.runs)}

    def counted(self) -> dict[str, Any]:
        """Return the runs with the number of their cases in the place of the lists, which checkpoints hold."""
        runs = [
            {**run, **{part: len(run[part].get("case", ())) for part in ("train", "val") if part in run}}
            for run in self.runs
        ]
        return {"runs": runs, "note": self.note or None}

    @property
    def releases(self) -> dict[str, set[str]]:
        """Release name -> names of the releases that share scans with it."""
        found: dict[str, set[str]] = {}
        for run in self.runs:
            for name, entry in run.get("releases", {}).items():
                found.setdefault(name, set()).update(entry.get("overlaps", ()))
            for name in run.get("whole", ()):
                found.setdefault(name, set())
        return found


def _is_record(stored: Any) -> bool:
    if not isinstance(stored, Mapping) or stored.get("format") != EXPOSURE_FORMAT or fault_of(stored, _STORED):
        return False
    columns = (run[part].values() for run in stored["runs"] for part in ("train", "val") if part in run)
    return all(len({len(column) for column in each}) == 1 for each in columns) and _is_printable(stored["runs"])


def _is_printable(content: Any) -> bool:
    """Return whether a terminal can show all texts on one line: no control characters, no lone surrogates."""
    if isinstance(content, Mapping):
        return all(_is_printable(key) and _is_printable(value) for key, value in content.items())
    if isinstance(content, (list, tuple)):
        return all(map(_is_printable, content))
    return not isinstance(content, str) or content.isprintable()


def describe_run(cases: CaseList, *, train: Iterable[str], val: Iterable[str], **names: Any) -> dict[str, Any]:
    """Return the record of one training.

    Args:
        cases: cases of the data set, from its manifest.
        train: ids of the cases that change the weights.
        val: ids of the cases that only choose the best checkpoint.
        names: more plain entries, for instance the trainer's name.

    Example:
        >>> cases = CaseList("Dataset501_Demo", "brats2023-gli", [{"case": "a", "patient": "P1", "part": "train"}])
        >>> run = describe_run(cases, train=["a"], val=[], trainer="nnUNetTrainerBDFMPretrain")
        >>> run["train"]["patient"], run["trainer"]
        (['P1'], 'nnUNetTrainerBDFMPretrain')
    """
    known = {row["case"]: row for row in cases.rows}
    run = {**names, "dataset": cases.name, "note": cases.note, "releases": cases.releases}
    for part, chosen in (("train", train), ("val", val)):
        run[part] = _columns([known.get(case, {"case": case}) for case in sorted(chosen)], cases.scope)
    return run


def _columns(rows: Sequence[Mapping[str, Any]], scope: str) -> dict[str, list[Any]]:
    return {
        "case": [str(row["case"]) for row in rows],
        "patient": [str(row.get("patient") or row["case"]) for row in rows],
        "release": [str(row.get("release") or scope) for row in rows],
        "aliases": [[str(alias) for alias in row.get("aliases", ())] for row in rows],
        "sha256": [sorted(set(image_hashes(row).values())) for row in rows],
    }
