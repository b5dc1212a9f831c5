"""A masked pre-training with its decoders, built from its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bdfm_nnunet.checkpoints import Checkpoint, load_bdfm_reference, read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.nnunet_files import check_plans, resolve_configuration
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.presets import MIXTURE_TRAINER, PRESETS, TRAINER_PRESETS
from bdfm_nnunet.settings import CropSettings, MixtureSettings, PretrainingSettings, TrainingSettings, read_block
from bdfm_nnunet.settings.blocks import pretraining_settings

_PUBLISHED_CROP = (96, 96, 96)
_REMEDY = "give a checkpoint of nnUNetTrainerBDFMPretrain or nnUNetTrainerSimMIM"


@dataclass(frozen=True, kw_only=True)
class MaskedModel:
    """A masked pre-training as its checkpoint has it.

    Attributes:
        objective: encoder, mask token and decoders, in eval mode.
        checkpoint: where they come from.
        crop: voxels per axis of the training's crops.
        spacing: mm along the axes of the objective's images; empty where the file does not tell.
        single_channel: whether every channel of a case was a separate image.
        seed: of the training; None where the file does not tell.
    """

    objective: MaskedImageModelling
    checkpoint: Checkpoint
    crop: tuple[int, ...]
    spacing: tuple[float, ...] = ()
    single_channel: bool = True
    seed: int | None = None


def load_masked_model(path: str | Path) -> MaskedModel:
    """Build a masked pre-training with the weights of its checkpoint.

    Args:
        path: a checkpoint of our trainers for masked image modelling, of a mixture with such an objective (the first
            one counts), or of the public BDFM code; or `last:ID`.

    Raises:
        InputError: it is of another training, or its decoders are missing.
    """
    checkpoint = read_checkpoint(path)
    if checkpoint.kind == "bdfm_reference":
        return MaskedModel(objective=load_bdfm_reference(checkpoint.path), checkpoint=checkpoint, crop=_PUBLISHED_CROP)
    settings, configuration = _settings_of(checkpoint)
    objective = _with_weights(checkpoint, settings, configuration)
    return MaskedModel(
        objective=objective,
        checkpoint=checkpoint,
        crop=tuple(configuration["patch_size"]),
        spacing=tuple(float(step) for step in configuration["spacing"][-objective.view.axes :]),
        single_channel=settings.channels == "single",
        seed=_seed_of(configuration),
    )


def _settings_of(checkpoint: Checkpoint) -> tuple[CropSettings, dict[str, Any]]:
    """Return the settings of the objective, and the configuration that it was trained with."""
    trainer, plans, name = checkpoint.trainer, checkpoint.plans, checkpoint.configuration
    preset = TRAINER_PRESETS.get(trainer or "")
    if preset is None and trainer != MIXTURE_TRAINER:
        named = f"is of {trainer}" if trainer else "does not name its trainer"
        raise InputError(f"{checkpoint.path} {named}, which rebuilds no masked images: {_REMEDY}")
    if preset is not None and PRESETS[preset].objective != "masked":
        raise InputError(f"{checkpoint.path} is of {trainer}, whose objective masks no patches: {_REMEDY}")
    if plans is None or name is None:
        raise InputError(f"{checkpoint.path} does not hold the plans of its training: {_REMEDY}")
    configuration = resolve_configuration(check_plans(plans, f"the plans in {checkpoint.path}"), name)
    settings = pretraining_settings(configuration, preset)
    if isinstance(settings, MixtureSettings) and not any(
        isinstance(each.settings, PretrainingSettings) for each in settings.objectives
    ):
        raise InputError(f"{checkpoint.path} is of a mixture without masked image modelling: {_REMEDY}")
    return settings, configuration


def _with_weights(
    checkpoint: Checkpoint, settings: CropSettings, configuration: Mapping[str, Any]
) -> MaskedImageModelling:
    inputs = 1
    if settings.channels == "all":
        inputs = checkpoint.source_network.input_channels or len(checkpoint.source_network.channel_names) or 1
    name = f"the plans in {checkpoint.path}"
    network = build_network(
        configuration, inputs=inputs, outputs=2, deep_supervision=False, initialise=False, name=name
    )
    whole = _objective(network, settings, configuration["spacing"])
    try:
        whole.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{checkpoint.path} lacks parts of its training ({reason}): {_REMEDY}") from None
    whole.eval()
    parts: list[nn.Module] = list(whole.parts) if isinstance(whole, Mixture) else [whole]
    return next(part for part in parts if isinstance(part, MaskedImageModelling))


def _objective(network: nn.Module, settings: CropSettings, spacing: Any) -> MaskedImageModelling | Mixture:
    view = encoder_of(network)
    spacing = spacing[-view.axes :]
    if isinstance(settings, MixtureSettings):
        return Mixture(view, settings, spacing=spacing)
    assert isinstance(settings, PretrainingSettings)
    return MaskedImageModelling(view, settings, spacing=spacing)


def _seed_of(configuration: Mapping[str, Any]) -> int:
    settings: TrainingSettings = read_block(configuration, "training")
    return settings.seed
