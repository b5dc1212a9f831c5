"""`bdfm verify`."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import EXIT_REFUSED, EXIT_UNKNOWN, command

EXIT_CODES = {"unchanged": 0, "changed": EXIT_REFUSED, "incomplete": EXIT_UNKNOWN}


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(
        commands, "verify", verify,
        "hash the files behind a result again, and say what has changed (exit code 3), is missing or cannot be checked "
        "(exit code 4)",
    )  # fmt: skip
    add(
        "run", type=Path, metavar="RUN",
        help="a result file, or the folder of a training, a trained model, predictions, an evaluation or a study",
    )  # fmt: skip
    add("--quick", action="store_true", help="look at presence and sizes alone, without reading the files")
    add("-o", "--out", type=Path, metavar="FILE.json", help="write what was found here too")


def verify(settings: argparse.Namespace) -> int:
    """Check the files behind results."""
    from bdfm_nnunet.files import write_json
    from bdfm_nnunet.results import versions_of
    from bdfm_nnunet.results.run_result import SOFTWARE
    from bdfm_nnunet.results.verification import results_in, verify_result

    now = versions_of(*SOFTWARE)
    found = [verify_result(path, content=not settings.quick, versions=now) for path in results_in(settings.run)]
    print("\n".join(each.summary() for each in found))
    if settings.quick:
        print("note: only presence and sizes were looked at; leave out --quick to read the files")
    if settings.out is not None:
        write_json(settings.out, [each.as_dict() for each in found])
        print(f"report: {settings.out}")
    answers = {each.answer for each in found}
    return EXIT_CODES[next(each for each in ("changed", "incomplete", "unchanged") if each in answers)]
