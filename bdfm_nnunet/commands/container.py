"""`bdfm container`."""

import argparse
import os
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import EXIT_REFUSED, dataset, fold, positive, take_each_once
from bdfm_nnunet.containers.challenge_forms import FORMS, find_form
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import dataset_folders, dataset_name, nnunet_folder

NAMES = tuple(form.name for form in FORMS)


def add_commands(commands: Any) -> None:
    """Add the parser, and that of `bdfm container check`."""
    purpose = "write a trained model as a container of a challenge; `bdfm container check DIR` attacks one"
    parser = take_each_once(commands.add_parser("container", help=purpose, description=purpose))
    parser.set_defaults(handler=container)
    add = parser.add_argument
    dataset(add, required=False)
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("-tr", "--trainer", metavar="TRAINER", help="trainer of the model")
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("-f", "--folds", nargs="+", type=fold, default=["0", "1", "2", "3", "4"], metavar="F",
        help="folds, whose predictions are averaged (default: 0 1 2 3 4)")  # fmt: skip
    add("--challenge", choices=NAMES, metavar="NAME", help=f"the form that is wanted: {', '.join(NAMES)}")
    add("-o", "--out", type=Path, metavar="DIR", help="the folder to write, which must not exist")
    add("-chk", "--checkpoint", metavar="NAME",
        help="checkpoint of each fold (default: checkpoint_final.pth, for subjects checkpoint_best.pth)")  # fmt: skip
    add("--target", metavar="NAME", help="the target of a model of subjects (default: the only one that fits)")
    add("--postprocess", type=Path, metavar="RULES.json", help="rules of `bdfm postprocess tune` for each segmentation")
    add("--disable_tta", action="store_true", help="predict no mirrored copies, as in nnU-Net")
    add("--strict-rules", action="store_true",
        help="write nothing where the rules on weights forbid them, and end with exit code 3")  # fmt: skip
    actions = parser.add_subparsers(title="attack one that is written", metavar="check")
    purpose = "run a container on hostile inputs, and judge what it does with each; exit code 3 if anything was wrong"
    of_check = take_each_once(actions.add_parser("check", help=purpose, description=purpose))
    of_check.set_defaults(handler=check)
    of_check.add_argument("folder", type=Path, metavar="DIR", help="what `bdfm container` wrote")
    of_check.add_argument("--engine", choices=("auto", "here", "docker", "apptainer"), default="auto",
        help="where it runs; auto: here, and in images where that works (default: %(default)s)")  # fmt: skip
    of_check.add_argument("--timeout", type=positive, default=3600.0, metavar="SECONDS",
        help="longest time of one run (default: %(default)g)")  # fmt: skip


def container(settings: argparse.Namespace) -> int:
    """Write the container, and tell what the rules say of its weights."""
    for option, value in (("-d", "dataset"), ("-tr", "trainer"), ("--challenge", "challenge"), ("-o", "out")):
        if getattr(settings, value) is None:
            raise InputError(f"{option} is missing: give -d, -tr, --challenge and -o, or `check DIR`")
    from bdfm_nnunet.containers.build_context import ContainerOrder, judge_weights, write_container
    from bdfm_nnunet.evaluation.postprocessing import read_rules

    name = dataset_name(settings.dataset)
    run = f"{settings.trainer}__{settings.plans}__{settings.configuration}"
    if settings.postprocess is not None:
        read_rules(settings.postprocess)
    if twice := [each for each in settings.folds if settings.folds.count(each) > 1]:
        raise InputError(f"fold {twice[0]} is named twice, and would count twice: name each fold once")
    order = ContainerOrder(
        model=nnunet_folder("nnUNet_results") / name / run,
        folds=tuple(settings.folds),
        form=find_form(settings.challenge),
        checkpoint=settings.checkpoint,
        target=settings.target,
        rules=settings.postprocess,
        mirroring=not settings.disable_tta,
        dataset=tuple(dataset_folders(settings.dataset)),
    )
    verdicts = judge_weights(order)
    for each in verdicts[:1]:
        print(each.summary(run))
    forbidden = any(each.answer == "forbidden" for each in verdicts)
    if forbidden and settings.strict_rules:
        print(f"nothing was written: {order.form.rules} forbids these weights")
        return EXIT_REFUSED
    write_container(order, settings.out, verdicts=verdicts)
    print(f"{settings.out} holds a container for {order.form.title}: `bdfm container check {settings.out}` attacks it")
    if forbidden:
        print(f"WARNING: {order.form.rules} forbids these weights, so it is for rehearsal alone: do not submit it")
    return 0


def check(settings: argparse.Namespace) -> int:
    """Check a container wherever that is possible here, and print the tables."""
    if not hasattr(os, "wait4"):
        raise InputError("containers run on Linux: check them there, or in the Linux subsystem of Windows")
    from bdfm_nnunet.containers.container_check import check_container
    from bdfm_nnunet.containers.container_settings import ContainerSettings
    from bdfm_nnunet.containers.sandboxes import built_sandbox, engines, local_sandbox

    folder, memory = settings.folder.resolve(), ContainerSettings.read(settings.folder).form.memory_gib
    places = ["here", *engines()] if settings.engine == "auto" else [settings.engine]
    failed = 0
    for place in places:
        sandbox = local_sandbox(folder, memory) if place == "here" else built_sandbox(place, folder, memory)
        report = check_container(folder, sandbox, timeout=settings.timeout)
        print(f"{report.container}, run {place}: {report.sandbox}\n\n{report.table()}\n")
        print(f"{len(report.rows) - len(report.failed)} of {len(report.rows)} right, in {folder / 'check'}/{place}.md")
        failed += len(report.failed)
    return EXIT_REFUSED if failed else 0
