"""`bdfm exposure` and `bdfm rules`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import EXIT_REFUSED, EXIT_UNKNOWN, command, dataset
from bdfm_nnunet.errors import InputError

if TYPE_CHECKING:
    from bdfm_nnunet.weight_rules import WeightRules

EXIT_CODES = {"allowed": 0, "forbidden": EXIT_REFUSED, "unknown": EXIT_UNKNOWN}


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    add = command(
        commands, "exposure", exposure,
        "report which cases of a data set a checkpoint was trained on, and whether a challenge allows its weights",
    )  # fmt: skip
    add("checkpoint", type=Path, metavar="CKPT", help="the checkpoint")
    dataset(add, required=False)
    add("--fold", type=int, metavar="N", help="tells the validation cases of this fold from its training cases")
    add("--aliases", type=Path, metavar="TABLE.csv", help="ids of the same patient, one patient a row")
    add(
        "--rules",
        metavar="RULES",
        help="hold all that the weights have seen against these rules, of `bdfm rules` or a .json file; exit code 0 "
        "allowed, 3 forbidden, 4 unknown",
    )
    add("-o", "--out", type=Path, metavar="FILE.json", help="write the report here too")

    add = command(commands, "rules", rules, "list the rules of challenges on the data that weights may come from")
    add("name", nargs="?", metavar="NAME", help="show these rules, or those in this .json file, in full")
    add("--json", action="store_true", help="print them as JSON, which edited is a file for --rules")


def exposure(settings: argparse.Namespace) -> int:
    """Report which cases of a data set a checkpoint has seen, and what rules say of its weights."""
    from bdfm_nnunet.files import write_json

    if settings.dataset is None and settings.rules is None:
        raise InputError("nothing to compare with: name a data set with -d, or the rules of a challenge with --rules")
    for option, value in (("--fold", settings.fold), ("--aliases", settings.aliases)):
        if settings.dataset is None and value is not None:
            raise InputError(f"{option} belongs to a data set: name it with -d")
    found: dict[str, Any] = {"checkpoint": str(settings.checkpoint)}
    chosen = None if settings.rules is None else _rules(settings.rules)
    if settings.dataset is not None:
        from bdfm_nnunet.exposure import exposure_report

        report = exposure_report(settings.checkpoint, settings.dataset, aliases=settings.aliases, fold=settings.fold)
        print(report.summary())
        found = report.as_dict()
    code = 0
    if chosen is not None:
        from bdfm_nnunet.exposure import verdict
        from bdfm_nnunet.exposure.subject_exposure import exposure_of_weights

        answer = verdict(exposure_of_weights(settings.checkpoint)[0], chosen)
        print(answer.summary(str(settings.checkpoint)))
        found["rules"] = answer.as_dict()
        code = EXIT_CODES[answer.answer]
    if settings.out is not None:
        write_json(settings.out, found)
        print(f"report: {settings.out}")
    return code


def rules(settings: argparse.Namespace) -> int:
    """List the rules of challenges on weights, or show one."""
    from bdfm_nnunet.weight_rules import known_rules

    chosen = list(known_rules().values()) if settings.name is None else [_rules(settings.name)]
    if settings.json:
        content = [each.as_dict() for each in chosen]
        print(json.dumps(content if settings.name is None else content[0], indent=2))
    elif settings.name is None:
        width = max(len(each.name) for each in chosen)
        print("\n".join(f"{each.name:<{width}}  {each.title}: {each.rule}" for each in chosen))
    else:
        print(chosen[0].describe())
    return 0


def _rules(name: str) -> "WeightRules":
    """Return rules; names in them that mean no data set of ours are told, as they may be misspelt."""
    from bdfm_nnunet.dataset_conversion import RELEASES
    from bdfm_nnunet.source_names import COHORTS, plain_source
    from bdfm_nnunet.weight_rules import find_rules, known_rules

    found = find_rules(name)
    known = {plain_source(each) for each in (*RELEASES, *COHORTS)}
    strange = [each for each in found.patterns if "*" not in each and plain_source(each) not in known]
    if strange and name not in known_rules():
        print(
            f"note: {name} names {', '.join(strange)}: no data set that bdfm knows, so only a record's own word counts"
        )
    return found
