"""The key file of `bdfm convert dicom --key`: who is who, and where the series of each case lie."""

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_atomically
from bdfm_nnunet.nnunet_folders import VARIABLES

_SERIES = {"channel": str, "series": str, "files": [str]}
_SHAPE = {
    "scope": str,
    "patients": {str: {"id": str, "issuer": str, "name": str, "studies": {str: str}}},
    "cases": {str: [_SERIES]},
}
_CASE = re.compile(r"sub-\d{1,9}_ses-\d{1,9}")


@dataclass
class KeyPatient:
    """A patient of the key.

    Attributes:
        id: patient id at the hospital.
        issuer: who has issued it.
        name: of the patient.
        studies: session, such as `01`, to the UID of the study.
    """

    id: str
    issuer: str
    name: str
    studies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class KeySeries:
    """A series that became a channel of a case.

    Attributes:
        channel: name of the channel.
        series: UID of the series.
        files: its files, absolute paths.
    """

    channel: str
    series: str
    files: tuple[str, ...]


@dataclass
class DicomKey:
    """What leads from pseudonyms back to patients.

    Attributes:
        scope: random name of the pseudonyms, the same in every data set that was converted with this key.
        patients: pseudonym to patient.
        cases: case to its series, in the order of channels; the first has the grid of the case.
    """

    scope: str = field(default_factory=lambda: secrets.token_hex(8))
    patients: dict[str, KeyPatient] = field(default_factory=dict)
    cases: dict[str, list[KeySeries]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "DicomKey":
        """Read a key file.

        Raises:
            InputError: it is missing, or is none.
        """
        content: Mapping[str, Any] = read_json(path, _SHAPE)
        rows = content["patients"].items()
        sessions = [f"{name}_ses-{session}" for name, row in rows for session in ("01", *row["studies"])]
        if wrong := [each for each in (*sessions, *content["cases"]) if not _CASE.fullmatch(each)]:
            raise InputError(f"{path} has the case {wrong[0]!r}, expected one such as sub-0001_ses-01: restore the key")
        patients = {name: KeyPatient(row["id"], row["issuer"], row["name"], dict(row["studies"])) for name, row in rows}
        cases = {
            case: [KeySeries(row["channel"], row["series"], tuple(row["files"])) for row in rows]
            for case, rows in content["cases"].items()
        }
        return cls(content["scope"], patients, cases)

    def write(self, path: Path) -> None:
        """Write the key; its owner alone may read it.

        Raises:
            InputError: it cannot be written.
        """
        with write_atomically(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def check_apart(path: Path) -> None:
    """Refuse a key that would lie among data.

    Raises:
        InputError: it lies in one of nnU-Net's folders, or has another ending than `.json`.
    """
    if path.suffix.lower() != ".json":
        raise InputError(f"--key {path} is where the key goes: name a file that ends in .json")
    place = path.resolve()
    for variable in VARIABLES:
        folder = os.environ.get(variable)
        if folder and place.is_relative_to(Path(folder).resolve()):
            raise InputError(
                f"--key {path} lies in {variable}, whose files are shared: keep the key apart from the data"
            )
