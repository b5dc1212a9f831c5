"""`bdfm plan`, `weights`, `train` and `env`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet import api
from bdfm_nnunet.commands.arguments import (
    Add,
    SwitchOnce,
    assignment,
    command,
    dataset,
    each_once,
    positive,
    reading,
    reading_of,
    spacing,
    workers,
)
from bdfm_nnunet.commands.cost_report import check_cost_options, cost_options, log_costs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import nnunet_folder, trainer_search_path
from bdfm_nnunet.plans.network_names import NETWORKS


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    _plan_options(command(commands, "plan", plan, "plan and preprocess a data set, or add a variant to its plans"))

    add = command(commands, "weights", weights, "write weights as a checkpoint for nnU-Net's -pretrained_weights")
    add("path", type=Path, metavar="PATH", help="the pre-trained checkpoint")
    dataset(add, required=False)
    add("-p", "--plans", metavar="PLANS", help="name of the plans")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("-o", "--out", type=Path, metavar="OUT", help="the checkpoint to write")
    check = "show a random image to the network of the plans and to the file's own, and compare their features"
    add("--check", action="store_true", help=check)

    purpose = "nnUNetv2_train with our trainers, on any number of processes; takes every argument of it"
    commands.add_parser("train", help=purpose, description=purpose, add_help=False)
    command(commands, "env", env, 'print the line for stock nnU-Net commands: eval "$(bdfm env)"')


def env(settings: argparse.Namespace) -> int:
    """Print the line that lets stock nnU-Net commands find the trainers."""
    value = re.sub(r'(["\\$`])', r"\\\1", trainer_search_path())
    print(f'export nnUNet_extTrainer="{value}"')
    return 0


# --------------------------------------------------------------------------------------------------------- plan


def _plan_options(add: Add) -> None:
    dataset(add)
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("--network", choices=NETWORKS, metavar="NETWORK", help=f"network to plan for: {', '.join(NETWORKS)}")
    add("--gpu-memory", type=positive, metavar="GB", help="memory that training may take")
    add("--weights", type=Path, metavar="CKPT", help="plan to match this pre-trained checkpoint, and start from it")
    add("--like", type=Path, metavar="CKPT", help="take only axes, spacing, normalisation and patch of a checkpoint")
    add("--spacing", type=spacing, metavar="MODE", help="with --like: like_pretrained (default), default, no_resample, "
        "or X,Y,Z in mm along the axes of nnU-Net's arrays")  # fmt: skip
    reading(add)
    add("--preprocess", action=SwitchOnce, default=True, help="preprocess after planning")
    workers(add)
    add("--variant", metavar="NAME", help="add this configuration to existing plans, or tell its cost")
    add("--recipe", metavar="NAME", help="add a named set of settings as a variant of that name: brats")
    add("--base", metavar="CONFIG", help="configuration that the variant starts from (default: the planned one)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the variant; may be repeated")
    cost_options(add)


def plan(settings: argparse.Namespace) -> int:
    """Plan and preprocess a data set, or add a variant to its plans, and tell what training will cost."""
    check_cost_options(settings)
    settings.variant = settings.variant or settings.recipe
    if settings.variant is None:
        if settings.set or settings.base is not None:
            raise InputError("--set and --base need --variant NAME: name the configuration that they make")
        _plan_dataset(settings)
    else:
        _plan_variant(settings)
    log_costs(settings, settings.variant)
    return 0


def _plan_variant(settings: argparse.Namespace) -> None:
    given = [
        option for option, value in (("--network", settings.network), ("--gpu-memory", settings.gpu_memory),
                                     ("--weights", settings.weights), ("--like", settings.like),
                                     ("--spacing", settings.spacing)) if value is not None
    ] + [f"--{name.replace('_', '-')}" for name in reading_of(settings)]  # fmt: skip
    if given:
        option = "--variant" if settings.recipe is None else "--recipe"
        raise InputError(f"{given[0]} cannot go with {option}: plan the data set first, then add the variant to it")
    nnunet_folder("nnUNet_preprocessed")
    values = each_once(map(assignment, settings.set), "--set", "setting")
    if settings.recipe is not None:
        from bdfm_nnunet.plans import add_recipe

        add_recipe(
            settings.dataset,
            recipe=settings.recipe,
            plans_name=settings.plans,
            variant=settings.variant,
            base=settings.base or "3d_fullres",
            settings=values,
        )
        return
    if not values and settings.base is None:
        from bdfm_nnunet.plans.plans_lookup import read_plans

        if settings.variant in read_plans(settings.dataset, settings.plans)["configurations"]:
            return  # its cost is asked for
    named = {"plans_name": settings.plans, "variant": settings.variant, "base": settings.base}
    api.plan(settings.dataset, settings=values, **named)


def _plan_dataset(settings: argparse.Namespace) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        nnunet_folder(variable)
    chosen = {name: getattr(settings, name) for name in ("network", "gpu_memory", "weights", "like", "spacing")}
    chosen["reading"] = reading_of(settings) or None
    api.plan(
        settings.dataset,
        plans_name=settings.plans,
        preprocess=settings.preprocess,
        workers=settings.workers,
        **{name: value for name, value in chosen.items() if value is not None},
    )


def weights(settings: argparse.Namespace) -> int:
    """Write pre-trained weights as a checkpoint that nnU-Net's own -pretrained_weights takes, or check them."""
    if (settings.dataset is None) != (settings.plans is None):
        raise InputError("-d and -p belong together: give the number of a data set and the name of its plans")
    if settings.out is not None and settings.dataset is None:
        raise InputError("-o needs -d ID and -p PLANS: their network is what is written")
    if settings.out is None and not settings.check:
        raise InputError("nothing to do: give -o OUT with -d ID and -p PLANS to write a checkpoint, or --check")
    if settings.dataset is not None:
        nnunet_folder("nnUNet_preprocessed")
    if settings.check and not _check_weights(settings):
        return 1
    if settings.out is None:
        return 0
    from bdfm_nnunet.plans import write_initial_checkpoint

    write_initial_checkpoint(
        settings.path,
        dataset_id=settings.dataset,
        plans_name=settings.plans,
        configuration=settings.configuration,
        out=settings.out,
    )
    return 0


def _check_weights(settings: argparse.Namespace) -> bool:
    from bdfm_nnunet.plans import check_weights_of

    named = {} if settings.dataset is None else {"dataset_id": settings.dataset, "plans_name": settings.plans}
    found = check_weights_of(settings.path, configuration=settings.configuration, **named)
    print(found)
    return found.passed


# ---------------------------------------------------------------------------------------------- stock commands


def train(arguments: Sequence[str]) -> int:
    """Train with nnUNetv2_train's arguments, on one process or several; see `bdfm_nnunet.train`."""
    from bdfm_nnunet.train import main

    return main(arguments)
