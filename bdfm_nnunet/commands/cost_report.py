"""The cost report of `bdfm plan`: counted for every training, measured if --calibrate asks for it."""

import argparse
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import Add, count
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import read_dataset_json, resolve_configuration

if TYPE_CHECKING:
    from bdfm_nnunet.cost_records import Costs, Schedule
    from bdfm_nnunet.training.calibration import Calibration

logger = logging.getLogger(__name__)

STEPS = 20
GIB = 2**30


def cost_options(add: Add) -> None:
    """Add the options."""
    add(
        "-tr",
        "--trainer",
        metavar="TRAINER",
        help="whose cost to tell (default: the pre-training that the settings are for, and fine-tuning)",
    )
    add(
        "--calibrate",
        nargs="?",
        type=count,
        const=STEPS,
        metavar="STEPS",
        help=f"train for some steps (default: {STEPS}) of TRAINER, by default the pre-training, and tell how long "
        "all of it will take here",
    )
    add("--device", choices=("cpu", "cuda", "mps"), help="where to calibrate (default: the fastest there is)")


def check_cost_options(settings: argparse.Namespace) -> None:
    """Refuse options that would have no effect.

    Raises:
        InputError: a device, and nothing to run there.
    """
    if settings.device is not None and settings.calibrate is None:
        raise InputError("--device needs --calibrate: costs are counted without any device")


def log_costs(settings: argparse.Namespace, configuration: str | None) -> None:
    """Log what training a configuration costs, and with --calibrate how long it will take.

    Args:
        settings: of the command.
        configuration: None for the one that was planned.

    Raises:
        InputError: there is no such trainer or device, or no preprocessed data to calibrate on.
    """
    from bdfm_nnunet.plans import describe_plans
    from bdfm_nnunet.plans.plans_lookup import main_configuration, plans_path, read_plans

    plans = read_plans(settings.dataset, settings.plans)
    configuration = configuration or main_configuration(plans)
    path = plans_path(settings.dataset, settings.plans)
    folder = path.parent
    if settings.variant is not None:  # planning has told it already
        logger.info("%s", describe_plans(path, configuration))
    what = {"plans": plans, "configuration": configuration, "dataset": _read_dataset(folder)}
    names = _trainers_of(plans, configuration) if settings.trainer is None else (settings.trainer,)
    logger.info("\n%s", _table({name: _counted(name, what, path) for name in names}))
    if settings.calibrate is None:
        return
    data = folder / resolve_configuration(plans, configuration)["data_identifier"]
    if not any(data.glob("*.b2nd")):
        raise InputError(
            f"{data} holds no preprocessed cases to calibrate on: run `bdfm plan -d {settings.dataset} -p "
            f"{settings.plans}` without --no-preprocess first"
        )
    logger.info("\n%s", _measured(names[0], what, settings))


def _trainers_of(plans: Mapping[str, Any], configuration: str) -> tuple[str, ...]:
    """Return the pre-training that the settings of a configuration are for, and the fine-tuning."""
    from bdfm_nnunet.settings import pretrainer_of

    resolved = resolve_configuration(plans, configuration)
    of_runs = len(resolved["patch_size"]) == 4
    return pretrainer_of(resolved), "nnUNetTrainerBDFMClassification" if of_runs else "nnUNetTrainerBDFM"


def _read_dataset(folder: Path) -> Any:
    path = folder / "dataset.json"
    if not path.is_file():
        raise InputError(f"{path} does not exist: run `bdfm plan` without --variant first")
    return read_dataset_json(path)


def _counted(name: str, what: Mapping[str, Any], path: Path) -> dict[str, str]:
    from bdfm_nnunet.presets import PRETRAINERS
    from bdfm_nnunet.training_costs import FINETUNINGS, OF_SUBJECTS, count_by_name

    if name in (
        *PRETRAINERS,
        *FINETUNINGS,
        *OF_SUBJECTS,
    ):  # without nnU-Net, whose trainers take many seconds to import
        configuration = resolve_configuration(what["plans"], what["configuration"])
        return cost_rows(*count_by_name(name, configuration, what["dataset"], plans=path))
    from bdfm_nnunet.training.trial_trainer import count_training, schedule_of, trial_trainer

    with trial_trainer(name, **what) as trainer:
        return cost_rows(count_training(trainer), schedule_of(trainer))


def cost_rows(costs: "Costs", schedule: "Schedule") -> dict[str, str]:
    """Return the names and values of what was counted for one sample, for whole steps of a schedule."""
    from bdfm_nnunet.plans.memory_targets import memory_gb

    batch = schedule.batch_size
    forward, backward = (batch * (flops or 0) / 1e9 for flops in (costs.forward_flops, costs.backward_flops))
    return {
        "parameters": f"{costs.parameters / 1e6:.1f} million",
        "arithmetic of a step": f"{forward:.3g} + {backward:.3g} GFLOP forward + backward",
        "activations of a step": f"{batch * costs.activation_bytes / GIB:.2f} GB",
        "memory in training": f"about {memory_gb(costs, batch):.1f} GB",
        "samples": f"{schedule.samples_per_epoch:,} an epoch, {schedule.samples:,} in {schedule.epochs:,} epochs",
        "steps": f"{schedule.steps:,} of {batch} samples",
    }


def _table(columns: Mapping[str, Mapping[str, str]]) -> str:
    first = next(iter(columns.values()))
    rows = [["training", *columns], *([name, *(column[name] for column in columns.values())] for name in first)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _measured(name: str, what: Mapping[str, Any], settings: argparse.Namespace) -> str:
    from bdfm_nnunet.training.calibration import calibrate, find_device, threads_of_training
    from bdfm_nnunet.training.trial_trainer import trial_trainer

    device = find_device(settings.device)
    logger.info("calibrating %s with %d steps on %s", name, settings.calibrate, device)
    with threads_of_training(device), trial_trainer(name, device=device, **what) as trainer:
        rows = calibration_rows(calibrate(trainer, steps=settings.calibrate))
    width = max(len(row) for row in rows)
    return "\n".join(f"{row:<{width}}  {value}" for row, value in rows.items())


def calibration_rows(found: "Calibration") -> dict[str, str]:
    """Return the names and values of what was measured."""
    step, validation, hours, schedule = found.step, found.validation, found.hours, found.schedule
    unit, units = ("hours", 1) if hours.mean >= 1 else ("minutes", 60)
    mean, low, high = (units * value for value in (hours.mean, hours.low, hours.high))
    rows = {
        "measured on": f"{found.device}, {found.threads} thread{'s' * (found.threads != 1)}, {len(found.steps)} steps",
        "a step": f"{step.mean:.3g} s ({step.low:.3g} to {step.high:.3g}), {found.waiting:.0%} of it waiting for data; "
        f"the loaders alone give a batch in {found.loading:.3g} s",
        "a validation batch": f"{validation.mean:.3g} s",
        "the whole training": f"about {mean:.3g} {unit} ({low:.3g} to {high:.3g}): {schedule.steps:,} steps and "
        f"{schedule.epochs * schedule.val_iterations:,} validation batches",
    }
    if found.peak_gb is not None:
        rows["memory"] = f"{found.peak_gb:.1f} GB at most"
    return rows
