"""How 4-D runs are prepared for storage."""

from dataclasses import dataclass

from bdfm_nnunet.errors import InputError

GRIDS = ("template", "own")
STORES = ("float16", "int16", "int8")
STANDARDISATIONS = ("run", "voxel")
_NOT_PUBLISHED = {"spacing": 2.0, "time_step": 0.8, "size": 96, "grid": "", "standardise": "run", "store": "float16"}
"""Fields that --legacy leaves at their defaults."""


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The preparation of runs by `bdfm convert fmri-...`.

    Attributes:
        spacing: mm of the stored voxels, along each axis.
        time_step: seconds between stored frames.
        size: voxels per axis of the stored volume; 0 stores the whole field of view.
        grid: `template` stores the same box of MNI space for all runs, and refuses runs that do not lie there; `own`
            the middle of each run's field of view. Empty: `template` if the release's runs are in that space.
        tr: seconds between the frames of the source; None takes them from its JSON files or header.
        drop: frames dropped at the start; None drops those that the confounds mark as not in steady state.
        max_displacement: mean framewise displacement in mm above which a run is refused; None refuses none.
        min_frames: fewest stored frames of a run.
        standardise: `run` makes standard scores by mean and deviation over the brain and all frames, as published: they
            show anatomy above all. `voxel` takes those of each voxel over the frames: its changes alone are left.
        store: number type of the stored values: `float16`, `int16` or `int8`, the last two with a scale.
        legacy: prepare runs as the public code of NeuroSTORM does, faults included, see `published_preparation`:
            voxels of 2 mm in the file's own axes, frames of 0.8 s, at most 96 voxels per axis, 8 bits.
    """

    spacing: float = 2.0
    time_step: float = 0.8
    size: int = 96
    grid: str = ""
    tr: float | None = None
    drop: int | None = None
    max_displacement: float | None = None
    min_frames: int = 20
    standardise: str = "run"
    store: str = "float16"
    legacy: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: one is out of range.
        """
        self._expect(0.5 <= self.spacing <= 20, "--spacing", self.spacing, "0.5 to 20 mm")
        self._expect(0.05 <= self.time_step <= 60, "--time-step", self.time_step, "0.05 to 60 s")
        self._expect(self.size == 0 or 8 <= self.size <= 1024, "--size", self.size, "8 to 1024 voxels, or 0 for all")
        self._expect(self.grid in ("", *GRIDS), "--grid", self.grid, " or ".join(GRIDS))
        self._expect(self.drop is None or self.drop >= 0, "--drop", self.drop, "0 or more frames")
        worst = self.max_displacement
        self._expect(worst is None or 0 < worst < float("inf"), "--max-fd", worst, "a number of mm above 0")
        self._expect(self.min_frames >= 2, "--min-frames", self.min_frames, "2 or more frames")
        known = " or ".join(STANDARDISATIONS)
        self._expect(self.standardise in STANDARDISATIONS, "--standardise", self.standardise, known)
        self._expect(self.store in STORES, "--store", self.store, " or ".join(STORES))
        self._check_legacy()

    @property
    def stored_as(self) -> str:
        """Number type of the stored values, that of the published preparation too."""
        return "int8" if self.legacy else self.store

    def _check_legacy(self) -> None:
        """Refuse settings that the published preparation does not have."""
        changed = [name for name in _NOT_PUBLISHED if getattr(self, name) != _NOT_PUBLISHED[name]]
        if self.legacy and changed:
            raise InputError(
                f"--{changed[0].replace('_', '-')} cannot go with --legacy, whose voxels, frames, size and number type "
                "are the published ones: leave one of them out"
            )

    @staticmethod
    def _expect(good: bool, option: str, value: object, expected: str) -> None:
        if not good:
            raise InputError(f"{option} is {value}, expected {expected}: correct it")
