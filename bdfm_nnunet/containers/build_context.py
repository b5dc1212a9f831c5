"""Writing of a container: weights as prediction needs them, code, pinned requirements, and how to build it."""

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bdfm_nnunet import __version__
from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.checkpoints.adaptation_plan import ADAPTATION_PLAN, CITATIONS
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.citations import citations_of
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE, TASK
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.containers.challenge_forms import ChallengeForm
from bdfm_nnunet.containers.container_settings import MODEL, RULES, ContainerSettings
from bdfm_nnunet.containers.context_texts import ContextFacts, context_files
from bdfm_nnunet.containers.runtime_requirements import pinned
from bdfm_nnunet.dataset_conversion.releases import KNOWN_RELEASES
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.exposure.rule_verdict import Verdict, verdict
from bdfm_nnunet.files import new_folder, write_json
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.inputs.input_fingerprint import copy_fingerprint
from bdfm_nnunet.modality_names import modality_of
from bdfm_nnunet.nnunet_files import channels_of, labels_of, read_dataset_json, read_plans_file, resolve_configuration
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.prediction.argument_checks import check_model
from bdfm_nnunet.presets import PRESETS, PRETRAINERS, SUBJECT_TRAINERS, TRAINER_PRESETS
from bdfm_nnunet.results.provenance import citations_of_data, cited_once, licences_of
from bdfm_nnunet.sharing.hub_export import without_files, without_paths
from bdfm_nnunet.sharing.stock_export import stock_content
from bdfm_nnunet.sharing.weight_description import Describer, WeightDescription
from bdfm_nnunet.weight_rules import find_rules

logger = logging.getLogger(__name__)

PACKAGE, LOCAL_PYTHON = "package", "local_python"
_ROOTS = ("", ".trainers", ".plans", ".dataset_conversion")
_NEEDED = (
    "network_weights", "trainer_name", "current_epoch", "init_args", "inference_allowed_mirroring_axes",
    ADAPTATION_PLAN, CITATIONS, EXPOSURE, TASK,
)  # fmt: skip
"""Entries of a checkpoint that prediction and its licences need."""


@dataclass(frozen=True, kw_only=True)
class ContainerOrder:
    """A container to write.

    Attributes:
        model: folder of the training, with plans.json, dataset.json and a folder per fold.
        folds: that are averaged.
        form: of the challenge.
        checkpoint: file of each fold; by default the final one, of subject-level models the best one.
        target: of a subject-level model; by default its only one that fits.
        rules: of `bdfm postprocess tune`, applied to each segmentation.
        mirroring: whether mirrored copies are predicted too.
        dataset: folders of the training's data set, whose manifest tells how its images lie.
    """

    model: Path
    folds: tuple[str, ...]
    form: ChallengeForm
    checkpoint: str | None = None
    target: str | None = None
    rules: Path | None = None
    mirroring: bool = True
    dataset: tuple[Path, ...] = ()

    @property
    def file(self) -> str:
        """Name of the checkpoint of each fold."""
        best = self.form.result in ("probability", "value")
        return self.checkpoint or ("checkpoint_best.pth" if best else "checkpoint_final.pth")


def judge_weights(order: ContainerOrder) -> list[Verdict]:
    """Return what the challenge's rules on weights say of each fold; nothing where it has none.

    Raises:
        InputError: there is no such model.
    """
    check_model(order.model, order.folds, order.file)
    if not order.form.rules:
        return []
    rules = find_rules(order.form.rules)
    return [verdict(Exposure.of_checkpoint(each), rules) for each in _checkpoints(order)]


def _checkpoints(order: ContainerOrder) -> list[Checkpoint]:
    return [read_checkpoint(order.model / f"fold_{fold}" / order.file) for fold in order.folds]


def write_container(order: ContainerOrder, out: Path, *, verdicts: Sequence[Verdict] = ()) -> ContainerSettings:
    """Write the build context of a container, which also runs where it lies.

    Args:
        order: what to write.
        out: the folder; it must not exist, or be empty.
        verdicts: what the rules say of its weights, for its page.

    Returns:
        Its settings.

    Raises:
        InputError: the model cannot be used, or is none for this challenge; or the folder cannot be written.
    """
    check_model(order.model, order.folds, order.file)
    plans, dataset = read_plans_file(order.model / "plans.json"), read_dataset_json(order.model / "dataset.json")
    settings = _settings(order, plans, dataset)
    facts = _facts(order, settings, verdicts, dataset)
    with new_folder(out) as folder:
        for fold in order.folds:
            source = order.model / f"fold_{fold}" / order.file
            content = _content(order, source, without_paths(plans), without_files(dataset))
            write_checkpoint(content, folder / MODEL / source.parent.name / order.file)
        write_json(folder / MODEL / "plans.json", without_paths(plans))
        write_json(folder / MODEL / "dataset.json", without_files(dataset))
        copy_fingerprint(order.model, folder / MODEL)
        if order.rules is not None:
            shutil.copyfile(order.rules, folder / RULES)
        settings.write(folder)
        _copy_package(folder / PACKAGE)
        (folder / LOCAL_PYTHON).write_text(sys.executable + "\n", encoding="utf-8")
        for name, text in context_files(facts, rules=order.rules is not None).items():
            (folder / name).write_text(text, encoding="utf-8")
        for name in ("entrypoint", "predict.py"):
            (folder / name).chmod(0o755)
    logger.info("wrote a container for %s to %s", order.form.name, out)
    return settings


# ------------------------------------------------------------------------------------------------------ the settings


def _settings(order: ContainerOrder, plans: Mapping[str, Any], dataset: Mapping[str, Any]) -> ContainerSettings:
    """Return the settings of a model that suits the challenge."""
    channels, form = tuple(channels_of(dataset)), order.form
    if dataset["file_ending"] != NIFTI[0]:
        raise InputError(
            f"{order.model} reads {dataset['file_ending']} files, and challenges give {NIFTI[0]}: convert the data set "
            "to that, and train on it"
        )
    known: dict[str, Any] = {
        "challenge": form.name,
        "folds": tuple(order.folds),
        "checkpoint": order.file,
        "mirroring": order.mirroring,
        "version": __version__,
        "by_nibabel": plans.get("image_reader_writer") != "SimpleITKIO",
        "orientation": _orientation(order.dataset),
    }
    (trainer,) = {each.trainer for each in _checkpoints(order)[:1]}
    _check_kind(order, trainer)
    if form.result == "embedding":
        if len(channels) > 1 and len(order.folds) > 1:
            raise InputError(f"{form.name} takes one embedding of an image: name one fold with -f")
        return ContainerSettings(channels=("input",), **known | {"by_nibabel": True, "orientation": ""})
    optional = _optional(order, channels)
    if form.result == "segmentation":
        optional = channels if _does_without_some(order, plans) else optional
        return ContainerSettings(channels=channels, optional=optional, labels=_labels(order, dataset), **known)
    return ContainerSettings(channels=channels, optional=optional, target=_target(order), **known)


def _check_kind(order: ContainerOrder, trainer: str | None) -> None:
    wanted = {"segmentation": (), "embedding": PRETRAINERS}.get(order.form.result, SUBJECT_TRAINERS)
    others = (*PRETRAINERS, *SUBJECT_TRAINERS)
    if trainer not in wanted if wanted else trainer in others:
        kind = "a segmentation" if not wanted else f"one of {', '.join(wanted)}"
        raise InputError(
            f"{order.form.name} takes a model of {kind}, and {order.model} is of {trainer}: name another with -tr"
        )


def _optional(order: ContainerOrder, channels: Sequence[str]) -> tuple[str, ...]:
    """Check that the challenge gives every channel, and return those that cases may lack."""
    form = order.form
    if not form.release and not form.flags:
        return ()
    release = KNOWN_RELEASES.get(form.release)
    given = list(release.channels) if release else [*form.flags]
    unknown = [name for name in channels if modality_of(name) not in map(modality_of, given)]
    if unknown and len(channels) == len(given) == 1:
        raise InputError(f"{order.model} reads {unknown[0]}, and {form.name} gives {given[0]}: name another model")
    if unknown:
        raise InputError(
            f"{order.model} reads the channel {unknown[0]}, which {form.name} does not give (it gives "
            f"{', '.join(given)}): name another model, or convert with channels of these names"
        )
    repairs = release.repairs if release else ()
    missing = {role for repair in repairs if repair.case == ".*" for role in repair.missing}
    return tuple(name for name in channels if name in missing)


def _does_without_some(order: ContainerOrder, plans: Mapping[str, Any]) -> bool:
    """Return whether every fold has learnt to do without channels; the zeros of a container must stay 0, then."""
    read = _checkpoints(order)
    name = read[0].configuration
    if name is None or name not in plans["configurations"] or not all(each.channel_dropout for each in read):
        return False
    return "CTNormalization" not in resolve_configuration(plans, name)["normalization_schemes"]


def _labels(order: ContainerOrder, dataset: Mapping[str, Any]) -> dict[str, int]:
    """Return nnU-Net's label value to that of the challenge."""
    own, form = sorted(labels_of(dataset) - {0}), order.form
    if not form.release:
        if form.labels and not set(own) <= set(form.labels):
            raise InputError(
                f"{order.model} gives the labels {own}, and {form.name} takes {sorted(form.labels)}: name another model"
            )
        return {str(value): value for value in own}
    inverse = KNOWN_RELEASES[form.release].inverse_label_map()
    if not set(own) <= set(inverse):
        raise InputError(
            f"{order.model} gives the labels {own}, and {form.name} has {sorted(inverse)}: name another model"
        )
    return {str(value): label for value, label in inverse.items()}


def _target(order: ContainerOrder) -> str:
    """Return the target that is predicted."""
    from bdfm_nnunet.prediction.subject_predictor import SubjectModel

    kind = "binary" if order.form.result == "probability" else "continuous"
    model = SubjectModel.read(order.model, order.folds[:1], order.file)
    fitting = [column.name for column in model.targets if column.type.value == kind]
    if model.reads_runs:
        raise InputError(f"{order.model} reads 4-D runs, and {order.form.name} gives images: name another model")
    if order.target is not None and order.target not in fitting:
        raise InputError(f"{order.model} has no {kind} target {order.target!r}, only {', '.join(fitting) or 'others'}")
    if len(fitting) != 1 and order.target is None:
        raise InputError(
            f"{order.model} has {len(fitting)} {kind} targets ({', '.join(fitting)}): name one with --target"
        )
    return order.target or fitting[0]


def _orientation(folders: Sequence[Path]) -> str:
    """Return how all images of the training lie, where its manifest tells, and they all lie so."""
    if not folders:
        return ""
    try:
        rows = read_cases(*folders).rows
    except InputError:
        return ""
    found = {row.get("orientation", "") for row in rows}
    return found.pop() if len(found) == 1 else ""


# ------------------------------------------------------------------------------------------------------- the content


def _content(order: ContainerOrder, source: Path, plans: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint without what only a training needs."""
    if order.form.result == "segmentation":
        return stock_content(source, plans, dataset)
    content = {key: value for key, value in load_as_data(source).items() if key in _NEEDED}
    arguments = content.get("init_args", {})
    content["init_args"] = {
        **{key: value for key, value in arguments.items() if key in ("configuration", "fold")},
        "plans": plans,
        "dataset_json": dataset,
    }
    return content


def _copy_package(target: Path) -> None:
    """Copy the code of this package as it would be installed."""
    for root in _ROOTS:
        source = Path(str(import_module(f"bdfm_nnunet{root}").__file__)).parent
        shutil.copytree(
            source,
            target.joinpath("bdfm_nnunet", *root.strip(".").split(".")),
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc", ".*"),
            dirs_exist_ok=True,
        )


def _facts(
    order: ContainerOrder, settings: ContainerSettings, verdicts: Sequence[Verdict], dataset: Mapping[str, Any]
) -> ContextFacts:
    describer = Describer.of(order.model / f"fold_{order.folds[0]}" / order.file)
    described, exposure = describer.description(), Exposure.of_checkpoint(describer.checkpoint)
    return ContextFacts(
        settings=settings,
        weights=described,
        requirements=pinned(),
        python=".".join(map(str, sys.version_info[:2])),
        verdicts=[_told(each, order.model) for each in verdicts],
        licences=licences_of(exposure.as_dict()),
        citations=_citations(described, exposure),
        labels={name: value for name, value in dataset["labels"].items() if name != "background"},
    )


def _told(judged: Verdict, model: Path) -> dict[str, str]:
    """Return a verdict without paths of this machine."""
    why = judged.why.replace(f"{model.resolve()}/", "").replace(f"{model}/", "")
    return {"name": judged.rules.name, "answer": judged.answer, "why": why}


def _citations(weights: WeightDescription, exposure: Exposure) -> tuple[str, ...]:
    """Return what to cite for weights, for the methods of all trainings behind them, and for their data."""
    trainers = [str(run.get("trainer")) for run in exposure.runs]
    methods = [PRESETS[TRAINER_PRESETS[name]].objective for name in trainers if name in TRAINER_PRESETS]
    network = str(weights.network.get("class") or "")
    own = [text for each in citations_of([*methods, *weights.methods], network) for text in each["apa_citations"]]
    releases = [KNOWN_RELEASES[name].citation for name in exposure.releases if name in KNOWN_RELEASES]
    return cited_once(weights.citations, own, citations_of_data(exposure.as_dict()), releases)
