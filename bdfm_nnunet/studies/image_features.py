"""Features of images by a frozen encoder, for whatever is trained on them elsewhere: `bdfm features`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import (
    Checkpoint,
    load_bdfm_reference,
    load_pretrained,
    load_simclr_reference,
    read_checkpoint,
)
from bdfm_nnunet.checkpoints.bdfm_reference import published_encoder
from bdfm_nnunet.checkpoints.source_building import build_source, needed_weights
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_atomically, write_json
from bdfm_nnunet.images.case_folders import NIFTI, list_cases
from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.mamba_stages import add_prompts_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.resnet import ResNet18
from bdfm_nnunet.networks.subject_network import AXES_OF_RUNS
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.plans.plans_lookup import read_plans
from bdfm_nnunet.studies.image_preparation import ASSUMED, PreparedCase, prepare_case
from bdfm_nnunet.table_files import write_table

_CHANNEL = re.compile(r"(.+)_(\d{4})")
_TILE = 96


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A planned network that reads weights whose own network is not told.

    Attributes:
        dataset_id: number of the data set.
        plans: name of its plans.
        configuration: one of their configurations.
    """

    dataset_id: int
    plans: str
    configuration: str


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder with its weights, and what it expects.

    Attributes:
        view: the encoder.
        checkpoint: where the weights come from.
        tile: voxels per axis that it is shown at once, in its own order of axes.
        notes: sentences about what was loaded or assumed.
        fresh: makes a network with such an encoder, with the random weights that a training would start from.
    """

    view: EncoderView
    checkpoint: Checkpoint
    tile: tuple[int, ...]
    notes: tuple[str, ...]
    fresh: Callable[[], nn.Module]


def write_features(
    images: Sequence[Path],
    *,
    weights: str | Path,
    out: Path,
    planned: Planned | None = None,
    maps: bool = False,
    device: str = "cpu",
    reading: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the features of images: OUT/CASE.npz with those of every stage, and OUT/features.csv of the last.

    Each image is prepared as those of the encoder's training (see `prepare_case`) and shown in tiles side by side.
    "stage0" to "stageN" are means over the positions of a stage that lie in the image, finest first.

    Args:
        images: NIfTI files, or folders of them; several channels of a case end in _0000, _0001 and so on.
        weights: checkpoint.
        out: folder to write.
        planned: network to read the weights into; by default the one that the file describes.
        maps: write the feature maps too, "map0" to "mapN", (C, z, y, x) of the cropped and resampled image.
        device: where the encoder runs.
        reading: settings of reading, see `ReadingSettings`.

    Returns:
        The content of OUT/features.json: weights, how images were prepared, tile, stages, cases.

    Raises:
        InputError: an image or the weights cannot be used, or the file does not tell its network.
    """
    encoder = frozen_encoder(weights, planned, dict(reading or {}))
    check_reads_images(encoder)
    encoder.view.module.to(device).eval()
    cases = image_files(images, encoder.view.in_channels)
    out.mkdir(parents=True, exist_ok=True)
    expected = encoder.checkpoint.images or ASSUMED
    rows = {}
    for case, paths in cases.items():
        prepared = prepare_case(paths, expected, encoder.checkpoint.plans)
        found: dict[str, Any] = features_of(encoder, prepared, axes=expected.axes, maps=maps, device=device)
        with write_atomically(out / f"{case}.npz") as path, path.open("wb") as stream:
            np.savez_compressed(stream, **found)
        rows[case] = found[f"stage{len(encoder.view.channels) - 1}"]
    _write_table(rows, out / "features.csv")
    described = _described(encoder, list(cases))
    write_json(out / "features.json", described)
    return described


def features_of(
    encoder: FrozenEncoder, case: PreparedCase, *, axes: Sequence[int], maps: bool, device: str = "cpu"
) -> dict[str, Any]:
    """Return the features of one prepared image: "stageN" (C,), and "mapN" (C, z, y, x) where maps are wanted.

    Args:
        encoder: in eval mode.
        case: the image.
        axes: the encoder's order of axes, as positions in (z, y, x).
        maps: whether to return the maps.
        device: where the encoder runs.
    """
    strides, size = encoder.view.strides, case.image.shape[1:]
    grids = [tuple(-(-n // step) for n, step in zip(size, stride, strict=True)) for stride in strides]
    whole = [torch.zeros(channels, *grid) for channels, grid in zip(encoder.view.channels, grids, strict=True)]
    for start, tile in _tiles(case.image, encoder.tile):
        with torch.no_grad():
            found: list[Tensor] = list(encoder.view.module(tile[None].to(device)))
        for into, feature, stride in zip(whole, found, strides, strict=True):
            first = [at // step for at, step in zip(start, stride, strict=True)]
            kept = [min(n, end - at) for n, end, at in zip(feature.shape[2:], into.shape[1:], first, strict=True)]
            place = tuple(slice(at, at + n) for at, n in zip(first, kept, strict=True))
            into[(slice(None), *place)] = feature[0].cpu()[(slice(None), *map(slice, kept))]
    result = {f"stage{at}": each.flatten(1).mean(1).numpy() for at, each in enumerate(whole)}
    if maps:
        back = [list(axes).index(axis) for axis in range(3)]
        result |= {f"map{at}": each.permute(0, *(1 + b for b in back)).numpy() for at, each in enumerate(whole)}
    return result


def _tiles(image: Tensor, tile: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield tiles side by side and where they start; those at the end are filled up with zeros."""
    for start in product(*(range(0, n, step) for n, step in zip(image.shape[1:], tile, strict=True))):
        part = image[(slice(None), *(slice(at, at + n) for at, n in zip(start, tile, strict=True)))]
        short = [n - has for n, has in zip(tile, part.shape[1:], strict=True)]
        yield start, nn.functional.pad(part, [n for missing in reversed(short) for n in (0, missing)])


def frozen_encoder(
    weights: str | Path, planned: Planned | None = None, reading: Mapping[str, Any] | None = None
) -> FrozenEncoder:
    """Read an encoder, of the network that the file describes or of a planned one.

    Args:
        weights: checkpoint, or a folder with one.
        planned: network to read the weights into; by default the one that the file describes.
        reading: settings of reading, see `ReadingSettings`.

    Raises:
        InputError: the weights cannot be used, or the file does not tell its network.
    """
    reading = dict(reading or {})
    checkpoint = read_checkpoint(weights, **reading)
    told = checkpoint.notes
    if planned is None and checkpoint.kind in _REFERENCES:
        load, fresh = _REFERENCES[checkpoint.kind]
        encoder: nn.Module = load(checkpoint.path).encoder
        return _frozen(encoder, checkpoint, {}, told, lambda: fresh(checkpoint, encoder))
    configuration: dict[str, Any] = {}
    if planned is not None:
        configuration = resolve_configuration(read_plans(planned.dataset_id, planned.plans), planned.configuration)
        fresh_network: Callable[[], Any] = _planned_builder(checkpoint, configuration, planned.plans)
        network = fresh_network()
    else:
        network, fresh_network = build_source(checkpoint), partial(build_source, checkpoint, initialise=True)
        plans, name = checkpoint.plans, checkpoint.configuration
        if network is not None and plans is not None and name is not None:
            configuration = resolve_configuration(plans, name)
    if network is None:
        raise InputError(
            f"{checkpoint.path} does not tell its network: name plans that fit it with -d and -p, made by `bdfm plan`"
        )
    add_prompts_of(network, needed_weights(checkpoint))
    report = load_pretrained(network, checkpoint.path, **reading)
    notes = (*told, f"{report.encoder_share:.1%} of the encoder is loaded")
    return _frozen(network, checkpoint, configuration, notes, fresh_network)


def _planned_builder(checkpoint: Checkpoint, configuration: Mapping[str, Any], name: str) -> Callable[[], nn.Module]:
    inputs = checkpoint.source_network.input_channels or 1
    return partial(build_network, configuration, inputs=inputs, outputs=2, deep_supervision=False, name=name)


def _fresh_simclr(checkpoint: Checkpoint, encoder: nn.Module) -> nn.Module:
    view = encoder_of(encoder)
    return ResNet18(view.in_channels, features=view.channels[1:], strides=cast(ResNet18, encoder).strides)


_REFERENCES: dict[str, Any] = {
    "simclr_reference": (load_simclr_reference, _fresh_simclr),
    "bdfm_reference": (load_bdfm_reference, lambda checkpoint, _: published_encoder(checkpoint.renamed.weights)),
}
"""Kind of file -> how it is loaded, and a network of its sizes with random weights is made."""


def _frozen(
    network: nn.Module,
    checkpoint: Checkpoint,
    configuration: Mapping[str, Any],
    notes: tuple[str, ...],
    fresh: Callable[[], Any],
) -> FrozenEncoder:
    view = encoder_of(network)
    if view.axes not in (3, AXES_OF_RUNS):
        raise InputError(f"{checkpoint.path} is of a {view.axes}-D network: give weights of a 3-D or 4-D one")
    if checkpoint.images is None and view.axes == 3:
        notes = (*notes, "the file does not tell its images: each channel is standardised over its non-zero voxels")
    return FrozenEncoder(view, checkpoint, tile_of(view, configuration), notes, fresh)


def check_reads_images(encoder: FrozenEncoder) -> None:
    """Raise InputError where an encoder reads runs: those must be converted and planned first."""
    if encoder.view.axes != 3:
        raise InputError(
            f"{encoder.checkpoint.path} is of a {encoder.view.axes}-D network: give weights of a 3-D one, or for runs "
            "the number of their data set with -d in place of files"
        )


def tile_of(view: EncoderView, configuration: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the voxels per axis that an encoder is shown at once: its patch, as whole positions of its last stage."""
    wanted = configuration.get("architecture", {}).get("arch_kwargs", {}).get("input_shape")
    wanted = wanted or configuration.get("patch_size") or (_TILE,) * view.axes
    return tuple(-(-size // step) * step for size, step in zip(wanted, view.strides[-1], strict=True))


def image_files(images: Sequence[Path], channels: int) -> dict[str, list[Path]]:
    """Return case -> its files, one per channel.

    Args:
        images: NIfTI files, or folders of them.
        channels: that each case must have.

    Raises:
        InputError: a file is no NIfTI file, there twice, or channels are missing.
    """
    found: dict[str, dict[int, Path]] = {}
    for name, path in _files(images):
        matched = _CHANNEL.fullmatch(name)
        case, channel = (matched[1], int(matched[2])) if matched else (name, 0)
        if channel in found.setdefault(case, {}):
            raise InputError(f"{path} and {found[case][channel]} are both channel {channel} of {case}: rename one")
        found[case][channel] = path
    for case, files in found.items():
        if sorted(files) != list(range(channels)):
            raise InputError(
                f"{next(iter(files.values()))}: case {case} has the channels {sorted(files)}, but the encoder reads "
                f"{channels}: give one file per channel, ending in _0000 and so on"
            )
    return {case: [files[channel] for channel in sorted(files)] for case, files in found.items()}


def _files(images: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for image in images:
        if image.is_dir():
            yield from list_cases(image, what="images").files.items()
            continue
        ending = next((end for end in NIFTI if image.name.endswith(end)), None)
        if ending is None:
            raise InputError(f"{image} is no NIfTI file, expected an ending of {' or '.join(NIFTI)}: convert it first")
        yield image.name.removesuffix(ending), image


def _write_table(rows: Mapping[str, np.ndarray], path: Path) -> None:
    columns = [f"feature_{at}" for at in range(len(next(iter(rows.values()))))]
    write_table(path, [["case", *columns], *([case, *(f"{value:.7g}" for value in row)] for case, row in rows.items())])


def _described(encoder: FrozenEncoder, cases: list[str]) -> dict[str, Any]:
    view, checkpoint = encoder.view, encoder.checkpoint
    stages = [
        {"stride": list(stride), "channels": channels}
        for stride, channels in zip(view.strides, view.channels, strict=True)
    ]
    return {
        "kind": "image features",
        "weights": {"name": checkpoint.path.name, "sha256": checkpoint.sha256, "project": checkpoint.kind,
                    "licence": checkpoint.licence, "citations": list(checkpoint.citations)},
        "images": {key: list(value) for key, value in asdict(checkpoint.images or ASSUMED).items()},
        "tile": list(encoder.tile),
        "stages": stages,
        "cases": cases,
        "notes": list(encoder.notes),
    }  # fmt: skip
