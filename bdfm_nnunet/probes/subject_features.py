"""One vector per case from a frozen encoder: `bdfm features` for a data set, or for images into one table."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.networks.subject_network import AXES_OF_RUNS
from bdfm_nnunet.probes.encoder_choice import Chosen, encoder_for
from bdfm_nnunet.probes.feature_tables import KIND, FeatureTable, PartialFeatures, stamp_of
from bdfm_nnunet.probes.fitted_images import FittedImages
from bdfm_nnunet.probes.labelled_cases import LabelledCases, preprocessed_cases
from bdfm_nnunet.probes.pooled_features import POOLINGS, Pooling, pool_image, stages_of
from bdfm_nnunet.probes.run_features import PreprocessedRuns, check_runs, vectors_of_runs
from bdfm_nnunet.studies.image_features import FrozenEncoder, Planned, check_reads_images, frozen_encoder, image_files
from bdfm_nnunet.studies.image_preparation import ASSUMED, prepare_case

Shown = tuple[Any, ...]
"""A case and what the function for its vectors takes: of an image the images (C, *spatial) that the encoder is shown
one after the other, and its foreground; of a run its clips."""
Vectors = Callable[..., list[NDArray[np.float32]]]
"""From what is shown of a case to a vector per pooling."""


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """How features are made of an image.

    Attributes:
        stages: "last", "all", or numbers between commas, the finest stage being 0.
        pooling: over positions: "mean", "max", "mean+std" or "covariance".
        foreground: let only voxels count that are not background around the head.
        window: voxels that the encoder sees at once: the "patch" of its training, or the "whole" image.
        device: where the encoder runs.

    Raises:
        InputError: a pooling or a window has another name.
    """

    stages: str = "last"
    pooling: Pooling = "mean"
    foreground: bool = False
    window: Literal["patch", "whole"] = "patch"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value, allowed in (("pooling", self.pooling, POOLINGS), ("window", self.window, ("patch", "whole"))):
            if value not in allowed:
                raise InputError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")


class Source(Protocol):
    """Cases and their images."""

    @property
    def cases(self) -> Sequence[str]:
        """Case ids."""
        ...

    def shown(self, cases: Sequence[str]) -> Iterator[Shown]:
        """Yield some of the cases."""
        ...

    def vectors(self, encoder: FrozenEncoder, settings: FeatureSettings) -> Vectors:
        """Return the function that makes a vector of what is shown."""
        ...

    def described(self) -> dict[str, Any]:
        """Return what decides the images, and sentences under "notes"."""
        ...

    def stamp(self) -> str:
        """Return a text that changes when the images do."""
        ...


@dataclass
class DatasetSource:
    """The preprocessed cases of a data set.

    Attributes:
        found: the cases.
        fitted: turns them into what the encoder was trained on.
        plans: name of the plans.
        configuration: name of the configuration.
    """

    found: LabelledCases
    fitted: FittedImages
    plans: str
    configuration: str

    @property
    def cases(self) -> Sequence[str]:
        """Case ids."""
        return self.found.cases

    def shown(self, cases: Sequence[str]) -> Iterator[Shown]:
        """Yield some of the cases."""
        if cases:
            for case in self.found.read(range(len(self.fitted.has)), cases):
                yield (case.name, *self.fitted(case))

    def vectors(self, encoder: FrozenEncoder, settings: FeatureSettings) -> Vectors:
        """Return the function that makes a vector of an image."""
        return vectors_of(encoder.view, encoder.tile, settings, [settings.pooling])

    def described(self) -> dict[str, Any]:
        """Return the data set and its plans."""
        names = {"dataset": self.found.folder.name, "plans": self.plans, "configuration": self.configuration}
        return {**names, "notes": list(self.fitted.notes)}

    def stamp(self) -> str:
        """Return a text that changes when the preprocessed images do."""
        folder = self.found.folder / self.found.configuration["data_identifier"]
        paths = [folder / f"{case}{ending}" for case in self.cases for ending in (".b2nd", ".npz")]
        return stamp_of([path for path in paths if path.is_file()])


@dataclass
class FileSource:
    """Images in files.

    Attributes:
        files_of_case: one file per channel.
        encoder: that they are prepared for.
    """

    files_of_case: Mapping[str, list[Path]]
    encoder: FrozenEncoder

    @property
    def cases(self) -> Sequence[str]:
        """Case ids."""
        return list(self.files_of_case)

    def shown(self, cases: Sequence[str]) -> Iterator[Shown]:
        """Yield some of the cases."""
        expected = self.encoder.checkpoint.images or ASSUMED
        for case in cases:
            prepared = prepare_case(self.files_of_case[case], expected, self.encoder.checkpoint.plans)
            yield case, [prepared.image], prepared.foreground

    def vectors(self, encoder: FrozenEncoder, settings: FeatureSettings) -> Vectors:
        """Return the function that makes a vector of an image."""
        return vectors_of(encoder.view, encoder.tile, settings, [settings.pooling])

    def described(self) -> dict[str, Any]:
        """Return that there is no data set."""
        return {"dataset": None, "plans": None, "configuration": None, "notes": []}

    def stamp(self) -> str:
        """Return a text that changes when the images do."""
        return stamp_of([path for paths in self.files_of_case.values() for path in paths])


@dataclass
class RunSource(PreprocessedRuns):
    """The preprocessed runs of a data set."""

    def vectors(self, encoder: FrozenEncoder, settings: FeatureSettings) -> Vectors:
        """Return the function that makes a vector of the clips of a run."""
        if settings.window == "whole":
            raise InputError("--window whole is for images: a run is shown as clips of the training's size")
        stages = stages_of(settings.stages, len(encoder.view.channels))
        known: Any = {"brain": settings.foreground, "device": settings.device}
        return vectors_of_runs(encoder.view, stages, [settings.pooling], **known)

    def stamp(self) -> str:
        """Return a text that changes when the runs do."""
        return stamp_of(self.files())


def dataset_features(
    dataset_id: int,
    weights: str | Path,
    out: Path,
    settings: FeatureSettings | None = None,
    *,
    plans: str | None = None,
    configuration: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> FeatureTable:
    """Write the features of the preprocessed cases of a data set; a second call goes on where the first one stopped.

    Args:
        dataset_id: number of the data set.
        weights: checkpoint, or folder of a training.
        out: FILE.npz, FILE.csv or a folder, see `feature_tables`.
        settings: how features are made.
        plans: name of the data set's plans; by default those of the weights, else BDFMPlans, else the only ones.
        configuration: one of their configurations; by default that of the weights, else 3d_fullres or 4d.
        reading: settings of reading the weights, see `ReadingSettings`.

    Raises:
        InputError: weights, plans or cases cannot be used together.
    """
    chosen, encoder = encoder_for(dataset_id, weights, plans=plans, configuration=configuration, reading=reading)
    source = dataset_source(dataset_id, chosen, encoder)
    return write_subject_features(encoder, source, out, settings or FeatureSettings())


def dataset_source(dataset_id: int, chosen: Chosen, encoder: FrozenEncoder) -> DatasetSource | RunSource:
    """Return the preprocessed cases of a data set, as an encoder wants them.

    Raises:
        InputError: they are missing, or cannot be turned into what the encoder was trained on.
    """
    found = preprocessed_cases(dataset_id, chosen.plans, chosen.configuration)
    if AXES_OF_RUNS in (encoder.view.axes, len(found.spacing)):
        expected = encoder.checkpoint.images
        check_runs(found, encoder.view, expected.spacing if expected else (), str(encoder.checkpoint.path))
        return RunSource(found, encoder.tile, chosen.plans, chosen.configuration, chosen.notes)
    fitted = FittedImages(found, encoder.checkpoint.images, encoder.view.in_channels)
    fitted.notes = (*chosen.notes, *fitted.notes)
    return DatasetSource(found, fitted, chosen.plans, chosen.configuration)


def file_features(
    images: Sequence[Path],
    weights: str | Path,
    out: Path,
    settings: FeatureSettings | None = None,
    *,
    planned: Planned | None = None,
    reading: Mapping[str, Any] | None = None,
) -> FeatureTable:
    """Write the features of image files in the forms of `dataset_features`.

    Args:
        images: NIfTI files or folders, see `studies.image_features.write_features`.
        weights: checkpoint, or folder of a training.
        out: FILE.npz, FILE.csv or a folder.
        settings: how features are made.
        planned: network to read the weights into; by default the one that the file describes.
        reading: settings of reading the weights.

    Raises:
        InputError: an image or the weights cannot be used.
    """
    encoder = frozen_encoder(weights, planned, reading)
    check_reads_images(encoder)
    source = FileSource(image_files(images, encoder.view.in_channels), encoder)
    return write_subject_features(encoder, source, out, settings or FeatureSettings())


def write_subject_features(
    encoder: FrozenEncoder, source: Source, out: Path, settings: FeatureSettings
) -> FeatureTable:
    """Write the features of a source's cases, and return them.

    Raises:
        InputError: a case is empty or cannot be read, or the output cannot be written.
    """
    described = describe(encoder, source, settings)
    partial = PartialFeatures(out, _key(described, source))
    vectors = source.vectors(encoder, settings)
    missing = partial.missing(source.cases)
    done, count = len(source.cases) - len(missing), len(source.cases)
    with tqdm(total=count, initial=done, desc="features", unit="case", disable=None) as bar:
        for case, *shown in source.shown(missing):
            try:
                partial.put(case, vectors(*shown)[0])
            except InputError as error:
                raise InputError(f"case {case}: {error}") from None
            bar.update()
    return partial.finish(source.cases, described)


def _key(described: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return what decides the vectors: the same weights elsewhere give the same, changed images do not."""
    kept = {key: value for key, value in described.items() if key not in ("notes", "exposure")}
    weights = {key: value for key, value in described["weights"].items() if key != "path"}
    return {**kept, "weights": weights, "files": source.stamp()}


def vectors_of(
    view: EncoderView, tile: Sequence[int], settings: FeatureSettings, poolings: Sequence[Pooling]
) -> Callable[[Sequence[Tensor], Tensor], list[NDArray[np.float32]]]:
    """Return the function from images (C, *spatial) of a case and its foreground (*spatial) to a vector per pooling.

    Args:
        view: the encoder, which is put into eval mode on the device.
        tile: voxels per axis that it sees at once, where that is not the whole image.
        settings: how features are made; of the poolings those given.
        poolings: what the vectors hold.
    """
    view.module.to(settings.device).eval()
    stages = stages_of(settings.stages, len(view.channels))

    def vectors(images: Sequence[Tensor], inside: Tensor) -> list[NDArray[np.float32]]:
        window = tuple(tile)
        if settings.window == "whole":
            window = tuple(-(-n // step) * step for n, step in zip(inside.shape, view.strides[-1], strict=True))
        weights = inside.float() if settings.foreground else torch.ones(inside.shape)
        known: Any = {"window": window, "stages": stages, "poolings": poolings, "device": settings.device}
        found = [pool_image(view, image, weights, **known) for image in images]
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    return vectors


def describe(encoder: FrozenEncoder, source: Source, settings: FeatureSettings) -> dict[str, Any]:
    """Return what the file of features says of how they were made, in plain JSON types."""
    view, checkpoint = encoder.view, encoder.checkpoint
    stages = stages_of(settings.stages, len(view.channels))
    if settings.window == "whole" and hasattr(view.module, "eva"):
        raise InputError(f"{checkpoint.path} is a Primus, which reads patches of one size: leave out --window whole")
    said = source.described()
    told = {
        "kind": KIND,
        "weights": {"path": str(checkpoint.path), "sha256": checkpoint.sha256, "project": checkpoint.kind,
                    "trainer": checkpoint.trainer, "licence": checkpoint.licence,
                    "citations": list(checkpoint.citations)},
        "images": asdict(checkpoint.images) if checkpoint.images else None,
        "window": list(encoder.tile) if settings.window == "patch" else "whole",
        "stages": [{"stage": at, "stride": view.strides[at], "channels": view.channels[at]} for at in stages],
        "settings": {key: value for key, value in asdict(settings).items() if key != "device"},
        **said,
        "notes": [*encoder.notes, *said["notes"]],
        "exposure": Exposure.of_checkpoint(checkpoint).as_dict() if checkpoint.exposure is not None else None,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(told))
    return plain
