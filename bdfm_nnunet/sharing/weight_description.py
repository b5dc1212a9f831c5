"""What a file of weights is, told from the file alone: `bdfm info`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from bdfm_nnunet.checkpoints.adaptation_plan import ADAPTATION_PLAN, SHAPE
from bdfm_nnunet.checkpoints.checkpoint_reading import Checkpoint, checkpoint_of
from bdfm_nnunet.checkpoints.citations import citations_of, title_of
from bdfm_nnunet.checkpoints.hub_folder import weight_file, with_what_lies_beside
from bdfm_nnunet.checkpoints.last_training import named_checkpoint
from bdfm_nnunet.checkpoints.readers.weight_sets import weight_sets
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, gaps_of, verdicts
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.presets import PRETRAINERS, TRAINER_PRESETS
from bdfm_nnunet.settings import methods_of, pretraining_settings

TARGETS = (
    ("swin", r"^encoder\.stages\.\d+\.blocks\.\d+\.attn\."),
    ("resenc", r"^encoder\.stages\.\d+\.blocks\.\d+\.conv1\."),
    ("plain", r"^encoder\.stages\.\d+\.\d+\.convs\."),
    ("resnet18", r"^encoder\.layer1\.0\.conv1\."),
    ("primus", r"^(encoder\.)?eva\.blocks\."),
    ("neurostorm", r"^encoder\.stages\.\d+\.blocks\.\d+\.mamba\."),
)
"""Network of `bdfm plan` and names, under ours, that only its weights have."""
_INPUTS = (
    "encoder.patch_embed.weight", "encoder.stem.convs.0.conv.weight", "encoder.stages.0.0.convs.0.conv.weight",
    "encoder.conv1.weight", "down_projection.proj.weight", "encoder.down_projection.proj.weight",
)  # fmt: skip
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "relative_position_index")
_STAGE = re.compile(r"^encoder\.(?:stages\.|layer)(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class WeightDescription:
    """What a file of weights tells; None and empty where it does not.

    Attributes:
        path: the file.
        bytes: its size.
        sha256: its digest.
        project: the project that wrote it, see `Checkpoint.kind`.
        trainer: class name of the trainer.
        methods: of the pre-training, see `settings.methods_of`.
        settings: what the plans changed of the method's settings.
        epochs: that were finished.
        network: class, stages, channels of the images, and parameters of encoder and file.
        plans: data set, plans, configuration, spacing and patch in the order of the plans' axes, and normalisation.
        weight_sets: name, tensors and parameters of each set of weights in the file.
        fits: networks of `bdfm plan` that its encoder belongs to.
        seen: the trainings behind it with the numbers of their cases, as in `Exposure.counted`.
        gaps: what is not known of the training data; sentences without full stops.
        rules: what challenges say of that, as in `Verdict.as_dict`.
        licence: of the weights.
        citations: what to cite.
        notes: sentences of the reader, and on what is missing.
    """

    path: str
    bytes: int
    sha256: str
    project: str
    trainer: str | None
    methods: list[str]
    settings: dict[str, Any]
    epochs: int | None
    network: dict[str, Any]
    plans: dict[str, Any] | None
    weight_sets: list[dict[str, Any]]
    fits: list[str]
    seen: dict[str, Any]
    gaps: list[str]
    rules: list[dict[str, Any]]
    licence: str
    citations: list[str]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return it in plain JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [(name, value) for name, values in self._rows() for value in values]
        width = max(len(name) for name, _ in rows)
        names = [name if at == 0 or rows[at - 1][0] != name else "" for at, (name, _) in enumerate(rows)]
        return "\n".join(f"{name:<{width}}  {value}" for name, (_, value) in zip(names, rows, strict=True))

    def _rows(self) -> Iterator[tuple[str, list[str]]]:
        yield "file", [f"{self.path} ({self.bytes / 1e6:,.1f} MB, sha256 {self.sha256[:12]})"]
        yield "project", [self.project + (f", {self.trainer}" if self.trainer else "")]
        yield "method", [", ".join(map(title_of, self.methods))] if self.methods else []
        yield "settings", [", ".join(f"{k} {v}" for k, v in self.settings.items())] if self.settings else []
        yield "epochs", [] if self.epochs is None else [f"{self.epochs} finished"]
        yield "network", [told_network(self.network)]
        yield "plans", [told_plans(self.plans)] if self.plans else ["none in the file"]
        if len(self.weight_sets) > 1:
            yield "weights", [f"{each['name']}: {each['parameters'] / 1e6:.1f} million" for each in self.weight_sets]
        yield "fits", [", ".join(self.fits) or "no network of bdfm plan"]
        yield "seen", told_runs(self.seen) or ["unknown"]
        yield "allowed", [f"{each['name']}: {each['answer']} ({each['why']})" for each in self.rules]
        yield "licence", [self.licence or "not stated"]
        yield "cite", self.citations
        yield "note", self.notes


def describe_weights(path: str | Path) -> WeightDescription:
    """Describe a file of weights without building a network.

    Args:
        path: whatever `checkpoints.read_checkpoint` reads.

    Raises:
        InputError: it cannot be used as weights.
    """
    return Describer.of(path).description()


class Describer:
    """What a checkpoint and the entries beside its weights tell.

    Args:
        checkpoint: as it was read.
        content: of the file.
    """

    def __init__(self, checkpoint: Checkpoint, content: Mapping[str, Any]) -> None:
        self.checkpoint, self.content = checkpoint, content

    @classmethod
    def of(cls, path: str | Path) -> "Describer":
        """Read a file or a folder of a model hub, see `describe_weights`."""
        named, told = named_checkpoint(path)
        file = weight_file(named)
        content = with_what_lies_beside(file, load_as_data(file))
        checkpoint = checkpoint_of(file, content)
        return cls(replace(checkpoint, notes=(*told, *checkpoint.notes)), content)

    def description(self) -> WeightDescription:
        """Return all of it."""
        checkpoint, exposure = self.checkpoint, Exposure.of_checkpoint(self.checkpoint)
        names, notes = self._names()
        return WeightDescription(
            path=str(checkpoint.path),
            bytes=checkpoint.path.stat().st_size,
            sha256=checkpoint.sha256,
            project=checkpoint.kind,
            trainer=checkpoint.trainer,
            methods=self.methods,
            settings=self.settings,
            epochs=self.epochs,
            network=self._network(names),
            plans=self._plans(),
            weight_sets=[
                {"name": each.name, "tensors": len(each.tensors), "parameters": parameters_of(each.tensors.items())}
                for each in weight_sets(self.content)
            ],
            fits=[name for name, pattern in TARGETS if any(re.search(pattern, each) for each in names)],
            seen=exposure.counted(),
            gaps=gaps_of(exposure),
            rules=[each.as_dict() for each in verdicts(exposure)],
            licence=checkpoint.licence,
            citations=self.citations,
            notes=[*checkpoint.notes, *notes],
        )

    @cached_property
    def configuration(self) -> dict[str, Any]:
        """The configuration of the plans with everything that it inherits; empty where there is none."""
        plans, name = self.checkpoint.plans, self.checkpoint.configuration
        if plans is None or name is None or fault_of(plans, {"configurations": {str: dict}}):
            return {}
        try:
            return resolve_configuration(plans, name)
        except InputError:
            return {}

    @property
    def methods(self) -> list[str]:
        """The methods of the pre-training, for the trainers of this package."""
        trainer = self.checkpoint.trainer
        if trainer not in PRETRAINERS:
            return []
        try:
            return methods_of(pretraining_settings(self.configuration, TRAINER_PRESETS.get(str(trainer))))
        except InputError:  # of another version of this package
            return []

    @property
    def settings(self) -> dict[str, Any]:
        """What the plans change of the settings."""
        block = self.configuration.get("pretraining") if self.checkpoint.trainer in PRETRAINERS else None
        return dict(block) if isinstance(block, Mapping) else {}

    @property
    def epochs(self) -> int | None:
        """Epochs that were finished."""
        found = (self.content.get(key) for key in ("current_epoch", "epoch"))
        return next((each for each in found if isinstance(each, int) and not isinstance(each, bool)), None)

    @property
    def citations(self) -> list[str]:
        """What the file asks to cite; for trainers of ours that asked for nothing yet, what they ask for now."""
        own = citations_of(self.methods, self._class_name() or "") if self.methods else []
        return list(self.checkpoint.citations) or [text for each in own for text in each["apa_citations"]]

    def _class_name(self) -> str | None:
        name = self.checkpoint.source_network.class_name
        return name.rpartition(".")[2] if name else None

    def _names(self) -> tuple[dict[str, Tensor], list[str]]:
        """Return the weights under our names, and why there are none where the reader cannot translate them."""
        try:
            return self.checkpoint.renamed.weights, []
        except InputError as error:
            return {}, [str(error)]

    def _network(self, names: Mapping[str, Tensor]) -> dict[str, Any]:
        source = self.checkpoint.source_network
        stages = {found[1] for name in names if (found := _STAGE.match(name))}
        encoder = {name: value for name, value in names.items() if name.startswith(("encoder.", "eva."))}
        return {
            "class": self._class_name(),
            "stages": len(stages) or None,
            "input_channels": next(
                (int(names[name].shape[1]) for name in _INPUTS if name in names), source.input_channels
            ),
            "encoder_parameters": parameters_of(encoder.items()),
            "parameters": parameters_of(self.checkpoint.weights.items()),
        }

    def _plans(self) -> dict[str, Any] | None:
        checkpoint, plans = self.checkpoint, self.checkpoint.plans
        images, entry = checkpoint.images, self.content.get(ADAPTATION_PLAN)
        patch = self.configuration.get("patch_size")
        if patch is None and entry is not None and not fault_of(entry, SHAPE):
            patch = entry["recommended_downstream_patchsize"]
        if plans is None and images is None and patch is None:
            return None
        named = plans or {}
        return {
            "dataset": named.get("dataset_name"),
            "plans": named.get("plans_name"),
            "configuration": checkpoint.configuration,
            "patch_size": None if patch is None else list(patch),
            "spacing": list(images.spacing) or None if images else None,
            "axes": list(images.axes) if images else None,
            "normalisation": list(images.normalisation) if images else None,
        }


def parameters_of(tensors: Any) -> int:
    """Return the number of parameters among named tensors, those with several names counted once.

    Example:
        >>> import torch
        >>> one = torch.zeros(2, 3)
        >>> parameters_of({"a.weight": one, "b.weight": one, "a.running_mean": torch.zeros(9)}.items())
        6
    """
    distinct = {
        (value.data_ptr(), tuple(value.shape)): value.numel()
        for name, value in tensors
        if not name.endswith(_STATISTICS)
    }
    return sum(distinct.values())


def told_network(network: Mapping[str, Any]) -> str:
    """Return a network's description in a sentence.

    Example:
        >>> told_network({"class": "SwinUNet", "stages": 3, "input_channels": 1, "encoder_parameters": 1200000,
        ...               "parameters": 1500000})
        'SwinUNet, 3 stages, 1 channel, 1.20 of 1.50 million parameters in the encoder'
    """
    parts = [network["class"] or "of an unnamed class"]
    for key, unit in (("stages", "stage"), ("input_channels", "channel")):
        if network[key]:
            parts.append(f"{network[key]} {unit}{'s' * (network[key] > 1)}")
    shares = [network[key] / 1e6 for key in ("encoder_parameters", "parameters")]
    return ", ".join([*parts, f"{shares[0]:.2f} of {shares[1]:.2f} million parameters in the encoder"])


def told_plans(plans: Mapping[str, Any]) -> str:
    """Return the plans' description in a sentence.

    Example:
        >>> told_plans({"dataset": "Dataset501_A", "plans": None, "configuration": "3d_fullres", "axes": [0, 1, 2],
        ...             "patch_size": [32, 32, 32], "spacing": [1.0, 1.0, 1.0], "normalisation": ["ZScore"]})
        'Dataset501_A 3d_fullres, patch 32 x 32 x 32, spacing 1 x 1 x 1 mm, ZScore'
    """
    named = " ".join(str(plans[key]) for key in ("dataset", "plans", "configuration") if plans[key])
    parts = [named] if named else []
    if plans["patch_size"]:
        parts.append(f"patch {_times(plans['patch_size'])}")
    steps = plans["spacing"] or []
    space, time = steps[:3], steps[3:]
    seconds = "".join(f", {step:g} s" for step in time)
    parts.append(f"spacing {_times(space)} mm{seconds}" if space else "no fixed spacing")
    if plans["normalisation"]:
        parts.append(", ".join(dict.fromkeys(plans["normalisation"])))
    return ", ".join(parts)


def told_runs(seen: Mapping[str, Any]) -> list[str]:
    """Return a sentence a training.

    Example:
        >>> told_runs({"runs": [{"dataset": "Dataset501_A", "train": 160, "val": 40, "trainer": "nnUNetTrainerSimCLR",
        ...                      "releases": {"ixi": {"licence": "CC BY-SA 3.0"}}}], "note": None})
        ['Dataset501_A: 160 training and 40 validation cases, ixi (CC BY-SA 3.0), nnUNetTrainerSimCLR']
    """
    return [*map(_told_run, seen["runs"]), *([seen["note"]] if seen["note"] else [])]


def _told_run(run: Mapping[str, Any]) -> str:
    parts = [f"{run.get('train', 0)} training and {run.get('val', 0)} validation cases"] if "train" in run else []
    for name, entry in run.get("releases", {}).items():
        parts.append(f"{name} ({entry['licence']})" if entry.get("licence") else name)
    parts += [each for each in (run.get("trainer"), run.get("note")) if each]
    return f"{run.get('dataset', 'a data set')}: {', '.join(parts)}"


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
