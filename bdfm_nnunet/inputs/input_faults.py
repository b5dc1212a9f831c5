"""What is wrong with a case, in one sentence each: the file, what was expected, and what to do."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from bdfm_nnunet.images.volumes import Volume
from bdfm_nnunet.inputs.case_features import SAME, CaseFeatures
from bdfm_nnunet.inputs.coarse_images import CONSTANT, Turn
from bdfm_nnunet.inputs.input_fingerprint import InputFingerprint
from bdfm_nnunet.inputs.input_reference import Scores, exchange_name

EXCHANGED, CONTRAST, ORIENTATION, SIZE, SKULL, BACKGROUND = KINDS = (
    "swapped channels", "another contrast", "another orientation", "another size", "skull", "another background",
)  # fmt: skip
_ON_ITS_OWN = "leave the case out or do not trust its result"


@dataclass(frozen=True)
class InputFault:
    """A departure of a case.

    Attributes:
        kind: one of `KINDS`.
        file: the first file it is about.
        sentence: for the user.
    """

    kind: str
    file: str
    sentence: str


def find_faults(fingerprint: InputFingerprint, volumes: Sequence[Volume]) -> list[InputFault]:
    """Return where a case departs from the training cases of a model; empty if nowhere.

    Args:
        fingerprint: of the model.
        volumes: channels of the case.
    """
    return faults_of(fingerprint, fingerprint.features(volumes), [volume.name for volume in volumes])


def faults_of(fingerprint: InputFingerprint, case: CaseFeatures, names: Sequence[str]) -> list[InputFault]:
    """Return the same for the features of a case, whose files have these names.

    One cause shows in several scores, so what explains the others comes first, and they are asked again without it.
    """
    reference = fingerprint.reference
    scores = reference.scores(case)
    if doubled := _doubled(fingerprint, case, names):
        return doubled
    faults = _exchanged(fingerprint, scores, names)
    if faults:
        files = list(range(len(names)))
        a, b = _worst_exchange(fingerprint, scores)
        files[a], files[b] = b, a
        case, names = case.of_files(files), [names[file] for file in files]
        scores = reference.scores(case)
    turned = reference.scores(case.turned(scores.turn[1]))
    of_contrast = _contrasts(fingerprint, turned, names)
    told = _stored_otherwise(fingerprint, names, case.orientation)
    if _above(fingerprint, scores, "turn") and not of_contrast:  # an inverted image may be most alike upside down
        told = told or _turned(fingerprint, scores, names)
        scores = turned
    faults += told
    if reference.spacing(case) > fingerprint.limits["size"]:
        prepared = _size(fingerprint, scores, names, case.geometry)
    else:
        prepared = _surroundings(fingerprint, scores, names, case.surroundings)
        prepared = prepared or ([] if faults else _size(fingerprint, scores, names, case.geometry))
    faults += prepared
    return faults or _contrasts(fingerprint, scores, names)


def _above(fingerprint: InputFingerprint, scores: Scores, name: str) -> bool:
    return scores.named()[name] > fingerprint.limits[name]


def _stored_otherwise(fingerprint: InputFingerprint, names: Sequence[str], orientation: str) -> list[InputFault]:
    if not fingerprint.orientations or orientation in fingerprint.orientations:
        return []
    expected = " or ".join(fingerprint.orientations)
    return [InputFault(ORIENTATION, names[0], (
        f"{names[0]} stores its axes as {orientation}, expected {expected} as in training: reorient the files of the "
        "case"
    ))]  # fmt: skip


def _turned(fingerprint: InputFingerprint, scores: Scores, names: Sequence[str]) -> list[InputFault]:
    expected = " or ".join(fingerprint.orientations) or "those"
    return [InputFault(ORIENTATION, names[0], (
        f"{names[0]} looks {_in_words(scores.turn[1])} beside the training images, expected heads as {expected} store "
        "them: correct the header or reorient the files of the case"
    ))]  # fmt: skip


def _in_words(turn: Turn) -> str:
    order, mirrored = turn
    words = []
    if order != (0, 1, 2):
        words.append(f"stored with its axes in the order {', '.join('xyz'[axis] for axis in order)}")
    if mirrored:
        words.append(f"mirrored along {', '.join('xyz'[axis] for axis in mirrored)}")
    return " and ".join(words)


def _surroundings(
    fingerprint: InputFingerprint, scores: Scores, names: Sequence[str], found: np.ndarray
) -> list[InputFault]:
    if not _above(fingerprint, scores, "surroundings"):
        return []
    volume, constant, _ = found
    usual_volume, usual_constant, _ = fingerprint.reference.means["surroundings"]
    litres, usual = np.exp(volume) / 1e6, np.exp(usual_volume) / 1e6
    stripped = fingerprint.background == CONSTANT
    if stripped and (volume > usual_volume or constant < usual_constant - 0.1):
        return [InputFault(SKULL, names[0], (
            f"{names[0]} does not look skull-stripped ({litres:.2g} l of it are no background, {usual:.2g} l in "
            "training), expected a brain without its skull: strip all files of the case with one mask"
        ))]  # fmt: skip
    if not stripped and volume < usual_volume and constant > usual_constant:
        return [InputFault(SKULL, names[0], (
            f"{names[0]} looks skull-stripped ({litres:.2g} l of it are no background, {usual:.2g} l in training), "
            "expected a whole head: give the images before that step"
        ))]  # fmt: skip
    return [InputFault(BACKGROUND, names[0], (
        f"{names[0]} shows {litres:.2g} l that are no background, and has one value in {constant:.0%} of its border, "
        f"expected about {usual:.2g} l and {usual_constant:.0%}: prepare it as the training images, or {_ON_ITS_OWN}"
    ))]  # fmt: skip


def _size(fingerprint: InputFingerprint, scores: Scores, names: Sequence[str], found: np.ndarray) -> list[InputFault]:
    if not _above(fingerprint, scores, "size"):
        return []
    here, usual = np.exp(found), np.exp(fingerprint.reference.means["geometry"])
    return [InputFault(SIZE, names[0], (
        f"{names[0]} has voxels of {_times(here[:3])} mm and shows {_times(here[3:])} mm, expected about "
        f"{_times(usual[:3])} and {_times(usual[3:])}: check the spacing in its header, or {_ON_ITS_OWN}"
    ))]  # fmt: skip


def _times(values: np.ndarray) -> str:
    return " x ".join(f"{value:.3g}" for value in values)


def _doubled(fingerprint: InputFingerprint, case: CaseFeatures, names: Sequence[str]) -> list[InputFault]:
    """Name two files that hold one image, unless training cases do the same."""
    usual = fingerprint.reference.means["order"]
    for a, b in combinations(range(len(names)), 2):
        if case.order[a, b, -1] <= SAME and usual[a, b, -1] > SAME + 1:
            here, there = fingerprint.channels[a], fingerprint.channels[b]
            return [InputFault(CONTRAST, names[b], (
                f"{names[b]} holds the same image as {Path(names[a]).name}, expected {here} and {there}: give each "
                "channel its own image"
            ))]  # fmt: skip
    return []


def _exchanged(fingerprint: InputFingerprint, scores: Scores, names: Sequence[str]) -> list[InputFault]:
    """Name the two channels that fit each other's files best."""
    if not any(_above(fingerprint, scores, exchange_name(pair)) for pair in scores.exchange):
        return []
    a, b = _worst_exchange(fingerprint, scores)
    channels = fingerprint.channels
    return [InputFault(EXCHANGED, names[a], (
        f"{names[a]} looks like {channels[b]} and {Path(names[b]).name} like {channels[a]}, expected {channels[a]} and "
        f"{channels[b]}: the channels are swapped, rename the files"
    ))]  # fmt: skip


def _worst_exchange(fingerprint: InputFingerprint, scores: Scores) -> tuple[int, int]:
    found = [pair for pair in scores.exchange if _above(fingerprint, scores, exchange_name(pair))]
    return max(found, key=lambda pair: scores.exchange[pair])


def _contrasts(fingerprint: InputFingerprint, scores: Scores, names: Sequence[str]) -> list[InputFault]:
    named = scores.named()
    faults = []
    for channel, name in enumerate(names):
        kinds = [kind for kind in ("contrast", "order") if f"{kind} {channel}" in named]
        excess = {kind: named[f"{kind} {channel}"] / fingerprint.limits[f"{kind} {channel}"] for kind in kinds}
        if max(excess.values()) > 1:
            faults.append((excess["contrast"], InputFault(CONTRAST, name, (
                f"{name} does not look like {fingerprint.channels[channel]} in training (departure "
                f"{max(excess.values()):.1f} times that of the oddest good image), expected that contrast: check which "
                f"sequence the file holds, or {_ON_ITS_OWN}"
            ))))  # fmt: skip
    return [fault for _, fault in sorted(faults, key=lambda each: -each[0])[:1]]
