"""The summary that every training writes at the end of each epoch, whatever it learns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.results import Cost, RunResult, read_result, versions_of, write_result
from bdfm_nnunet.results.run_result import SOFTWARE

_DICE_OF_REGIONS = "dice_per_class_or_region"


def curves_of(trainer: Any) -> dict[str, list[float]]:
    """Return the curves that a trainer has logged: name to one value an epoch.

    nnU-Net's list of pseudo Dices becomes a curve for each label or region (`pseudo_dice_NAME`), its two time stamps
    become the duration of each epoch (`seconds`).
    """
    log = {name: values for name, values in trainer.logger.local_logger.my_fantastic_logging.items() if values}
    dices = log.pop(_DICE_OF_REGIONS, [])
    starts, ends = log.pop("epoch_start_timestamps", []), log.pop("epoch_end_timestamps", [])
    curves = {name: [float(value) for value in values] for name, values in log.items()}
    for name, values in zip(scored_regions(trainer), zip(*dices)):
        curves[f"pseudo_dice_{name}"] = [float(value) for value in values]
    curves["seconds"] = [float(end - start) for start, end in zip(starts, ends, strict=False)]
    return curves


def scored_regions(trainer: Any) -> dict[str, tuple[int, ...]]:
    """Return names and label values of the labels or regions that nnU-Net scores, in its order."""
    labels = trainer.label_manager
    by_value = {_key(value): name for name, value in trainer.dataset_json["labels"].items()}
    scored = map(_key, labels.foreground_regions if labels.has_regions else labels.foreground_labels)
    return {by_value.get(values, str(values)): values for values in scored}


def _key(value: Any) -> tuple[int, ...]:
    return tuple(map(int, value)) if isinstance(value, (list, tuple)) else (int(value),)


def run_result(trainer: Any) -> RunResult:
    """Return the result of a training so far."""
    curves = curves_of(trainer)
    return RunResult(
        kind=trainer.task.kind,
        trainer=type(trainer).__name__,
        settings=settings_of(trainer),
        curves=curves,
        exposure=trainer.data.exposure.counted(),
        cost=Cost(
            seconds=sum(curves["seconds"]),
            epochs=len(curves["seconds"]),
            steps=len(curves["seconds"]) * trainer.num_iterations_per_epoch,
            parameters=sum(each.numel() for each in trainer.network.parameters() if each.requires_grad),
        ),
        versions=versions_of(*SOFTWARE),
        provenance=trainer.provenance.so_far(),
        extra=trainer.task.headline(curves),
    )


def settings_of(trainer: Any) -> dict[str, Any]:
    """Return the settings of a training, with the rates and lengths that it uses where the plans leave them open."""
    training = replace(
        trainer.training,
        epochs=trainer.num_epochs,
        initial_lr=trainer.initial_lr,
        weight_decay=trainer.weight_decay,
        warmup_epochs=getattr(trainer.lr_scheduler, "warmup_epochs", None),
        optimizer=trainer.optimizer_kind,
        gradient_clip=trainer.strategy.clip,
        precision=trainer.precision.name,
    )
    return {
        "dataset": trainer.plans_manager.dataset_name,
        "plans": trainer.plans_manager.plans_name,
        "configuration": trainer.configuration_name,
        "fold": trainer.fold,
        "weights": _weights(trainer.origin.started_from),
        "device": trainer.device.type,
        "processes": trainer.processes.count,
        "training": asdict(training),
        **{name: asdict(block) for name, block in trainer.task.blocks().items()},
    }


def _weights(started_from: Mapping[str, str]) -> dict[str, str | None] | None:
    """File and digest of the first weights, which are null where they came in on an unknown way; None from scratch."""
    if not started_from:
        return None
    digest = started_from.get("sha256")
    return {"name": started_from["name"] if digest else None, "sha256": digest}


def write_run_summary(trainer: Any) -> None:
    """Write the summary of a training into the fold's folder, once in all processes; a fault is a warning.

    In the middle of an epoch only the provenance is new: its sessions.
    """
    path = _summary_path(trainer)
    if trainer.local_rank != 0 or (trainer.run.midway and not trainer.current_epoch and not path.is_file()):
        return
    with only_warned(trainer, f"training goes on without a new {path.name}"):
        write_result(path, _between_epochs(trainer, path) if trainer.run.midway else run_result(trainer))


def _between_epochs(trainer: Any, path: Path) -> RunResult:
    known = RunResult(kind=trainer.task.kind, trainer=type(trainer).__name__, settings=settings_of(trainer))
    if trainer.current_epoch and path.is_file():
        known = read_result(path, kind=trainer.task.kind)
    return replace(known, provenance=trainer.provenance.so_far())


def write_scores(trainer: Any, scores_of: Callable[[], Mapping[str, Any]]) -> None:
    """Write the scores of a finished training into its summary, whose curves stay; a fault is a warning.

    Args:
        trainer: whose summary it is.
        scores_of: reads them, in the form of `RunResult.scores`.
    """
    path = _summary_path(trainer)
    with only_warned(trainer, f"the scores of the validation are not in {path.name}"):
        found = read_result(path, kind=trainer.task.kind) if path.is_file() else run_result(trainer)
        write_result(path, replace(found, scores=scores_of(), provenance=trainer.provenance.so_far()))


def _summary_path(trainer: Any) -> Path:
    return Path(trainer.output_folder) / trainer.task.summary_file


@contextmanager
def only_warned(trainer: Any, otherwise: str) -> Iterator[None]:
    """Make it a warning that a report cannot be written, which is no reason to lose a training.

    Args:
        trainer: whose log is told.
        otherwise: what follows, for the sentence.
    """
    try:
        yield
    except (InputError, OSError) as error:
        trainer.print_to_log_file(f"WARNING: {otherwise}: {error}")
