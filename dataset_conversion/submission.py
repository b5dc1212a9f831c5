"""Archives of predictions as a challenge wants them: the release's labels, names and grid."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bdfm_nnunet.dataset_conversion.reading.geometry import check_geometry
from bdfm_nnunet.dataset_conversion.reading.scanning import scan
from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.writing.scheduling import run_all
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import write_atomically, write_json
from bdfm_nnunet.images.case_folders import list_cases
from bdfm_nnunet.images.grids import TOLERANCE_MM
from bdfm_nnunet.images.label_values import label_histogram, whole_numbers
from bdfm_nnunet.images.nifti_bytes import packed_values
from bdfm_nnunet.images.volumes import Volume, read_volume
from bdfm_nnunet.safe_names import fault_of_name

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The date of every member, so that the same predictions give the same archive."""
MOST_FAULTS = 5


@dataclass(frozen=True)
class Member:
    """One segmentation of the archive.

    Attributes:
        case: case id.
        name: its file name in the archive.
        labels: the release's label values and their voxels.
        sha256: of the file in the archive.
    """

    case: str
    name: str
    labels: dict[int, int]
    sha256: str


@dataclass(frozen=True)
class SubmissionReport:
    """The content of an archive.

    Attributes:
        archive: the ZIP file; the report lies beside it as JSON.
        release: name of the release.
        members: one a case, in the order of ids.
    """

    archive: Path
    release: str
    members: list[Member] = field(default_factory=list)

    @property
    def empty(self) -> list[str]:
        """The cases without a single labelled voxel."""
        return [member.case for member in self.members if set(member.labels) <= {0}]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types."""
        rows = [asdict(member) for member in self.members]
        members = [{**row, "labels": {str(value): count for value, count in row["labels"].items()}} for row in rows]
        return {"release": self.release, "archive": self.archive.name, "empty": self.empty, "members": members}

    def summary(self) -> str:
        """Return one line for a terminal, and a second one if predictions are empty."""
        text = f"{self.archive}: {len(self.members)} segmentations for {self.release}"
        return text + (f"\nempty: {', '.join(self.empty)}" if self.empty else "")


@dataclass(frozen=True)
class _Task:
    release: Release
    case: str
    path: Path
    image: Path | None


def make_submission(
    predictions: Path | str, *, release: Release, out: Path | str, images: Path | str | None = None, workers: int = 1
) -> SubmissionReport:
    """Write the archive that the organisers of a challenge take, or nothing if anything is wrong.

    Args:
        predictions: folder of label maps, `CASE.nii.gz` or `CASE.nii`, in nnU-Net's values.
        release: the challenge.
        out: the ZIP file.
        images: the images that were predicted, as published or as an nnU-Net folder: their ids are the required ones,
            and each prediction must lie on the grid of its image. Without them the release's own grid is held.
        workers: processes.

    Raises:
        InputError: the release is no challenge; cases are missing, unknown or double; labels or grids are wrong. The
            sentence names the first faults and how many there are.
    """
    out = Path(out)
    if not release.submission_name:
        raise InputError(f"{release.name} is no challenge that takes files: `bdfm releases` lists those that are")
    if out.suffix != ".zip":
        raise InputError(f"{out} does not end in .zip, as the archive must: name it {out.with_suffix('.zip').name}")
    found, faults = _predictions_in(Path(predictions), release)
    required = _images_in(Path(images), release) if images is not None else {}
    if images is not None:
        faults += [f"{case} has an image but no prediction" for case in required if case not in found]
        faults += [f"{found[case].name} has no image in {images}" for case in found if case not in required]
    elif release.grid is None:
        raise InputError(f"{release.name} has no grid of its own: name the folder of its images with --images")
    _raise(faults, predictions)
    tasks = [_Task(release, case, path, required.get(case)) for case, path in sorted(found.items())]
    with write_atomically(out) as temporary:
        members, faults = _write(temporary, tasks, workers)
        _raise(faults, predictions)
    report = SubmissionReport(out, release.name, members)
    write_json(out.with_suffix(".json"), report.as_dict())
    return report


def _raise(faults: Sequence[str], predictions: Path | str) -> None:
    if not faults:
        return
    more = f"; and {len(faults) - MOST_FAULTS} more" if len(faults) > MOST_FAULTS else ""
    raise InputError(
        f"{predictions} cannot be handed in, {len(faults)} faults: {'; '.join(faults[:MOST_FAULTS])}{more}. Correct "
        "them and run the command again: nothing was written",
        entry="submission-faults",
    )


# ------------------------------------------------------------------------------------------------ finding the files


def _predictions_in(folder: Path, release: Release) -> tuple[dict[str, Path], list[str]]:
    """Map case ids to files, and tell what is wrong with names."""
    found: dict[str, Path] = {}
    faults: list[str] = []
    handed_in = re.escape(release.submission_name.removesuffix(".nii.gz")).replace(r"\{case\}", "(.+)")
    for stem, path in list_cases(folder, what="predictions").files.items():
        if not re.fullmatch(release.case_pattern, stem) and (match := re.fullmatch(handed_in, stem)):
            stem = match.group(1)
        if not re.fullmatch(release.case_pattern, stem) or fault_of_name(stem):
            faults.append(f"{path.name} is no case id of {release.name}")
        elif stem in found:
            faults.append(f"{path.name} and {found[stem].name} are the same case")
        else:
            found[stem] = path
    return found, faults


def _images_in(folder: Path, release: Release) -> dict[str, Path]:
    """Map case ids to first images: of an nnU-Net folder (`CASE_0000.nii.gz`) or of the download."""
    nnunet = re.compile(rf"({release.case_pattern})_0000")
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if not release.channels or any(re.fullmatch(nnunet.pattern + r"\.nii(\.gz)?", name, re.I) for name in names):
        files = list_cases(folder, what="images").files
        return {match.group(1): path for name, path in files.items() if (match := nnunet.fullmatch(name))}
    channel = next(iter(release.channels))
    cases = scan(folder, release).cases
    missing = [case for case, content in cases.items() if not content.files.get(channel)]
    if missing:
        raise InputError(f"{missing[0]} has no {channel} image in {folder} ({len(missing)} cases): download it again")
    return {case: folder / content.files[channel][0] for case, content in cases.items()}


# ---------------------------------------------------------------------------------------------------------- writing


def _write(archive: Path, tasks: list[_Task], workers: int) -> tuple[list[Member], list[str]]:
    packed: dict[str, tuple[Member, bytes]] = {}
    faults: list[str] = []
    for result in tqdm(
        run_all(tasks, _pack_case, workers=workers), total=len(tasks), desc="submission", unit="case", disable=None
    ):
        if isinstance(result, str):
            faults.append(result)
        else:
            packed[result[0].case] = result
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as target:  # the members are compressed already
        for case in sorted(packed) if not faults else ():
            member, content = packed[case]
            target.writestr(zipfile.ZipInfo(member.name, LONG_AGO), content)
    return [packed[case][0] for case in sorted(packed)], sorted(faults)


def _pack_case(task: _Task) -> tuple[Member, bytes] | str:
    """Return the archive member of a case and its bytes, or what is wrong with the case."""
    try:
        volume = read_volume(task.path, task.path.name, by_nibabel=True)
        _check_grid(volume, task)
        values = source_values(volume, task.release.inverse_label_map(), "nnU-Net")
    except Refusal as refusal:
        return str(refusal)
    content = packed_values(values, like=volume.header)
    name = task.release.submission_name.format(case=task.case)
    counts = {int(value): int(count) for value, count in zip(*np.unique(values, return_counts=True), strict=True)}
    return Member(task.case, name, counts, sha256(content).hexdigest()), content


def _check_grid(volume: Volume, task: _Task) -> None:
    """Compare the grid of a prediction with its image, else with the release's shape, spacing and origin."""
    if task.image is not None:
        check_geometry(volume, read_volume(task.image, task.image.name, by_nibabel=True))
        return
    release = task.release
    expected: Mapping[str, tuple[Any, Any]] = {
        "shape": (volume.grid.size, release.grid),
        "spacing": (volume.grid.spacing, release.spacing),
        "origin": (volume.grid.origin, release.origin),
    }
    for what, (value, wanted) in expected.items():
        if wanted is not None and not np.allclose(value, wanted, rtol=0, atol=TOLERANCE_MM):
            raise Refusal(f"{volume.name} has {what} {_text(value)} where {release.name} has {_text(wanted)}")


def _text(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def source_values(volume: Volume, inverse: Mapping[int, int], known: str) -> np.ndarray:
    """Return a label map in the values that its publishers use, (x, y, z).

    Args:
        volume: label map in nnU-Net's values.
        inverse: nnU-Net's value to theirs, background aside.
        known: whose values these are, for the message.

    Raises:
        Refusal: a label is not among them.
    """
    inverse = {0: 0, **inverse}
    unknown = sorted(set(label_histogram(volume)) - set(inverse))
    if unknown:
        raise Refusal(f"{volume.name} has label {unknown[0]} where {sorted(inverse)} are known to {known}")
    type_ = np.min_scalar_type(max(inverse.values()))
    table = np.array([inverse.get(value, 0) for value in range(max(inverse) + 1)], dtype=type_)
    values: np.ndarray = table[whole_numbers(volume)]
    return values
