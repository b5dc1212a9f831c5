"""Functional connectivity of the runs of a data set as a table of features: `bdfm connectivity`.

What a network learns of runs must beat it: correlations between the mean time courses of regions, one vector per run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.data.region_maps import MOST_REGIONS, Regions, blocks_of, read_atlas
from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.dataset_conversion.reading.confounds import read_confounds
from bdfm_nnunet.dataset_conversion.release import CONFOUNDS
from bdfm_nnunet.dataset_conversion.writing.run_lattice import steps_of_time
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import FOLDER, FRAMES, MASK, PREPROCESSED, SequenceHeader
from bdfm_nnunet.nnunet_folders import dataset_folders, dataset_name
from bdfm_nnunet.probes.connectivity_matrices import correlation_vector, partial_correlation_vector
from bdfm_nnunet.probes.feature_tables import KIND, FeatureTable, PartialFeatures, stamp_of
from bdfm_nnunet.probes.region_courses import Array, drift, region_courses, region_sizes, without

CONNECTIVITY = "functional connectivity"
"""Name of the method, and of the baseline."""
FEWEST_FREE = 3
"""Frames that a run must have beside as many as there are confounds."""
_LEAST_COVERED = 0.1


@dataclass(frozen=True, kw_only=True)
class ConnectivitySettings:
    """How connectivity is computed.

    Attributes:
        atlas: label map of regions in the space of the runs, on any grid; None for blocks.
        blocks: number of blocks of equal size that fill the brain, where there is no atlas.
        partial: partial correlations, of a covariance shrunk by Ledoit and Wolf, in place of plain ones.
        high_pass: shortest period in seconds that is taken for drift and taken out; 0 takes out a straight line alone.
        global_signal: take the mean over the brain out, too.
        confounds: folder of the download, whose tables of confounds give the motion that is taken out; None for none.

    Raises:
        InputError: a number is out of its range.
    """

    atlas: Path | None = None
    blocks: int = 100
    partial: bool = False
    high_pass: float = 128.0
    global_signal: bool = False
    confounds: Path | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.blocks <= MOST_REGIONS:
            raise InputError(f"blocks is {self.blocks}, expected 2 to {MOST_REGIONS}")
        if not 0 <= self.high_pass < float("inf"):
            raise InputError(f"high_pass is {self.high_pass}, expected seconds from 0 on")
        if self.confounds is not None and not self.confounds.is_dir():
            raise InputError(f"{self.confounds} is no folder: name that of the download, with its tables of confounds")


def runs_of(dataset_id: int) -> SequenceCases:
    """Return the runs of a data set.

    Raises:
        InputError: there is no such data set, or it holds images.
    """
    folders = dataset_folders(dataset_id)
    places = [place for folder in folders for place in (folder / FOLDER, folder / PREPROCESSED) if place.is_dir()]
    return SequenceCases(places[0] if places else folders[0])


def connectivity_features(dataset_id: int, out: Path, settings: ConnectivitySettings | None = None) -> FeatureTable:
    """Write the connectivity of the runs of a data set; a second call goes on where the first one stopped.

    Args:
        dataset_id: number of the data set.
        out: FILE.npz, FILE.csv or a folder, see `feature_tables`.
        settings: how it is computed.

    Raises:
        InputError: runs, atlas or confounds cannot be used.
    """
    settings, runs = settings or ConnectivitySettings(), runs_of(dataset_id)
    return connectivity_table(runs, runs.cases, out, settings, dataset=dataset_name(dataset_id))


def connectivity_table(
    runs: SequenceCases, cases: Sequence[str], out: Path, settings: ConnectivitySettings, *, dataset: str
) -> FeatureTable:
    """Write the connectivity of some runs, and return it.

    Args:
        runs: stored runs.
        cases: those that are wanted.
        out: where it goes.
        settings: how it is computed.
        dataset: name of the data set, for the description.

    Raises:
        InputError: runs, atlas or confounds cannot be used.
    """
    maps = _RegionMaps(runs, cases, settings)
    described = {
        "kind": KIND, "method": CONNECTIVITY, "weights": None, "dataset": dataset, "plans": None, "configuration": None,
        "settings": {**asdict(settings), "atlas": settings.atlas and str(settings.atlas),
                     "confounds": settings.confounds and str(settings.confounds)},
        "regions": [maps.values[number - 1] for number in maps.kept],
        "notes": [*maps.notes, *_notes(settings)], "exposure": None,
    }  # fmt: skip
    files = [runs.folder / f"{case}{ending}" for case in cases for ending in (FRAMES, MASK)]
    key = {**described, "files": stamp_of(files), "regions_of": maps.stamp}
    partial = PartialFeatures(out, json.loads(json.dumps(key)))
    missing = partial.missing(cases)
    with tqdm(total=len(cases), initial=len(cases) - len(missing), desc=CONNECTIVITY, unit="run", disable=None) as bar:
        for case in missing:
            partial.put(case, _vector(runs, case, maps, settings))
            bar.update()
    return partial.finish(cases, json.loads(json.dumps(described)))


def _vector(runs: SequenceCases, case: str, maps: "_RegionMaps", settings: ConnectivitySettings) -> NDArray[np.float32]:
    header = runs.header(case)
    courses, brain = region_courses(runs, case, maps.of(header), maps.kept)
    columns = [drift(len(courses), header.repetition_time, settings.high_pass)]
    columns += [brain[:, None]] if settings.global_signal else []
    columns += [_motion(case, header, settings.confounds)] if settings.confounds else []
    confounds = np.concatenate(columns, axis=1)
    if len(courses) < confounds.shape[1] + FEWEST_FREE:
        raise InputError(
            f"run {case} has {len(courses)} frames, too few for {confounds.shape[1]} confounds: leave the run out, or "
            "take fewer out with --high-pass 0 and without --confounds"
        )
    vector = partial_correlation_vector if settings.partial else correlation_vector
    return vector(without(courses, confounds)).astype(np.float32)


def _motion(case: str, header: SequenceHeader, folder: Path) -> Array:
    """Return motion and its differences at the stored frames, (T, 12)."""
    name = header.source.get(CONFOUNDS)
    if name is None or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"run {case} was converted without a table of confounds: leave out --confounds")
    found = read_confounds(folder / name, name)
    if found.motion is None or found.frames != header.source_frames:
        what = "no six parameters of motion" if found.motion is None else f"{found.frames} rows"
        raise InputError(
            f"{folder / name} has {what} for the {header.source_frames} frames of {case}: leave out --confounds, or "
            "name the folder that was converted"
        )
    motion = np.nan_to_num(found.motion)
    both = np.concatenate([motion, np.diff(motion, axis=0, prepend=motion[:1])], axis=1)[header.frames_dropped :]
    at = steps_of_time(len(both), header.source_repetition_time, header.repetition_time)[: header.shape[3]]
    columns = [np.interp(at, np.arange(len(both)), column) for column in both.T]
    return np.stack(columns, axis=1) - np.mean(columns, axis=1)


def _notes(settings: ConnectivitySettings) -> list[str]:
    taken = ["a straight line"]
    taken += [f"drift slower than {settings.high_pass:g} s"] if settings.high_pass else []
    taken += ["the mean over the brain"] if settings.global_signal else []
    taken += ["motion and its differences"] if settings.confounds else []
    *rest, last = taken
    what = f"{', '.join(rest)} and {last}" if rest else last
    kind = "partial correlations (Ledoit-Wolf)" if settings.partial else "correlations"
    return [f"{what} were taken out of the courses; {kind} are Fisher's z"]


class _RegionMaps:
    """The regions of the runs of a data set: an atlas on the grid of each run, or blocks of their common brain.

    Attributes:
        kept: numbers of the regions that have voxels in every run.
        values: name of every region: its value in the atlas, or its number.
        notes: sentences about them.
        stamp: a text that changes when the regions do.
    """

    def __init__(self, runs: SequenceCases, cases: Sequence[str], settings: ConnectivitySettings) -> None:
        self.atlas = read_atlas(settings.atlas) if settings.atlas else None
        self.grids: dict[str, Regions] = {}
        if self.atlas is None:
            self.blocks = blocks_of(_common_brain(runs, cases), settings.blocks)
            self.values = tuple(range(1, settings.blocks + 1))
            self.notes = [f"regions are {settings.blocks} blocks of the brain of most runs: name an atlas with --atlas"]
        else:
            self.values = self.atlas.values
            self.notes = [f"regions are those of {self.atlas.path.name}, taken as it lies in mm"]
        sizes = self._sizes(runs, cases)
        empty = (sizes[:, 1:] == 0).any(axis=0)
        self.kept = [int(number) for number in np.flatnonzero(~empty) + 1]
        self._check(settings, sizes)
        if empty.any():
            named = ", ".join(str(self.values[at]) for at in np.flatnonzero(empty)[:10])
            self.notes.append(f"{int(empty.sum())} regions without a voxel in some run are left out ({named})")
        self.stamp = f"{stamp_of([settings.atlas] if settings.atlas else [])} {sizes.tolist()}"

    def of(self, header: SequenceHeader) -> Regions:
        """Return the regions on the grid of a run."""
        if self.atlas is None:
            return self.blocks
        key = repr((header.affine, header.shape[:3]))
        if key not in self.grids:
            self.grids = {key: self.atlas.on(header.affine, header.shape[:3])}
        return self.grids[key]

    def _sizes(self, runs: SequenceCases, cases: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of voxels of each region in each run, (runs, regions + 1)."""
        found = np.zeros((len(cases), len(self.values) + 1), dtype=np.int64)
        for row, case in enumerate(cases):
            sizes = region_sizes(runs, case, self.of(runs.header(case)))
            found[row, : len(sizes)] = sizes
        return found

    def _check(self, settings: ConnectivitySettings, sizes: NDArray[np.int64]) -> None:
        covered = sizes[:, 1:].sum() / max(int(sizes.sum()), 1)
        if covered < _LEAST_COVERED or len(self.kept) < 2:
            raise InputError(
                f"{settings.atlas or 'the parcellation'} has {len(self.kept)} regions that every run shows and covers "
                f"{covered:.0%} of the brains: give an atlas in the space of the runs, or leave out runs of a smaller "
                "field of view"
            )


def _common_brain(runs: SequenceCases, cases: Sequence[str]) -> NDArray[np.bool_]:
    """Return the voxels that are brain in at least half of the runs.

    Raises:
        InputError: the runs lie on different grids.
    """
    first = runs.header(cases[0])
    count = np.zeros(first.shape[:3], dtype=np.int64)
    for case in cases:
        header = runs.header(case)
        if header.shape[:3] != first.shape[:3] or not np.allclose(header.affine, first.affine, atol=1e-3):
            raise InputError(
                f"runs {cases[0]} and {case} lie on different grids, so that blocks are not the same places: name an "
                "atlas with --atlas, or convert the runs with --grid template"
            )
        count += runs.mask(case)
    return np.asarray(2 * count >= len(cases))


def method_of(description: Mapping[str, Any]) -> str:
    """Return how features were made without a training; empty if a file does not say so."""
    method = description.get("method")
    return method if isinstance(method, str) else ""
