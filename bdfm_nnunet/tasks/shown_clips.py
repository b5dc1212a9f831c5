"""How subject-level tasks show 4-D runs: as clips, all of them in prediction and some in a training step."""

from collections.abc import Sequence
from functools import cached_property
from math import ceil
from types import MappingProxyType
from typing import Any

from torch import Tensor

from bdfm_nnunet.data.augmentation import mirrored
from bdfm_nnunet.data.batch_streams import Batch, generator_of
from bdfm_nnunet.data.clip_batches import clip_starts
from bdfm_nnunet.data.run_bags import RunBags, WholeRuns
from bdfm_nnunet.objectives.clip_augmentation import changed_clips, draw_clip_changes, moved
from bdfm_nnunet.settings import SequenceSettings
from bdfm_nnunet.tasks.shown_cases import INTENSITIES, ShownCases


class ShownClips(ShownCases):
    """Runs, as clips that are computed one by one; the outputs of a run are the mean over its clips.

    A clip is turned, scaled and smoothed as a whole, and its noise differs from frame to frame.
    """

    settled_by = MappingProxyType({"view": "auto", "crop_overlap": 0.0, "most_crops": None})
    joins_subjects = True

    @property
    def crop(self) -> tuple[int, ...]:  # type: ignore[override]
        """Voxels per axis and frames of a clip."""
        return tuple(int(size) for size in self.trainer.configuration_manager.patch_size)

    def training(self, dataset: Any, cases: Sequence[str]) -> RunBags:
        """Return bags of clips of the training runs."""
        trainer, settings = self.trainer, self.settings
        return RunBags(
            dataset,
            cases,
            batch_size=trainer.whole_batch,
            share=trainer.share,
            crop=self.crop,
            crops=settings.clips,
            seed=trainer.training.seed,
            shift=settings.shift,
        )

    def whole(self, dataset: Any, cases: Sequence[str], *, rank: int, count: int) -> tuple[WholeRuns, int]:
        """Return all clips of the runs, as many at once as a training step of one process has."""
        at_once = max(self.trainer.whole_batch // count, 1)
        shown = WholeRuns(dataset, cases, crop=self.crop, at_once=at_once, rank=rank, count=count)
        return shown, ceil(len(shown.parts) / count)

    def sentence(self, dataset: Any, cases: Sequence[str]) -> str:
        """Return how many clips a run is shown as."""
        size, clips = " x ".join(map(str, self.crop[:3])), self.settings.clips
        each = f"{clips} clip{'s' * (clips > 1)} of {size} voxels and {self.crop[3]} frames"
        lengths = [dataset.header(case).shape[3] for case in cases]
        every = sum(len(clip_starts(frames, self.crop[3])) for frames in lengths)
        short = sum(frames < self.crop[3] for frames in lengths)
        said = f"; {short} runs are shorter than that" if short else ""
        return f"A run is shown as {each} in a training step; the {len(cases)} training runs have {every} clips{said}."

    @cached_property
    def _changes(self) -> SequenceSettings:
        settings = self.settings
        return SequenceSettings(
            p_affine=0.5 if settings.rotation or settings.scaling else 0.0,
            degrees=settings.rotation,
            scaling=(1 - settings.scaling, 1 + settings.scaling),
            p_smoothing=settings.p_intensity,
            p_noise=settings.p_intensity,
        )

    def drawn(self, number: int) -> dict[str, Any]:
        """Return the mirroring of each run, and the changes of each clip."""
        trainer, count = self.trainer, self.settings.clips
        generator = generator_of(trainer.training.seed, INTENSITIES, number)
        flips = self.flips(generator)
        spacing = trainer.configuration_manager.spacing
        samples = trainer.whole_batch * count
        drawn = draw_clip_changes(samples, self.crop, self._changes, spacing=spacing, generator=generator)
        own = {name: value.unflatten(0, (-1, count))[trainer.share] for name, value in drawn.items()}
        return {"flips": flips[trainer.share], "drawn": own}

    def changed(self, batch: Batch) -> Tensor:
        """Return the clips, mirrored and changed."""
        device, bags = self.trainer.device, batch["data"]
        flips = batch["flips"].repeat_interleave(bags.shape[1], 0)
        drawn = {name: value.flatten(0, 1) for name, value in batch["drawn"].items()}
        clips = mirrored(bags.to(device, non_blocking=True).flatten(0, 1), flips)
        brain = mirrored(batch["brain"].to(device).flatten(0, 1)[:, None].float(), flips)
        brain = moved(brain, drawn["matrix"])[:, 0] > 0.5
        return changed_clips(clips, drawn, brain=brain).unflatten(0, bags.shape[:2])
