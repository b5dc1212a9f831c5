"""The `bdfm` command.

Exit codes: 0 done, 2 the input cannot be used (one line on stderr says why), 3 something was refused or found (cases
by a conversion, leaks by a check, weights by rules, changed files), 4 something is not known (what rules say of
weights, whether files that are missing are unchanged), 130 interrupted.
"""

import argparse
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from bdfm_nnunet import __version__
from bdfm_nnunet.commands import (
    container,
    datasets,
    ensemble,
    extraction,
    plan_and_train,
    predict,
    probe,
    report_page,
    scores,
    seen_data,
    share,
    study,
    subject_prediction,
    subject_scoring,
    subject_targets,
    synthesise,
    verify,
)
from bdfm_nnunet.commands.arguments import command
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.safe_names import printable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
WITH_ARGUMENTS_OF_NNUNET: dict[str, Callable[[Sequence[str]], int]] = {
    "train": plan_and_train.train,
    "predict": predict.predict,
}
"""Commands that hand arguments over to nnU-Net's, --help too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one `bdfm` command and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _set_up_messages()
    try:
        if arguments and arguments[0] in WITH_ARGUMENTS_OF_NNUNET:
            return WITH_ARGUMENTS_OF_NNUNET[arguments[0]](arguments[1:])
        settings = build_parser().parse_args(arguments)
        code: int = settings.handler(settings)
        return code
    except InputError as error:
        print(f"bdfm: error: {printable(str(error))}", file=sys.stderr)  # a name of a file may hold anything
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("bdfm: interrupted; the same command continues where it can", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `bdfm releases | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _set_up_messages() -> None:
    """Show the log of this package, and other libraries' warnings except those for their developers."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bdfm_nnunet").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold what a terminal cannot show


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="bdfm",
        description="Self-supervised pre-training and fine-tuning for brain MRI, native to nnU-Net v2.",
        epilog="An error that ends in [some-words] has an entry of that name in docs/troubleshooting.md.",
    )
    parser.add_argument("--version", action="version", version=f"bdfm-nnunet {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    datasets.add_commands(commands)
    subject_targets.add_commands(commands)
    seen_data.add_commands(commands)
    synthesise.add_commands(commands)
    plan_and_train.add_commands(commands)
    predict.add_commands(commands)
    ensemble.add_commands(commands)
    subject_prediction.add_commands(commands)
    scores.add_commands(commands)
    subject_scoring.add_commands(commands)
    share.add_commands(commands)
    container.add_commands(commands)
    probe.add_commands(commands)
    extraction.add_commands(commands)
    study.add_commands(commands)
    report_page.add_commands(commands)
    verify.add_commands(commands)
    add = command(commands, "demo", demo, "see all of it happen on a made-up cohort, in minutes, without a GPU")
    add("-o", "--out", type=Path, default=Path("demo_results"), metavar="DIR", help="results (default: %(default)s)")
    return parser


def demo(settings: argparse.Namespace) -> int:
    """Run all steps, from conversion to scores, on a made-up cohort."""
    from bdfm_nnunet.studies.demonstration import run_demo

    run_demo(out=settings.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
