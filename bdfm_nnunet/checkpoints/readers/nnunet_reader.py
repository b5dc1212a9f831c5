"""Checkpoints of nnU-Net v2 and of our trainers, which add entries to nnU-Net's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.primus_tokens import in_raster_order, is_primus
from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages, Origin, Reader, ReadingSettings
from bdfm_nnunet.checkpoints.readers.renaming import Renamed
from bdfm_nnunet.checkpoints.readers.source_network import (
    SourceNetwork,
    TokenOrder,
    described_network,
    trained_on_labels,
)
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.nnunet_files import channels_of, resolve_configuration

EXPOSURE, EXPOSURE_FORMAT = "bdfm_exposure", 1
"""The entry in which our checkpoints tell which cases they were trained on, and the number of its form."""
PROGRESS = "bdfm_progress"
"""The entry in which a checkpoint from the middle of an epoch tells where that was."""
STRATEGY = "bdfm_strategy"
"""The entry in which a checkpoint of a fine-tuning tells the stage that it was in."""
CHANNEL_DROPOUT = "bdfm_channel_dropout"
"""The entry in which the checkpoint of a fine-tuning tells how often channels were left out."""
TASK = "bdfm_task"
"""The entry in which the checkpoint of a subject-level task tells its targets."""

_OLDER = "token_order=hwd is that of dynamic-network-architectures before 24 June 2025"
_PLANS = {"configurations": {str: dict}}
_WINDOWS = {"architecture": {"arch_kwargs": {"window_size": [int]}}}
_AXES = {"transpose_forward": [int]}
_CHANNELS = ({"channel_names": {str: str}}, {"modality": {str: str}})
_MOST_CITATIONS = 50
_IMAGES = {"spacing": [float], "normalization_schemes": [str], "use_mask_for_norm": [(bool, None)]}


@dataclass(frozen=True)
class NnunetReader(Reader):
    """nnU-Net's `network_weights` with `init_args` and, from our trainers, exposure and progress.

    Attributes:
        token_order: order in which the file's Primus reads its tokens.
        architecture: arguments of the planned network; positions of a Primus are put in order by them.

    Example:
        >>> NnunetReader().recognises({"network_weights": {}}), NnunetReader().recognises({"state_dict": {}})
        (True, False)
    """

    token_order: TokenOrder = "whd"
    architecture: Mapping[str, Any] = field(default_factory=dict)

    kind = "nnunet"

    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether the file has nnU-Net's entry of weights."""
        return "network_weights" in content

    def configured(self, content: Mapping[str, Any], settings: ReadingSettings) -> "NnunetReader":
        """Return the reader that puts tokens in order, where a Primus is said to read them in another."""
        if settings.token_order in (None, "whd"):
            return self
        described = nnunet_origin(content).source_network
        return NnunetReader(settings.token_order, described.arch_kwargs or {})

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return the weights under our names, tokens of a Primus in raster order."""
        renamed = super().rename(weights)
        if self.token_order == "whd" or not is_primus(renamed.weights):
            return renamed
        return Renamed(in_raster_order(renamed.weights, self.architecture), renamed.dropped)

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what nnU-Net and our trainers write beside the weights."""
        said = nnunet_origin(content)
        if EXPOSURE in content or not is_primus(self.tensors(content)):
            return said
        order = " ".join(self.token_order)
        return replace(said, notes=(f"tokens are taken to be read in the order ({order}), {_OLDER}",))


def nnunet_origin(content: Mapping[str, Any]) -> Origin:
    """Return what the entries of nnU-Net and of our trainers say, in a file of any project that holds some.

    Example:
        >>> arguments = {"plans": {"configurations": {}}, "configuration": "3d_fullres"}
        >>> nnunet_origin({"network_weights": {}, "init_args": arguments}).configuration
        '3d_fullres'
    """
    arguments = content.get("init_args") if "network_weights" in content else None
    arguments = arguments if isinstance(arguments, Mapping) else {}
    plans = _of_type(arguments.get("plans"), dict)
    chosen = _of_type(arguments.get("configuration"), str)
    configuration = _configuration(plans, chosen)
    trainer = trainer_of(content)
    return Origin(
        plans=plans,
        configuration=chosen,
        trainer=trainer,
        images=_images(plans, configuration),
        window=_window(configuration),
        exposure=content.get(EXPOSURE),
        progress=content.get(PROGRESS),
        strategy=content.get(STRATEGY),
        task=content.get(TASK),
        channel_dropout=_share(content.get(CHANNEL_DROPOUT)),
        mirroring=content.get("inference_allowed_mirroring_axes"),
        source_network=_network(content, configuration, arguments.get("dataset_json"), trainer),
        licence=licence_of(content),
        citations=citations_of(content),
    )


def trainer_of(content: Mapping[str, Any]) -> str | None:
    """Return the class name of the trainer that a file names.

    Example:
        >>> trainer_of({"trainer_name": "nnUNetTrainer"}), trainer_of({"trainer_name": "os.system"})
        ('nnUNetTrainer', None)
    """
    trainer = content.get("trainer_name")
    return trainer if isinstance(trainer, str) and trainer.isidentifier() else None


def licence_of(content: Mapping[str, Any]) -> str:
    """Return the licence that a file names for its weights, in one line; empty where it names none.

    Example:
        >>> licence_of({"license": "CC BY 4.0"})
        'CC BY 4.0'
    """
    named = content.get("licence", content.get("license"))
    return " ".join(named.split())[:200] if isinstance(named, str) else ""


def citations_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the citations that a file asks for: its texts, whichever way they are nested.

    Example:
        >>> citations_of({"citations": [{"name": "OpenMind", "bibtex_citations": ["@article{wald}"]}]})
        ('@article{wald}',)
    """
    found: list[str] = []
    left = [content.get("citations")]
    while left and len(found) < _MOST_CITATIONS:
        part = left.pop(0)
        if isinstance(part, str):
            found += [part.strip()[:4000]] if part.strip() else []
        elif isinstance(part, Mapping):
            left = [value for key, value in part.items() if key not in ("name", "type")] + left
        elif isinstance(part, (list, tuple)):
            left = [*part, *left]
    return tuple(dict.fromkeys(found))


def _network(content: Mapping[str, Any], configuration: Any, dataset: Any, trainer: str | None) -> SourceNetwork:
    names = [name for name in named_tensors(content) if isinstance(name, str)]
    known = {} if fault_of(dataset, _CHANNELS) else {"channel_names": tuple(channels_of(dataset))}
    return described_network(configuration, labels=trained_on_labels(names, trainer), **known)


def _share(value: Any) -> float:
    """Return a share above 0 and below 1; 0 for anything else."""
    return value if isinstance(value, float) and 0 < value < 1 else 0.0


def _of_type(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else None


def _configuration(plans: Any, chosen: Any) -> dict[str, Any]:
    """Return the configuration with everything that it inherits; empty where these are no plans."""
    if plans is None or chosen is None or fault_of(plans, _PLANS):
        return {}
    try:
        return resolve_configuration(plans, chosen)
    except InputError:
        return {}


def _window(configuration: Mapping[str, Any]) -> tuple[int, ...] | None:
    if fault_of(configuration, _WINDOWS):
        return None
    window = tuple(configuration["architecture"]["arch_kwargs"]["window_size"])
    return window if window and all(0 < size < 1000 for size in window) else None


def _images(plans: Any, configuration: Mapping[str, Any]) -> ExpectedImages | None:
    if fault_of(plans, _AXES) or fault_of(configuration, _IMAGES):
        return None
    axes, spacing = tuple(plans["transpose_forward"]), configuration["spacing"]
    if sorted(axes) != list(range(len(spacing))):
        return None  # 2-D configurations too, in whose plans the first axis has no spacing
    return ExpectedImages(
        axes=axes,
        normalisation=tuple(configuration["normalization_schemes"]),
        masked=tuple(configuration["use_mask_for_norm"]),
        spacing=tuple(float(spacing[axes.index(axis)]) for axis in range(len(axes))),
    )
