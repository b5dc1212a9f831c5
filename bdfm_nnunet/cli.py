"""The `bdfm` command.

Each handler imports what it needs when it runs, so that `bdfm --help` is instant. Exit codes: 0 done, 2 the input
cannot be used (one line on stderr says why), 3 a conversion refused cases, 130 interrupted.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.folders import nnunet_folder, trainer_search_path

EXIT_BAD_INPUT = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130
MOST_REASONS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one `bdfm` command and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if arguments and arguments[0] in STOCK:  # every argument is nnU-Net's, --help too
            return STOCK[arguments[0]](arguments[1:])
        settings = build_parser().parse_args(arguments)
        return settings.handler(settings)
    except InputError as error:
        print(f"bdfm: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("bdfm: interrupted; the same command continues where it can", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `bdfm releases | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# ------------------------------------------------------------------------------------------------ handlers


def env(settings: argparse.Namespace) -> int:
    """Prints the line that lets stock nnU-Net commands find the trainers."""
    value = re.sub(r'(["\\$`])', r"\\\1", trainer_search_path())
    print(f'export nnUNet_extTrainer="{value}"')
    return 0


def releases(settings: argparse.Namespace) -> int:
    """Lists the releases that can be converted, or shows one."""
    from bdfm_nnunet.dataset_conversion import RELEASES, find_release

    chosen = list(RELEASES.values()) if settings.name is None else [find_release(settings.name)]
    if settings.json:
        print(json.dumps([release.as_dict() for release in chosen], indent=2))
    elif settings.name is None:
        width = max(map(len, RELEASES))
        print("\n".join(f"{release.name:<{width}}  {release.title}" for release in chosen))
    else:
        print(chosen[0].describe())
    return 0


def convert(settings: argparse.Namespace) -> int:
    """Converts a release to an nnU-Net data set."""
    from bdfm_nnunet import dataset_conversion

    report = dataset_conversion.convert(
        settings.release,
        settings.source,
        dataset_id=settings.dataset,
        unlabelled=settings.unlabelled,
        link=settings.link,
        workers=settings.workers,
        dry_run=settings.dry_run,
        manifest=settings.manifest,
    )
    print(report.summary())
    refused = report.refused
    for record in refused[:MOST_REASONS]:
        print(f"  refused {record.case}: {record.reason}")
    if len(refused) > MOST_REASONS:
        print(f"  ... and {len(refused) - MOST_REASONS} more, see the manifest")
    print(f"manifest: {report.manifest}")
    return EXIT_REFUSED if refused and settings.strict else 0


def plan(settings: argparse.Namespace) -> int:
    """Plans and preprocesses a data set, or adds a variant to its plans."""
    if settings.variant is None:
        if settings.set or settings.base is not None:
            raise InputError("--set and --base need --variant NAME: name the configuration that they make")
        return _plan_dataset(settings)
    given = [
        option for option, value in (("--network", settings.network), ("--gpu-memory", settings.gpu_memory),
                                     ("--weights", settings.weights)) if value is not None
    ]  # fmt: skip
    if given:
        raise InputError(f"{given[0]} cannot go with --variant: plan the data set first, then add the variant to it")
    from bdfm_nnunet.plans import add_variant

    nnunet_folder("nnUNet_preprocessed")
    values = dict(_assignment(text) for text in settings.set)
    base = settings.base or "3d_fullres"
    add_variant(settings.dataset, plans_name=settings.plans, variant=settings.variant, base=base, settings=values)
    return 0


def _plan_dataset(settings: argparse.Namespace) -> int:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        nnunet_folder(variable)
    from bdfm_nnunet.plans import plan_dataset

    chosen = {"network": settings.network, "gpu_memory": settings.gpu_memory, "weights": settings.weights}
    plan_dataset(
        settings.dataset,
        plans_name=settings.plans,
        preprocess=settings.preprocess,
        workers=settings.workers,
        **{name: value for name, value in chosen.items() if value is not None},
    )
    return 0


def weights(settings: argparse.Namespace) -> int:
    """Writes pre-trained weights as a checkpoint that nnU-Net's own -pretrained_weights takes."""
    nnunet_folder("nnUNet_preprocessed")
    from bdfm_nnunet.plans import write_initial_checkpoint

    write_initial_checkpoint(
        settings.path,
        dataset_id=settings.dataset,
        plans_name=settings.plans,
        configuration=settings.configuration,
        out=settings.out,
    )
    return 0


def train(arguments: Sequence[str]) -> int:
    """Runs nnU-Net's own training command with our trainers in reach."""
    return _stock("nnUNetv2_train", "nnunetv2.run.run_training", "run_training_entry", arguments)


def predict(arguments: Sequence[str]) -> int:
    """Runs nnU-Net's own prediction command with our trainers in reach."""
    return _stock("nnUNetv2_predict", "nnunetv2.inference.predict_from_raw_data", "predict_entry_point", arguments)


def _stock(command: str, module: str, function: str, arguments: Sequence[str]) -> int:
    from importlib import import_module

    if not {"-h", "--help"} & set(arguments):
        for variable in ("nnUNet_preprocessed", "nnUNet_results") if command == "nnUNetv2_train" else ():
            nnunet_folder(variable)
    os.environ["nnUNet_extTrainer"] = trainer_search_path()
    sys.argv = [command, *arguments]
    getattr(import_module(module), function)()
    return 0


STOCK: dict[str, Callable[[Sequence[str]], int]] = {"train": train, "predict": predict}


def evaluate(settings: argparse.Namespace) -> int:
    """Scores a folder of predictions against a folder of references."""
    from bdfm_nnunet.dataset_conversion import find_release
    from bdfm_nnunet.evaluation import evaluate_folders

    release = find_release(settings.release)
    evaluate_folders(
        settings.reference,
        settings.prediction,
        regions=dict(release.regions),
        release=release.name,
        out=settings.out,
        workers=settings.workers,
    )
    print(f"scores: {settings.out} and {settings.out.with_suffix('.csv')}")
    return 0


def demo(settings: argparse.Namespace) -> int:
    """Runs the whole way on a made-up cohort."""
    from bdfm_nnunet.demo import run_demo

    run_demo(out=settings.out)
    return 0


# -------------------------------------------------------------------------------------------------- parser


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="bdfm", description="Self-supervised pre-training and fine-tuning for brain MRI, native to nnU-Net v2."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add = _command(commands, "releases", releases, "list the data-set releases that can be converted")
    add("name", nargs="?", metavar="NAME", help="show this release in full")
    add("--json", action="store_true", help="print the table as JSON")

    _convert_options(_command(commands, "convert", convert, "turn a downloaded release into an nnU-Net data set"))
    _plan_options(_command(commands, "plan", plan, "plan and preprocess a data set, or add a variant to its plans"))

    add = _command(commands, "weights", weights, "write weights as a checkpoint for nnU-Net's -pretrained_weights")
    add("path", type=Path, metavar="PATH", help="the pre-trained checkpoint")
    _dataset(add)
    add("-p", "--plans", required=True, metavar="PLANS", help="name of the plans")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("-o", "--out", required=True, type=Path, metavar="OUT", help="the checkpoint to write")

    for name, purpose in (("train", "nnUNetv2_train with our trainers; every argument goes to it"),
                          ("predict", "nnUNetv2_predict with our trainers; every argument goes to it")):  # fmt: skip
        commands.add_parser(name, help=purpose, description=purpose, add_help=False)

    add = _command(commands, "evaluate", evaluate, "score predictions: Dice and HD95 per region and case")
    add("reference", type=Path, metavar="REFERENCE", help="folder of reference label maps")
    add("prediction", type=Path, metavar="PREDICTION", help="folder of predicted label maps of the same names")
    add("--release", required=True, metavar="NAME", help="whose regions to score, see `bdfm releases`")
    add("-o", "--out", required=True, type=Path, metavar="FILE.json", help="the table; a CSV of it lies beside it")
    _workers(add)

    add = _command(commands, "demo", demo, "see all of it happen on a made-up cohort, in minutes, without a GPU")
    add("--out", type=Path, default=Path("demo_results"), metavar="DIR", help="results (default: %(default)s)")

    _command(commands, "env", env, 'print the line for stock nnU-Net commands: eval "$(bdfm env)"')
    return parser


def _convert_options(add: Callable[..., Any]) -> None:
    add("release", metavar="RELEASE", help="name of the release, see `bdfm releases`")
    add("source", type=Path, metavar="SOURCE", help="the unpacked download; folders may be nested in any way")
    _dataset(add)
    add("--unlabelled", action="store_true", help="for pre-training: brain masks as labels, cases need no segmentation")
    add(
        "--link", choices=("copy", "hard", "sym"), default="copy", help="how unchanged files are placed (default: copy)"
    )
    _workers(add)
    add("--dry-run", action="store_true", help="check every case and write the manifest alone")
    add("--manifest", type=Path, metavar="FILE", help="where --dry-run writes it (default: the current folder)")
    add("--strict", action=argparse.BooleanOptionalAction, default=True,
        help="end with exit code 3 if a case was refused; the good ones are written all the same")  # fmt: skip


def _plan_options(add: Callable[..., Any]) -> None:
    _dataset(add)
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("--network", choices=("swin", "resenc", "plain"), help="network to plan for")
    add("--gpu-memory", type=_positive, metavar="GB", help="memory that training may take")
    add("--weights", type=Path, metavar="CKPT", help="plan to match this pre-trained checkpoint")
    add("--preprocess", action=argparse.BooleanOptionalAction, default=True, help="preprocess after planning")
    _workers(add)
    add("--variant", metavar="NAME", help="add this configuration to existing plans instead")
    add("--base", metavar="CONFIG", help="configuration that the variant starts from (default: 3d_fullres)")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the variant; may be repeated")


def _command(
    commands: Any, name: str, handler: Callable[[argparse.Namespace], int], purpose: str
) -> Callable[..., Any]:
    parser = commands.add_parser(name, help=purpose, description=purpose)
    parser.set_defaults(handler=handler)
    return parser.add_argument


def _dataset(add: Callable[..., Any]) -> None:
    add("-d", "--dataset", required=True, type=_dataset_id, metavar="ID", help="nnU-Net data set number, 1 to 999")


def _workers(add: Callable[..., Any]) -> None:
    add("--workers", type=_count, default=_default_workers(), metavar="N", help="processes (default: %(default)s)")


def _default_workers() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, available)


def _dataset_id(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 999):
        raise argparse.ArgumentTypeError(f"a number from 1 to 999 was expected, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"a whole number from 1 up was expected, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 was expected, not {text!r}")
    return value


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set {text} has no value: write it as --set training.epochs=2")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


if __name__ == "__main__":
    sys.exit(main())
