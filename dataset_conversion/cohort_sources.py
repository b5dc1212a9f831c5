"""The data sets that a cohort is made of: found, whole, and fit to be merged."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.writing.case_record import TEST, TRAIN
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.patients import MANIFEST, CaseList, read_cases

_NEEDED = {"patient": str, "targets": {LABEL: str}, "sha256": {str: str}, "shape": [int], "spacing": [float]}
"""What the row of a case must have, beside what every manifest has."""


@dataclass(frozen=True)
class Origin:
    """A converted data set that goes into the cohort.

    Attributes:
        folder: the data set.
        prefix: what its case ids begin with here.
        cases: of its manifest.
        channels: names of its channels, in their order.
    """

    folder: Path
    prefix: str
    cases: CaseList
    channels: list[str]

    @property
    def unlabelled(self) -> bool:
        """Whether its labels are brain masks already."""
        return bool(self.cases.content.get("unlabelled"))


def find_origins(sources: Sequence[int | str | os.PathLike[str]], folder: Path) -> list[Origin]:
    """Return the sources, each of which is a whole converted data set.

    Args:
        sources: number, name (`DatasetXXX_NAME`) or folder of each.
        folder: of the cohort.

    Raises:
        InputError: a source is not there, is not whole, is named twice or is the cohort itself.
    """
    folders = [_folder_of(source) for source in sources]
    if twice := [path.name for path, count in Counter(folders).items() if count > 1]:
        raise InputError(f"{twice[0]} is named twice: name every source once")
    short = [_short(path.name) for path in folders]
    origins = []
    for path in folders:
        if path == folder:
            raise InputError(f"{folder} cannot be a source of itself: choose another number with -d")
        lacking = [name for name in ("dataset.json", MANIFEST) if not os.path.lexists(path / name)]
        if lacking:
            raise InputError(
                f"{path} has no {lacking[0]}, so its conversion was not finished, or not by bdfm: run `bdfm convert` "
                "for it again"
            )
        prefix = _short(path.name) if short.count(_short(path.name)) == 1 else path.name
        content = read_dataset_json(path / "dataset.json")
        if "sequences" in content:
            raise InputError(f"{path} holds 4-D runs, of which no cohort of images can be made: leave it out")
        origins.append(Origin(path, prefix, _usable(read_cases(path), path), channels_of(content)))
    return origins


def _usable(cases: CaseList, folder: Path) -> CaseList:
    """Return the cases; one that lacks anything a row of the cohort needs is an error."""
    for row in cases.of_part(TRAIN):
        if fault := fault_of(row, _NEEDED):
            raise InputError(
                f"{folder / MANIFEST} is no manifest of bdfm convert ({fault} for case {row['case']}): convert the "
                "data set again"
            )
    return cases


def left_out(origin: Origin) -> str:
    """Return a sentence on the part of a source that takes no part; empty if there is none."""
    test = len(origin.cases.of_part(TEST))
    return f"{test} test cases of {origin.folder.name} take no part" if test else ""


def _short(name: str) -> str:
    return re.sub(r"^Dataset\d{3}_", "", name).removesuffix("Unlabelled")


def _folder_of(source: int | str | os.PathLike[str]) -> Path:
    text = os.fspath(source) if not isinstance(source, int) else str(source)
    raw = nnunet_folder("nnUNet_raw")
    if text.isdigit():
        found = sorted(path for path in raw.glob(f"Dataset{int(text):03d}_*") if path.is_dir())
        if len(found) != 1:
            raise InputError(f"{raw} has {len(found)} data sets with the number {text}, expected one: name its folder")
        return found[0].absolute()
    for path in (raw / text, Path(text)):
        if path.is_dir():
            return Path(os.path.normpath(path.absolute()))
    raise InputError(f"{text} is neither a data set of {raw} nor a folder: see `ls {raw}` for what is there")


def common_channels(origins: Sequence[Origin]) -> list[str]:
    """Return the names of the channels that all sources have, in the same order.

    Raises:
        InputError: they have others.
    """
    first = origins[0]
    for origin in origins[1:]:
        if origin.channels != first.channels:
            raise InputError(
                f"{origin.folder.name} has the channels {', '.join(origin.channels)} but {first.folder.name} has "
                f"{', '.join(first.channels)}: use --channels single, or convert with the same --channels"
            )
    return first.channels
