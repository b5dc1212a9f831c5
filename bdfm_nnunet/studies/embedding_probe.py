"""How much of the spectrum of real crops a frozen encoder keeps: `bdfm probe`."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.data.batch_streams import seeded
from bdfm_nnunet.data.checked_cases import checked
from bdfm_nnunet.data.crops import UnlabelledCrops
from bdfm_nnunet.embedding_spectrum import StageSpectrum, embedding_spectrum
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.score_summary import none_for_nan
from bdfm_nnunet.files import write_json
from bdfm_nnunet.networks.encoders import EncoderView, encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import inputs_of, outputs_of, read_dataset_json, resolve_configuration
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder
from bdfm_nnunet.plans.plans_lookup import read_plans
from bdfm_nnunet.split_files import SPLITS, read_splits

logger = logging.getLogger(__name__)

# positions per feature below which a decoder fits its own crops rather than the encoder
_FEW = 4
_FIT, _SCORE = 20, 21  # keep the random streams of one seed apart


@dataclass(frozen=True)
class Probe:
    """What is probed, and how.

    Attributes:
        dataset_id: number of a preprocessed data set.
        plans: name of its plans, whose network and crops are used.
        configuration: one of their configurations.
        weights: checkpoint that is read into the network; None for its first, random weights.
        channels: "single" shows the encoder one randomly chosen channel of a case, as pre-training does by default.
        crops: crops to fit on; half as many are held out.
        fold: fold of splits_final.json, whose validation cases give the held-out crops.
        shells: number of radial shells.
        ridge: penalty of the regression.
        seed: of the crops and of random weights.
        device: where the encoder runs.
    """

    dataset_id: int
    plans: str
    configuration: str = "3d_fullres"
    weights: Path | None = None
    channels: Literal["single", "all"] = "single"
    crops: int = 64
    fold: int = 0
    shells: int = 8
    ridge: float = 1e-3
    seed: int = 0
    device: str = "cpu"


def probe_spectrum(probe: Probe, *, out: Path | None = None) -> dict[str, Any]:
    """Measure which share of the spectrum a linear decoder recovers from each stage of an encoder.

    Args:
        probe: what is probed.
        out: JSON file to write.

    Returns:
        The content of the file: "settings", and "stages" from the finest, each with "stride", "channels", "positions",
        "frequencies" (cycles/mm) and "recovered" (null where the crops have no power).

    Raises:
        InputError: plans, data or weights are missing or do not fit.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(probe.dataset_id)
    configuration = resolve_configuration(read_plans(probe.dataset_id, probe.plans), probe.configuration)
    view = _encoder(probe, configuration, folder)
    parts = _cases(folder, probe.fold)
    counts = (probe.crops, max(probe.crops // 2, 1))
    crops = [
        _crops(probe, configuration, folder, cases, count=count, stream=stream)
        for cases, count, stream in zip(parts, counts, (_FIT, _SCORE), strict=True)
    ]
    spacing = tuple(float(step) for step in configuration["spacing"])
    stages = embedding_spectrum(view, *crops, spacing=spacing, shells=probe.shells, ridge=probe.ridge)
    _warn_of_few(stages)
    result = _result(probe, stages)
    if out is not None:
        write_json(out, result)
    return result


def _encoder(probe: Probe, configuration: dict[str, Any], folder: Path) -> EncoderView:
    dataset = read_dataset_json(folder / "dataset.json")
    inputs = 1 if probe.channels == "single" else inputs_of(dataset, configuration)
    with seeded(probe.seed):
        network = build_network(
            configuration, inputs=inputs, outputs=outputs_of(dataset), deep_supervision=False, name=probe.plans
        )
    if probe.weights is not None:
        load_pretrained(network, probe.weights)
    return encoder_of(network.to(probe.device))


def _cases(folder: Path, fold: int) -> tuple[list[str], list[str]]:
    splits = read_splits(folder / SPLITS)
    if not 0 <= fold < len(splits):
        raise InputError(f"{folder / SPLITS} has no fold {fold}: it has {len(splits)}, from 0 on")
    found = splits[fold]["train"], splits[fold]["val"]
    if not all(found):
        raise InputError(f"fold {fold} of {folder / SPLITS} has no training or no validation cases: name another fold")
    return found


def _crops(
    probe: Probe, configuration: dict[str, Any], folder: Path, cases: list[str], *, count: int, stream: int
) -> Iterator[Tensor]:
    data = folder / configuration["data_identifier"]
    if not data.is_dir():
        raise InputError(f"{data} does not exist: preprocess the data set with `bdfm plan -d {probe.dataset_id}`")
    dataset = checked(infer_dataset_class(str(data)))(str(data), cases)
    source = UnlabelledCrops(
        dataset, batch_size=1, patch_size=configuration["patch_size"], single_channel=probe.channels == "single"
    )
    for number in range(count):
        with seeded(probe.seed, stream, number):
            images: Tensor = source.generate_train_batch()["data"]
        yield images.to(torch.device(probe.device))


def _warn_of_few(stages: Sequence[StageSpectrum]) -> None:
    for stage in stages:
        if stage.positions < _FEW * stage.channels:
            logger.warning(
                "the stage of stride %s has %d features and was fitted on %d positions: give more --crops to trust it",
                "x".join(map(str, stage.stride)), stage.channels, stage.positions,
            )  # fmt: skip


def _result(probe: Probe, stages: Sequence[StageSpectrum]) -> dict[str, Any]:
    settings = {**vars(probe), "weights": None if probe.weights is None else probe.weights.name}
    rows = [
        {
            "stride": list(stage.stride),
            "channels": stage.channels,
            "positions": stage.positions,
            "frequencies": stage.frequencies.tolist(),
            "recovered": stage.recovered.tolist(),
        }
        for stage in stages
    ]
    result: dict[str, Any] = none_for_nan({"kind": "spectrum probe", "settings": settings, "stages": rows})
    return result


def table(result: dict[str, Any]) -> str:
    """Return the shares of a result as text, a line per stage and a column per shell.

    Example:
        >>> stage = {"stride": [4, 4], "channels": 8, "frequencies": [0.125, 0.375], "recovered": [0.9, None]}
        >>> print(table({"stages": [stage]}))
        stride  features  0.125  0.375  cycles/mm
        4x4            8  0.900      -
    """
    stages = result["stages"]
    width = max(6, *(len("x".join(map(str, stage["stride"]))) for stage in stages))
    heads = "  ".join(f"{frequency:.3f}" for frequency in stages[0]["frequencies"])
    lines = [f"{'stride':<{width}}  features  {heads}  cycles/mm"]
    for stage in stages:
        shares = "  ".join(f"{'-':>5}" if share is None else f"{share:5.3f}" for share in stage["recovered"])
        lines.append(f"{'x'.join(map(str, stage['stride'])):<{width}}  {stage['channels']:>8}  {shares}")
    return "\n".join(lines)
