"""The fingerprint of the inputs of a model: what its training cases look like, and how far good ones depart from it."""

import base64
import binascii
import logging
import math
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.images.case_folders import list_cases
from bdfm_nnunet.images.volumes import Volume, read_volume
from bdfm_nnunet.inputs.case_features import CaseFeatures, arrays_of, features_of
from bdfm_nnunet.inputs.coarse_images import BACKGROUNDS, SIDE, background_of
from bdfm_nnunet.inputs.input_reference import GROUPS, LIKENESS, Numbers, Reference, exchange_name
from bdfm_nnunet.nnunet_files import channels_of

logger = logging.getLogger(__name__)

INPUT_FINGERPRINT = "input_fingerprint.json"
FEWEST_CASES, MOST_CASES = 5, 100
FALSE_ALARMS = 0.01
"""Share of good cases with any alarm at which the limits aim; a goal for all questions together."""
_LEAST = 2.0  # departures in standard deviations that are never a fault
_COMPARISONS = ("turn", "exchange")  # scores above 0 where something else fits better
_SHAPE = {
    "version": int, "cases": int, "channels": [str], "background": str, "canonical": bool, "orientations": [str],
    "template": str, "means": {str: list}, "deviations": {str: list}, "limits": {str: float},
}  # fmt: skip
_PEEKED = 5


@dataclass(frozen=True)
class InputFingerprint:
    """What the images of a model look like.

    Attributes:
        cases: how many were looked at.
        channels: names.
        background: of the cohort, see `background_of`.
        canonical: whether nnU-Net's reader brings the axes into one order.
        orientations: that files may have; empty where the cohort has too many to tell.
        reference: the cohort.
        limits: name of a score to its largest value in good cases.
    """

    cases: int
    channels: tuple[str, ...]
    background: str
    canonical: bool
    orientations: tuple[str, ...]
    reference: Reference
    limits: Mapping[str, float]

    def features(self, volumes: Sequence[Volume]) -> CaseFeatures:
        """Return the features of a case as those of the cohort were taken."""
        return features_of(volumes, background=self.background, canonical=self.canonical)

    def of_channels(self, channels: Sequence[int]) -> "InputFingerprint":
        """Return the fingerprint of some channels, for cases that have no others."""
        if len(channels) == len(self.channels):
            return self
        at = list(channels)
        means, deviations = dict(self.reference.means), dict(self.reference.deviations)
        for table in (means, deviations):
            for group in ("intensities", "order", LIKENESS):
                table[group] = table[group][at][:, at] if group == "order" else table[group][at]
        names = zip(_names(len(at)), _names(len(at), at))
        limits = {new: self.limits[old] for new, old in names}
        reference = Reference(self.reference.template[at], means, deviations)
        return replace(self, channels=tuple(self.channels[c] for c in at), reference=reference, limits=limits)

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            InputError: the file cannot be written.
        """
        template = np.rint(self.reference.template * 255).astype(np.uint8)
        content = {
            "version": 1,
            "cases": self.cases,
            "channels": list(self.channels),
            "background": self.background,
            "canonical": self.canonical,
            "orientations": list(self.orientations),
            "limits": {name: _rounded(value) for name, value in self.limits.items()},
            "means": {name: _rounded(values) for name, values in self.reference.means.items()},
            "deviations": {name: _rounded(values) for name, values in self.reference.deviations.items()},
            "template": base64.b64encode(zlib.compress(template.tobytes(), 9)).decode("ascii"),
        }
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> "InputFingerprint":
        """Read what `write` wrote.

        Raises:
            InputError: the file is damaged, or of a later version.
        """
        content = read_json(path, _SHAPE)
        try:
            return _parsed(content)
        except (ValueError, TypeError, KeyError, binascii.Error, zlib.error) as error:
            raise InputError(
                f"{path} is no fingerprint of inputs that this version reads ({error}): make it anew with "
                "`bdfm fingerprint`"
            ) from None


def _rounded(values: Any) -> Any:
    return np.round(np.asarray(values, dtype=np.float64), 4).tolist()


def _parsed(content: Mapping[str, Any]) -> InputFingerprint:
    if content["version"] != 1 or content["background"] not in BACKGROUNDS:
        raise ValueError(f"version {content['version']} with the background {content['background']!r}")
    count = len(content["channels"])
    shape = (count, SIDE, SIDE, SIDE)
    packed, most = base64.b64decode(content["template"], validate=True), math.prod(shape)
    template = np.frombuffer(zlib.decompressobj().decompress(packed, most + 1), np.uint8)  # a file may unpack to more
    if template.size != most:
        raise ValueError(f"the template has not {most} values")
    means, deviations = (
        {group: np.asarray(content[which][group], dtype=np.float64) for group in (*GROUPS, LIKENESS)}
        for which in ("means", "deviations")
    )
    for group, expected in {"order": (count, count), LIKENESS: (count,), "intensities": (count,)}.items():
        if means[group].shape[: len(expected)] != expected:
            raise ValueError(f"{group} is not of {count} channels")
    wanted = {*_names(count)}
    if not wanted <= {*content["limits"]}:
        raise ValueError(f"limits lack {min(wanted - {*content['limits']})}")
    for group in means:
        if means[group].shape != deviations[group].shape or not np.isfinite(means[group]).all():
            raise ValueError(f"{group} does not fit together")
    return InputFingerprint(
        content["cases"],
        tuple(content["channels"]),
        content["background"],
        content["canonical"],
        tuple(content["orientations"]),
        Reference((template / 255).astype(np.float32).reshape(shape), means, deviations),
        content["limits"],
    )


def _names(count: int, channels: Sequence[int] | None = None) -> Iterator[str]:
    """Yield the names of all scores of cases with some channels, which may have other numbers."""
    yield from ("size", "surroundings", "turn")
    for channel in channels or range(count):
        yield f"contrast {channel}"
        if count > 1:
            yield f"order {channel}"
    yield from map(exchange_name, combinations(channels or range(count), 2))


# --------------------------------------------------------------------------------------------------------- gathering


def write_fingerprint(
    cases: Sequence[Sequence[str | os.PathLike[str]]], dataset: Mapping[str, Any], path: Path, *, workers: int
) -> InputFingerprint | None:
    """Gather the fingerprint of training cases and write it; a file that lies there goes where there is none.

    Args:
        cases: the NIfTI files of each, in the order of channels.
        dataset: content of dataset.json.
        path: of the fingerprint.
        workers: cases that are read at once.

    Raises:
        InputError: the file cannot be written.
    """
    reader = dataset.get("overwrite_image_reader_writer")
    found = gather_fingerprint(
        cases, channels=channels_of(dataset), canonical=reader == "NibabelIOWithReorient",
        by_nibabel=reader != "SimpleITKIO", workers=workers,
    )  # fmt: skip
    if found is None:
        path.unlink(missing_ok=True)
    else:
        found.write(path)
    return found


def cases_in(folder: Path, dataset: Mapping[str, Any]) -> list[list[Path]]:
    """Return the files of the cases in a folder of nnU-Net's images that has every channel of them.

    Raises:
        InputError: the folder does not exist or holds no images.
    """
    ending, cases = dataset["file_ending"], dict[str, list[Path]]()
    for name, path in list_cases(folder, endings=[ending], what="training images").files.items():
        cases.setdefault(name[:-5], []).append(path)
    count = len(channels_of(dataset))
    return [files for _, files in sorted(cases.items()) if len(files) == count]


def gather_fingerprint(
    cases: Sequence[Sequence[str | os.PathLike[str]]],
    *,
    channels: Sequence[str],
    canonical: bool = False,
    by_nibabel: bool = True,
    workers: int = 1,
) -> InputFingerprint | None:
    """Look at training cases, at most `MOST_CASES` spread evenly among them.

    Args:
        cases: the NIfTI files of each, in the order of channels.
        channels: names.
        canonical: whether nnU-Net's reader brings the axes into one order.
        by_nibabel: whether nnU-Net reads files by nibabel whose header SimpleITK refuses.
        workers: cases that are read at once.

    Returns:
        The fingerprint; None, with a sentence on the log, where fewer than `FEWEST_CASES` can be read.
    """
    chosen = [cases[int(at)] for at in np.unique(np.linspace(0, len(cases) - 1, min(len(cases), MOST_CASES)).round())]
    read = partial(_read, by_nibabel=by_nibabel)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        step = max(1, len(chosen) // _PEEKED)
        peeked = [volumes for volumes in pool.map(read, chosen[::step][:_PEEKED]) if volumes]
        background = _background([arrays_of(volumes, canonical=canonical)[0] for volumes in peeked])
        describe = partial(_describe, read=read, background=background, canonical=canonical)
        bar = tqdm(pool.map(describe, chosen), total=len(chosen), desc="fingerprint", unit="case", disable=None)
        found = [features for features in bar if features is not None and len(features.ranks) == len(channels)]
    if len(found) < FEWEST_CASES:
        logger.warning(
            "%d cases are too few for a fingerprint of the inputs (%d are needed): inputs of the model will not be "
            "checked against it", len(found), FEWEST_CASES,
        )  # fmt: skip
        return None
    return fingerprint_of(found, channels=channels, background=background, canonical=canonical)


def _read(files: Sequence[str | os.PathLike[str]], *, by_nibabel: bool) -> list[Volume] | None:
    try:
        volumes = [read_volume(Path(file), str(file), by_nibabel=by_nibabel) for file in files]
    except (Refusal, InputError) as fault:
        logger.warning("not in the fingerprint of the inputs: %s", fault)
        return None
    alike = len({each.grid.size for each in volumes}) == 1
    usable = alike and all(np.isfinite(each.array).all() and np.ptp(each.array) > 0 for each in volumes)
    return volumes if usable else None


def _describe(files: Any, *, read: Any, background: str, canonical: bool) -> CaseFeatures | None:
    volumes = read(files)
    return features_of(volumes, background=background, canonical=canonical) if volumes else None


def _background(cases: Sequence[Sequence[Any]]) -> str:
    """Return the background that most images of a few cases have."""
    kinds = [background_of(image) for images in cases for image in images]
    return max(BACKGROUNDS, key=kinds.count)


def fingerprint_of(
    cases: Sequence[CaseFeatures], *, channels: Sequence[str], background: str, canonical: bool
) -> InputFingerprint:
    """Return the fingerprint of cases, whose limits come from holding each of them out in turn.

    Args:
        cases: at least `FEWEST_CASES`.
        channels: names.
        background: of the cohort.
        canonical: whether nnU-Net's reader brings the axes into one order.
    """
    count = len(cases)
    total = np.asarray(np.sum([case.ranks for case in cases], axis=0, dtype=np.float64))
    likeness = np.array([_likeness(case, total, count) for case in cases])
    held_out = []
    for at, case in enumerate(cases):
        others = [other for number, other in enumerate(cases) if number != at]
        held_out.append(Reference.of(others, np.delete(likeness, at, axis=0)).scores(case).named())
    limits = {}
    for name in held_out[0]:
        values, compared = [scores[name] for scores in held_out], name.startswith(_COMPARISONS)
        limits[name] = limit_of(values, questions=len(held_out[0]), ratio=not compared)
    found = [case.orientation for case in cases]
    often = all(found.count(orientation) > 1 for orientation in found)
    return InputFingerprint(
        count,
        tuple(channels),
        background,
        canonical,
        tuple(sorted(set(found))) if often else (),
        Reference.of(cases, likeness),
        limits,
    )


def _likeness(case: CaseFeatures, total: Numbers, count: int) -> Numbers:
    others = ((total - case.ranks) / (count - 1)).astype(np.float32)
    return np.diagonal(Reference(others, {}, {}).likeness(case.ranks))


def limit_of(scores: Sequence[float], *, questions: int, ratio: bool) -> float:
    """Return the largest score that the next good case is expected to have.

    It is the upper end of a prediction interval (Student's t) of these scores, and no less than the largest of them.

    Args:
        scores: of good cases, each held out.
        questions: that share the false alarms.
        ratio: whether scores are departures, which vary by factors; else differences, whose limit is at least 0.
    """
    values = np.log(np.asarray(scores) + 0.1) if ratio else np.asarray(scores)
    count = len(values)
    margin = stats.t.ppf(1 - FALSE_ALARMS / questions, count - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / count)
    limit = max(float(values.mean() + margin), float(values.max()))
    return max(_LEAST, math.exp(min(limit, 50.0)) - 0.1) if ratio else max(0.0, limit)


def copy_fingerprint(source: Path, target: Path) -> None:
    """Copy the fingerprint of one folder, if it has one, into another.

    Raises:
        InputError: it is damaged.
    """
    if (source / INPUT_FINGERPRINT).is_file():
        InputFingerprint.read(source / INPUT_FINGERPRINT).write(target / INPUT_FINGERPRINT)
