"""The repetition time of a run: from the user, its JSON files or its header, in this order."""

import os
from collections.abc import Sequence
from pathlib import Path

from bdfm_nnunet.dataset_conversion.reading.bids_entities import entities_of
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import read_json
from bdfm_nnunet.images.run_files import RunFile
from bdfm_nnunet.images.volume_endings import without_ending

SHORTEST, LONGEST = 0.2, 10.0
"""Seconds. No scanner takes a brain faster, and slower scans are no fMRI; a header in ms is a thousand times off."""


def repetition_time(
    run: RunFile, sidecars: Sequence[tuple[Path, str]], given: float | None = None
) -> tuple[float, list[str]]:
    """Return the seconds between the frames of a run, and notes on what was doubtful.

    Args:
        run: the run.
        sidecars: JSON files that may tell `RepetitionTime`, and their names in messages; the nearest one counts.
        given: what the user says.

    Raises:
        Refusal: nothing tells it, or it is not one of a run.
    """
    header = run.repetition_time
    if given is not None:
        return _checked(given, "--tr"), _disagree(given, header, run, "--tr")
    for path, name in sidecars:
        if (told := _told(path, name)) is not None:
            return _checked(told, f"RepetitionTime of {name}"), _disagree(told, header, run, name)
    if header is None:
        raise Refusal(
            f"{run.name} does not tell the time between its frames, in its header or a JSON file beside it: give the "
            "seconds with --tr"
        )
    notes = [] if run.names_unit_of_time else [f"{run.name} names no unit of time: {header:g} was taken as seconds"]
    return _checked(header, f"the time between frames in the header of {run.name}"), notes


def _told(path: Path, name: str) -> float | None:
    try:
        content = read_json(path, {"RepetitionTime?": float})
    except InputError as error:
        raise Refusal(str(error).replace(str(path), name, 1)) from None
    return float(content["RepetitionTime"]) if "RepetitionTime" in content else None


def _checked(value: float, where: str) -> float:
    if not SHORTEST <= value <= LONGEST:
        meant = value / 1000
        are_ms = SHORTEST <= meant <= LONGEST
        remedy = f"if ms are meant, give --tr {meant:g}" if are_ms else "give the seconds with --tr"
        raise Refusal(f"{where} is {value:g} s, where {SHORTEST:g} to {LONGEST:g} s were expected: {remedy}")
    return value


def _disagree(value: float, header: float | None, run: RunFile, where: str) -> list[str]:
    if header is None or abs(value - header) <= 0.01 * value:
        return []
    return [f"the header of {run.name} has {header:g} s between frames, {where} {value:g} s, which was taken"]


# --------------------------------------------------------------------------------------------------------- JSON files


class Sidecars:
    """The JSON files of a download; each folder is listed once.

    Args:
        source: the download.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._listed: dict[str, list[str]] = {}

    def of(self, run: str) -> tuple[str, ...]:
        """Return the JSON files of a run, the nearest first, by the inheritance of BIDS.

        These are the file of the same name, then those in its folder and the ones above whose entities are all among
        the run's and whose suffix is the same, such as `task-rest_bold.json` on top.

        Args:
            run: path of the run in the download.
        """
        stem = without_ending(run)
        assert stem is not None
        folder, _, name = stem.rpartition("/")
        found = [f"{stem}.json"] if f"{name}.json" in self._names(folder) else []
        while True:
            above = [each for each in self._names(folder) if _applies(each.removesuffix(".json"), name)]
            above.sort(key=lambda each: (-len(entities_of(each.removesuffix(".json"))), each))
            found += [f"{folder}/{each}" if folder else each for each in above]
            if not folder:
                return tuple(dict.fromkeys(found))
            folder = folder.rpartition("/")[0]

    def _names(self, folder: str) -> list[str]:
        if folder not in self._listed:
            names = os.listdir(self.source / folder)
            self._listed[folder] = sorted(name for name in names if name.endswith(".json") and name[0] != ".")
        return self._listed[folder]


def _applies(stem: str, run: str) -> bool:
    return "_" in stem and stem.rpartition("_")[2] == run.rpartition("_")[2] and entities_of(stem) <= entities_of(run)
