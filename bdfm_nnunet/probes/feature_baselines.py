"""What features of a pre-training must beat: an untrained encoder, intensity statistics and simple volumes.

An untrained convolutional network is no empty one: its random filters tell much of an image, above all by their
covariances, and published frozen features have not always beaten them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from bdfm_nnunet.checkpoints.readers import ExpectedImages
from bdfm_nnunet.data.batch_streams import seeded
from bdfm_nnunet.evaluation.scored_regions import target_of_dataset
from bdfm_nnunet.files import sha256_of
from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import channels_of
from bdfm_nnunet.probes.encoder_choice import choose_plans, encoder_for
from bdfm_nnunet.probes.feature_tables import KIND, FeatureTable, PartialFeatures
from bdfm_nnunet.probes.fitted_images import FittedImages, image_volumes, intensity_statistics, label_volumes
from bdfm_nnunet.probes.functional_connectivity import CONNECTIVITY
from bdfm_nnunet.probes.labelled_cases import LabelledCase, LabelledCases, preprocessed_cases
from bdfm_nnunet.probes.pooled_features import Pooling, windows_of
from bdfm_nnunet.probes.subject_features import DatasetSource, FeatureSettings, vectors_of
from bdfm_nnunet.studies.image_features import tile_of

UNTRAINED, COVARIANCE, INTENSITY, VOLUME, LABELS = (
    "untrained", "untrained covariance", "intensity statistics", "image volumes", "label volumes"
)  # fmt: skip
BASELINES = (UNTRAINED, COVARIANCE, INTENSITY, VOLUME, LABELS, CONNECTIVITY)
"""Names of the baselines, the last of 4-D runs alone.

Label volumes use labels of the held-out cases too, which an image alone does not give."""
Part = Callable[[LabelledCase], NDArray[np.float32]]
_RECALIBRATED = 64
"""At most so many training cases give the statistics of an untrained encoder's batch norms."""


@dataclass(frozen=True)
class Untrained:
    """An encoder with random weights.

    Attributes:
        view: the encoder.
        tile: voxels per axis that it sees at once.
        expected: images that the pre-trained encoder was trained on; None if unknown.
        notes: sentences about it.
    """

    view: EncoderView
    tile: tuple[int, ...]
    expected: ExpectedImages | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Baselines:
    """Features of the baselines.

    Attributes:
        tables: name -> features of the cases.
        notes: sentences on how they were made.
    """

    tables: Mapping[str, FeatureTable]
    notes: tuple[str, ...]


def make_baselines(
    dataset_id: int,
    features: Path,
    description: Mapping[str, Any],
    cases: Sequence[str],
    *,
    train: Sequence[str],
    weights: Path | None = None,
    plans: str | None = None,
    configuration: str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Baselines:
    """Make the baselines of cases, kept beside the file of features for the next probe.

    Args:
        dataset_id: number of the data set, whose preprocessed cases are used.
        features: file of the pre-trained features.
        description: how they were made.
        cases: case ids.
        train: those whose images may give the statistics of batch norms.
        weights: checkpoint whose network the untrained one has; by default the one that the description names.
        plans: plans of the data set; by default those that the description names.
        configuration: one of their configurations.
        seed: of the random weights.
        device: where the encoder runs.

    Raises:
        InputError: there are no preprocessed cases.
    """
    settings = settings_of(description, device)
    untrained, found = untrained_encoder(dataset_id, description, weights, plans, configuration, seed)
    fitted = FittedImages(found, untrained.expected, untrained.view.in_channels)
    told = _recalibrated(untrained, found, fitted, train, device)
    parts = _parts(untrained, found, fitted, settings)
    stamp = [DatasetSource(found, fitted, "", "").stamp(), *fitted.notes, *(sorted(train) if told else ())]
    encoder = repr((untrained.tile, untrained.view.module))
    key = {**asdict(settings), "device": None, "seed": seed, "encoder": encoder, "images": stamp}
    folder = kept_beside(features)
    kept = {name: PartialFeatures(folder / f"{name.replace(' ', '_')}.npz", {**key, "name": name}) for name in parts}
    _fill(kept, parts, found, len(fitted.has), cases)
    said = {"kind": KIND, "notes": [*untrained.notes, *told]}
    tables = {name: each.finish(cases, {**said, "baseline": name}) for name, each in kept.items()}
    return Baselines(tables, (*untrained.notes, *told))


def kept_beside(features: Path) -> Path:
    """Return the folder of the baselines of a file or folder of features."""
    return features.with_name(f"{features.name if features.is_dir() else features.stem}_baselines")


def _fill(
    kept: Mapping[str, PartialFeatures], parts: Mapping[str, Part], found: LabelledCases, channels: int,
    cases: Sequence[str],
) -> None:  # fmt: skip
    """Make what is missing, case by case."""
    lacking = [set(each.missing(cases)) for each in kept.values()]
    missing = [case for case in cases if any(case in each for each in lacking)]
    if not missing:
        return
    done = len(cases) - len(missing)
    with tqdm(total=len(cases), initial=done, desc="baselines", unit="case", disable=None) as bar:
        for case in found.read(range(channels), missing):
            for name, vectors in ((name, part(case)) for name, part in parts.items()):
                kept[name].put(case.name, vectors)
            bar.update()


def settings_of(description: Mapping[str, Any], device: str) -> FeatureSettings:
    """Return the settings of the pre-trained features, or the default ones where they are not told."""
    said = description.get("settings")
    known = said if isinstance(said, Mapping) else {}
    names = ("stages", "pooling", "foreground", "window")
    return FeatureSettings(**{name: known[name] for name in names if name in known}, device=device)


def untrained_encoder(
    dataset_id: int,
    description: Mapping[str, Any],
    weights: Path | None,
    plans: str | None,
    configuration: str | None,
    seed: int,
) -> tuple[Untrained, LabelledCases]:
    """Return an encoder with random weights and the cases that it reads.

    Args:
        dataset_id: number of the data set.
        description: how the features were made that it is compared with.
        weights: checkpoint whose network it has; by default the one that the description names.
        plans: plans of the data set; by default those that the description names.
        configuration: one of their configurations.
        seed: of the random weights.

    Raises:
        InputError: plans, weights or preprocessed cases are missing.
    """
    plans = plans or _text(description.get("plans"))
    configuration = configuration or _text(description.get("configuration"))
    path = weights or _known_weights(description)
    if path is None:
        chosen = choose_plans(dataset_id, {}, None, plans, configuration)
        found = preprocessed_cases(dataset_id, chosen.plans, chosen.configuration)
        with seeded(seed):
            network = build_network(
                found.configuration, inputs=len(channels_of(found.dataset)), outputs=2, deep_supervision=False,
                name=chosen.plans,
            )  # fmt: skip
        view = encoder_of(network)
        told = f"the file of weights is not known, so the untrained encoder is that of {chosen.plans}"
        return Untrained(view, tile_of(view, found.configuration), None, (told,)), found
    chosen, encoder = encoder_for(dataset_id, path, plans=plans, configuration=configuration)
    found = preprocessed_cases(dataset_id, chosen.plans, chosen.configuration)
    with seeded(seed):
        network = encoder.fresh()
    return Untrained(encoder_of(network), encoder.tile, encoder.checkpoint.images, ()), found


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _known_weights(description: Mapping[str, Any]) -> Path | None:
    """Return the file that features were made with, if it is still there and the same."""
    said = description.get("weights")
    if not isinstance(said, Mapping) or not isinstance(said.get("path"), str):
        return None
    path = Path(said["path"])
    return path if path.is_file() and sha256_of(path) == said.get("sha256") else None


def _parts(
    untrained: Untrained, found: LabelledCases, fitted: FittedImages, settings: FeatureSettings
) -> dict[str, Part]:
    """Return name -> function from a case to the features of a baseline."""
    encoder = _UntrainedVectors(untrained, fitted, settings)
    parts: dict[str, Part] = {UNTRAINED: partial(encoder, 0), COVARIANCE: partial(encoder, 1),
                              INTENSITY: intensity_statistics,
                              VOLUME: lambda case: image_volumes(case, found.spacing)}  # fmt: skip
    if not found.unlabelled:
        path = found.folder / "dataset.json"
        regions = list(target_of_dataset(found.dataset, name=found.folder.name, path=str(path)).regions.values())
        parts[LABELS] = lambda case: label_volumes(case, regions, found.spacing)
    return parts


class _UntrainedVectors:
    """Both vectors of a case, in one pass through the encoder."""

    def __init__(self, untrained: Untrained, fitted: FittedImages, settings: FeatureSettings) -> None:
        poolings: list[Pooling] = [settings.pooling, "covariance"]
        self.fitted = fitted
        self.vectors = vectors_of(untrained.view, untrained.tile, settings, poolings)
        self.last: tuple[str, list[NDArray[np.float32]]] = ("", [])

    def __call__(self, number: int, case: LabelledCase) -> NDArray[np.float32]:
        if self.last[0] != case.name:
            self.last = (case.name, self.vectors(*self.fitted(case)))
        return self.last[1][number]


def _recalibrated(
    untrained: Untrained, found: LabelledCases, fitted: FittedImages, train: Sequence[str], device: str
) -> tuple[str, ...]:
    """Give batch norms the statistics of training images, and say so; other norms need none."""
    norms = [module for module in untrained.view.module.modules() if isinstance(module, _BatchNorm)]
    chosen = sorted(train)[:_RECALIBRATED]
    if not norms or not chosen:
        return ()
    step = untrained.view.strides[-1]
    shown = (
        window
        for case in found.read(range(len(fitted.has)), chosen)
        for image in fitted(case)[0]
        for window, _ in windows_of(image, torch.ones(image.shape[1:]), untrained.tile, step)
    )
    recalibrate(untrained.view.module.to(device), shown, device=device)
    return (f"batch norms of the untrained encoder have the statistics of {len(chosen)} training images",)


def recalibrate(module: nn.Module, images: Iterable[Tensor], *, device: str = "cpu") -> None:
    """Set the running statistics of batch norms to the means over images, and put the module into eval mode.

    Args:
        module: whose batch norms get them.
        images: (C, *spatial) each.
        device: of the module.

    Example:
        >>> norm = nn.BatchNorm3d(1)
        >>> recalibrate(norm, [torch.full((1, 2, 2, 2), 3.0), torch.full((1, 2, 2, 2), 5.0)])
        >>> norm.running_mean, norm.training
        (tensor([4.]), False)
    """
    module.eval()
    norms = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # plain means
        norm.train()
    with torch.no_grad():
        for image in images:
            module(image[None].to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
