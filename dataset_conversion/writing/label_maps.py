"""The label map written for a case: mapped values, the bits of separate masks, or the foreground."""

from collections.abc import Mapping

import numpy as np

from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.foreground import background_is_zero, foreground_mask, nonzero_mask
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.label_values import WIDEST, histogram, label_histogram, whole_numbers
from bdfm_nnunet.images.volumes import Volume


def mapped_label(release: Release, volume: Volume, record: CaseRecord) -> np.ndarray | None:
    """Return the label map for nnU-Net, (x, y, z); None if the file holds it already.

    Fills in the label values and repairs of the row.

    Raises:
        Refusal: the file has a value that neither the release nor its repairs know, or one that is not whole.
    """
    record.labels = label_histogram(volume)
    table = {value: release.target_of(value) for value in (0, *release.labels)}
    for repair in release.repairs_of(record.case):
        for stray, meant in repair.values.items():
            if stray in record.labels and stray not in table:
                table[stray] = release.target_of(meant)
                record.add_repair(
                    f"{repair.why} ({record.labels[stray]} voxels of {stray} in {volume.name} are read as {meant})"
                )
    _check_known(release, volume, record.labels, table)
    _note_empty(record)
    if volume.array is volume.stored and all(table[value] == value for value in record.labels):
        return None
    return _look_up(whole_numbers(volume), {value: table[value] for value in record.labels})


def _check_known(release: Release, volume: Volume, labels: Mapping[int, int], table: Mapping[int, int]) -> None:
    unknown = [f"{value} ({count} voxels)" for value, count in labels.items() if value not in table]
    if unknown:
        known = ", ".join(map(str, [0, *release.labels]))
        whose, remedy = release.name, "check that the release is the right one, and correct the file"
        if release.is_open:
            whose, remedy = "--labels", "name every value, as in --labels 1=lesion,2=oedema, correct the file"
        raise Refusal(
            f"{volume.name} has label {', '.join(unknown[:5])} but {whose} knows {known}: {remedy} or leave the "
            "case out",
            entry="unknown-label",
        )


def _note_empty(record: CaseRecord) -> None:
    if set(record.labels) == {0}:
        record.notes.append("the segmentation is empty")


def _look_up(values: np.ndarray, table: Mapping[int, int]) -> np.ndarray:
    lowest = min(table)
    if max(table) - lowest >= WIDEST:
        known = np.array(sorted(table), dtype=values.dtype)
        targets = np.array([table[value] for value in sorted(table)], np.min_scalar_type(max(table.values())))
        return targets[np.searchsorted(known, values)]
    targets = np.zeros(max(table) - lowest + 1, dtype=np.min_scalar_type(max(table.values())))
    for value, target in table.items():
        targets[value - lowest] = target
    flat = values.ravel(order="F")
    return targets[flat - lowest if lowest else flat].reshape(values.shape, order="F")


def bits_of_masks(masks: Mapping[str, Volume], record: CaseRecord) -> np.ndarray:
    """Return a label map, (x, y, z), in which bit i stands for the i-th mask.

    Raises:
        Refusal: a mask has more than one value beside zero.
    """
    first = next(iter(masks.values()))
    bits = np.zeros(first.stored.shape, dtype=np.min_scalar_type((1 << len(masks)) - 1), order="F")
    for index, volume in enumerate(masks.values()):
        values = [value for value in label_histogram(volume) if value != 0]
        if len(values) > 1:
            raise Refusal(
                f"{volume.name} has the values {', '.join(map(str, values[:5]))} where a mask of zeros and one other "
                "value was expected: take the mask of one structure"
            )
        bits |= (volume.array != 0).astype(bits.dtype) << bits.dtype.type(index)
    record.labels = histogram(bits)
    _note_empty(record)
    return bits


def foreground_label(channels: Mapping[str, Volume], record: CaseRecord) -> np.ndarray:
    """Return the brain or head as label 1, (x, y, z)."""
    arrays = [volume.array for volume in channels.values()]
    if not background_is_zero(nonzero_mask(arrays)):
        record.notes.append(
            "the background is not zero, so the scan is not skull-stripped: Otsu's threshold of "
            f"{next(iter(channels))} gave the foreground"
        )
    return foreground_mask(arrays).astype(np.uint8)
