"""The order to convert one study of DICOM series: all that a worker process needs for it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from bdfm_nnunet.dataset_conversion.reading.dicom_tree import FoundSeries
from bdfm_nnunet.dataset_conversion.writing.case_order import CaseOrder
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.resume_log import stamp_of
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.dicom_volumes import read_stack, volume_of
from bdfm_nnunet.images.grids import difference
from bdfm_nnunet.images.volumes import Volume


@dataclass(frozen=True)
class DicomOrder(CaseOrder):
    """One study to be converted.

    Attributes:
        series: channel to the series that are meant for it; one is right.
        onto: channel on whose grid the others are resampled; None where all must be on one grid.
    """

    series: Mapping[str, tuple[FoundSeries, ...]]
    onto: str | None

    def sources(self) -> dict[str, str]:
        """Return the pseudonym of the one series of every channel.

        Raises:
            Refusal: a channel has none, or several.
        """
        missing = [channel for channel in self.release.channels if not self.series.get(channel)]
        if missing:
            raise Refusal(
                f"{self.case} has no series for {' and '.join(missing)}: write {missing[0]} into the row of one in the "
                "table (--series), or leave the channel out",
                entry="no-series-for-channel",
            )
        for channel, found in self.series.items():
            if len(found) > 1:
                named = " and ".join(each.told for each in found)
                raise Refusal(f"{self.case} has {len(found)} series for {channel}, {named}: keep one in the table")
        return {channel: self.series[channel][0].name for channel in self.release.channels}

    def stamp(self, name: str) -> list[int] | None:
        """Return the number of files of a series, and a hash of their sizes and times, which may tell the day."""
        files = [path for found in self.series.values() for each in found if each.name == name for path in each.files]
        stamps = [stamp_of(path) for path in files]
        if None in stamps:
            return None
        return [len(stamps), int.from_bytes(hashlib.sha256(repr(stamps).encode()).digest()[:7], "big")]

    def read(self, record: CaseRecord) -> dict[str, Volume]:
        """Read the series of `record.sources` by channel, onto one grid where that was asked for.

        Raises:
            Refusal: a series is not one whole volume, or lies on another grid than the others.
        """
        chosen = {channel: self.series[channel][0] for channel in record.sources}
        found = {channel: read_stack(each.stack(), each.told) for channel, each in chosen.items()}
        record.notes += [f"{channel}: {each.told}{_LOSSY * each.facts.lossy}" for channel, each in chosen.items()]
        reference = self.onto or next(iter(found))
        for channel, volume in found.items():
            if not difference(volume.grid, found[reference].grid):
                continue
            if self.onto is None:
                raise Refusal(
                    f"{volume.name} has another grid than {found[reference].name} ({_grid(volume)} and "
                    f"{_grid(found[reference])}): resample all onto one channel, as with --resample {reference}",
                    entry="series-on-other-grids",
                )
            _check_reference(chosen[channel], chosen[reference])
            found[channel] = resampled(volume, found[reference])
            record.notes.append(f"{channel} was resampled from {_grid(volume)} onto the grid of {reference}")
        return found


_LOSSY = ", compressed with loss"


def _grid(volume: Volume) -> str:
    size = " x ".join(f"{step:g}" for step in volume.spacing)
    return f"{' x '.join(map(str, volume.shape))} voxels of {size} mm"


def _check_reference(series: FoundSeries, other: FoundSeries) -> None:
    """Refuse two series that no common frame of reference ties together."""
    if not series.facts.reference or series.facts.reference != other.facts.reference:
        raise Refusal(
            f"{series.told} and {other.told} have no common frame of reference, so their positions do not compare: "
            "register them first, or leave one out"
        )


def resampled(volume: Volume, onto: Volume) -> Volume:
    """Return a volume on the grid of another, linearly interpolated in single precision; 0 outside."""
    image = sitk.GetImageFromArray(volume.array.T.astype(np.float32))
    image.SetSpacing(volume.grid.spacing)
    image.SetOrigin(volume.grid.origin)
    image.SetDirection(volume.grid.direction)
    there = onto.grid
    values = sitk.Resample(
        image, there.size, sitk.Transform(), sitk.sitkLinear, there.origin, there.spacing, there.direction, 0.0
    )
    return volume_of(sitk.GetArrayFromImage(values).T, there.affine, volume.name, note=volume.note)
