"""How subject-level tasks show their cases: the interface, and crops that cover an image."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from math import ceil, prod
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from bdfm_nnunet.data.augmentation import RandomAffine, mirrored
from bdfm_nnunet.data.batch_streams import Batch, generator_of
from bdfm_nnunet.data.subject_bags import SubjectBags, WholeCases, case_shapes, covering_starts
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of, unwrap
from bdfm_nnunet.objectives.views import draw_views, intensities_changed
from bdfm_nnunet.settings import ContrastiveSettings, SubjectSettings

INTENSITIES = 20  # keeps this random stream apart from others of one seed
_WHOLE = 2  # times the voxels of the patch that one crop of a whole case may have


class ShownCases:
    """How a training shows its cases.

    Args:
        trainer: of the task.
        settings: of the task.

    Attributes:
        crop: voxels per axis of what the network sees at once.
        settled_by: settings that are for another kind of case, and their defaults.
        joins_subjects: whether cases of one subject with the same values are scored together.
    """

    crop: tuple[int, ...]
    settled_by: ClassVar[Mapping[str, Any]]
    joins_subjects: ClassVar[bool] = False

    def __init__(self, trainer: Any, settings: SubjectSettings) -> None:
        self.trainer, self.settings = trainer, settings

    def check(self) -> None:
        """Raise InputError where a setting is for another kind of case."""
        for name, default in self.settled_by.items():
            if (value := getattr(self.settings, name)) != default:
                raise InputError(
                    f"finetuning.{name} is {value!r}, which has no meaning for the configuration "
                    f"{self.trainer.configuration_name}: leave it out"
                )

    def training(self, dataset: Any, cases: Sequence[str]) -> Any:
        """Return the batches of training cases."""
        raise NotImplementedError

    def whole(self, dataset: Any, cases: Sequence[str], *, rank: int, count: int) -> tuple[Any, int]:
        """Return the batches of this process that show cases as they are, and how many show each once."""
        raise NotImplementedError

    def sentence(self, dataset: Any, cases: Sequence[str]) -> str:
        """Return what a training case is shown as, in words."""
        raise NotImplementedError

    def drawn(self, number: int) -> dict[str, Any]:
        """Return what a training step draws, an entry for each sample of this process."""
        raise NotImplementedError

    def changed(self, batch: Batch) -> Tensor:
        """Return the bags of a training batch on the device, changed by what was drawn."""
        raise NotImplementedError

    def flips(self, generator: torch.Generator) -> Tensor:
        """Draw which axes of the samples of a step are reversed, (B, 3)."""
        flips = torch.zeros(self.trainer.whole_batch, 3, dtype=torch.bool)
        for axis in self.settings.mirror_axes:
            flips[:, axis] = torch.rand(self.trainer.whole_batch, generator=generator) < 0.5
        return flips

    @torch.no_grad()
    def predict(self, dataset: Any, cases: Iterable[str], *, embed: bool = False) -> dict[str, Tensor]:
        """Return the outputs of the trainer's network for some cases, to each of its processes.

        Those of an image are one row, those of a run a row for each clip.

        Args:
            dataset: the preprocessed cases.
            cases: ids.
            embed: return the vectors in front of the last layer in place of its outputs.

        Raises:
            InputError: a case is missing or damaged.
        """
        trainer, processes = self.trainer, self.trainer.processes
        batches, steps = self.whole(
            dataset, [str(each) for each in cases], rank=trainer.local_rank, count=processes.count
        )
        network: Any = unwrap(trainer.network)
        compute, found = network.embeddings if embed else network, []
        for number in tqdm(range(steps), desc="validation", disable=None):
            batch = batches.generate_numbered_batch(number)
            with trainer.autocast():
                outputs = compute(batch["data"].to(trainer.device))
            found.append({**without_data(batch), "outputs": outputs.float().cpu()})
        return rows_of(part for each in processes.gather(found) for part in each)


def without_data(batch: Batch) -> Batch:
    """Return the names in a batch that shows cases as they are, and the places in them."""
    return {"keys": batch["keys"], "places": batch.get("places", [0] * len(batch["keys"]))}


def rows_of(outputs: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return the rows of every case in the order of their places, (n, outputs), whatever was shown twice.

    Example:
        >>> batch = {"keys": ["a", "a"], "places": [8, 0], "outputs": torch.tensor([[1.0], [3.0]])}
        >>> rows_of([batch, batch])["a"].flatten()
        tensor([3., 1.])
    """
    rows: dict[str, dict[int, Tensor]] = {}
    for each in outputs:
        for key, place, row in zip(each["keys"], each["places"], each["outputs"], strict=True):
            rows.setdefault(key, {})[int(place)] = row
    return {case: torch.stack([own[at] for at in sorted(own)]) for case, own in rows.items()}


def means_of(rows: Mapping[str, Tensor], units: Iterable[Sequence[str]]) -> Tensor:
    """Return the mean row of each unit of cases, (units, outputs), in which each row of its cases counts once.

    Example:
        >>> means_of({"a": torch.ones(1, 2), "b": torch.zeros(3, 2)}, [["a"], ["a", "b"]])[:, 0]
        tensor([1.0000, 0.2500])
    """
    return torch.stack([torch.cat([rows[case] for case in unit]).mean(0) for unit in units])


class ShownCrops(ShownCases):
    """Images, as bags of crops that cover them."""

    settled_by = MappingProxyType({"clips": 1, "head": "linear"})

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Voxels per axis of each case of the fold."""
        parts = self.trainer.task.datasets
        return {case: shape for part in parts for case, shape in case_shapes(part, part.identifiers).items()}

    @cached_property
    def crop(self) -> tuple[int, ...]:  # type: ignore[override]
        """Voxels per axis of a crop."""
        patch = tuple(int(size) for size in self.trainer.configuration_manager.patch_size)
        view = encoder_of(self.trainer.network)
        largest = np.max([*self.shapes.values()], axis=0)
        whole = tuple(ceil(size / step) * step for size, step in zip(largest.tolist(), view.strides[-1], strict=True))
        wanted = self.settings.view
        if wanted == "auto":
            wanted = "whole" if prod(whole) <= _WHOLE * prod(patch) and not _is_fixed(view.module) else "crops"
        return whole if wanted == "whole" else patch

    def _crops_of(self, cases: Sequence[str]) -> int:
        """Return how many crops the largest of the cases needs, or as many as the settings allow."""
        overlap = self.settings.crop_overlap
        needed = max(len(covering_starts(self.shapes[case], self.crop, overlap=overlap)) for case in cases)
        return min(needed, self.settings.most_crops or needed)

    def training(self, dataset: Any, cases: Sequence[str]) -> SubjectBags:
        """Return bags of crops of the training cases."""
        trainer, settings = self.trainer, self.settings
        affine = RandomAffine(
            spacing=trainer.configuration_manager.spacing,
            p_rotation=0.5 if settings.rotation else 0.0,
            degrees=settings.rotation,
            p_scaling=0.5 if settings.scaling else 0.0,
            scaling=(1 - settings.scaling, 1 + settings.scaling),
        )
        return SubjectBags(
            dataset,
            cases,
            batch_size=trainer.whole_batch,
            share=trainer.share,
            crop=self.crop,
            crops=self._crops_of(cases),
            overlap=settings.crop_overlap,
            seed=trainer.training.seed,
            affine=affine,
            shift=settings.shift,
        )

    def whole(self, dataset: Any, cases: Sequence[str], *, rank: int, count: int) -> tuple[WholeCases, int]:
        """Return a case after the other."""
        overlap = self.settings.crop_overlap
        shown = WholeCases(dataset, cases, crop=self.crop, overlap=overlap, rank=rank, count=count)
        return shown, ceil(len(cases) / count)

    def sentence(self, dataset: Any, cases: Sequence[str]) -> str:
        """Return how many crops a case is shown as."""
        crops = self._crops_of(cases)
        return f"A case is shown as {crops} crop{'s' * (crops > 1)} of {' x '.join(map(str, self.crop))} voxels."

    def drawn(self, number: int) -> dict[str, Any]:
        """Return the mirroring and the intensity changes of a training step."""
        trainer = self.trainer
        generator = generator_of(trainer.training.seed, INTENSITIES, number)
        flips = self.flips(generator)
        drawn = draw_views(trainer.whole_batch, self.crop, self._intensities, generator=generator)
        own = {name: value[trainer.share, 0] for name, value in drawn.items() if name != "matrix"}
        return {"flips": flips[trainer.share], "drawn": own}

    @cached_property
    def _intensities(self) -> ContrastiveSettings:
        names = ("bias", "gamma", "contrast", "blur", "low_resolution", "noise")
        chances: Any = {f"p_{name}": self.settings.p_intensity for name in names}
        return ContrastiveSettings(standardise=False, **chances)

    def changed(self, batch: Batch) -> Tensor:
        """Return the crops, mirrored and with other intensities."""
        bags = batch["data"].to(self.trainer.device, non_blocking=True)
        count = bags.shape[1]
        crops = mirrored(bags.flatten(0, 1), batch["flips"].repeat_interleave(count, 0))
        if self.settings.p_intensity:
            drawn = {name: value.to(crops.device).repeat_interleave(count, 0) for name, value in batch["drawn"].items()}
            crops = intensities_changed(crops, drawn, self._intensities)
        return crops.unflatten(0, bags.shape[:2])


def _is_fixed(encoder: nn.Module) -> bool:
    """Return whether an encoder takes crops of one size alone."""
    return hasattr(encoder, "eva")
