"""`bdfm study`: arms compared over label fractions and seeds."""

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import (
    EXIT_REFUSED,
    Add,
    SwitchOnce,
    assignment,
    command,
    count,
    dataset_id,
    each_once,
    percentages,
    positive,
)
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import parse_json, read_json, read_regular

if TYPE_CHECKING:
    from bdfm_nnunet.studies.study_folder import StudyFolder
    from bdfm_nnunet.studies.study_settings import StudySettings

_SETTINGS = (
    "dataset", "fractions", "seeds", "test", "hold_out", "rotate", "validation", "baseline", "plans", "configuration",
    "trainer", "targets", "steps", "rates", "search_seeds", "halving", "pretrain_on", "pretrain_steps",
    "pretrain_seeds", "mirroring", "split_seed",
)  # fmt: skip
_REPEATED = ("arm", "set", "pretrain_set", "search")
_ARM_TABLES = ("set", "pretrain_set")
_ARM_SHAPES: dict[str, Any] = {"rates": [float], "pretrain_steps": int, "pretrain_on": int}


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(commands, "study", study, "compare pre-trainings, weights and strategies over label fractions")
    add("file", nargs="?", type=Path, metavar="FILE.toml", help="the study; options override what it says")
    add("-o", "--out", type=Path, metavar="DIR", help="folder of the study; alone, goes on with the study in it")
    _setting_options(add)
    add("--arm", action="append", default=[], metavar="NAME=KEY:VALUE,...", help="an arm; may be repeated")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of fine-tuning of all arms")
    add("--pretrain-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all pre-trainings")
    add("--search", action="append", default=[], metavar="KEY=[V,W]", help="values of a setting that all arms try")
    add("--list", action="store_true", help="list the tasks, how far they are and what they cost, and run none")
    add("--task", metavar="K", help="run one task, by number or name, for instance in a SLURM array")
    add("--jobs", type=count, default=1, metavar="N", help="processes on this machine (default: %(default)s)")
    add("--dask", metavar="ADDRESS", help="a Dask scheduler whose workers run the tasks")
    add("--device", choices=("cpu", "cuda", "mps"), help="where networks run (default: the fastest there is)")
    add("--keep-models", action="store_true", help="keep checkpoint and test predictions of each cell")


def _setting_options(add: Add) -> None:
    """Add the options that are entries of a file too; none has a default here, so that a file's entry stands."""
    add("-d", "--dataset", type=dataset_id, metavar="ID", help="nnU-Net data set number, 1 to 999")
    add("--fractions", type=percentages, metavar="P,Q", help="label fractions in percent (default: 5,20,100)")
    add("--seeds", type=count, metavar="N", help="repetitions (default: 3)")
    add("--test", type=dataset_id, metavar="ID", help="data set whose labelled cases are the test")
    add("--hold-out", type=positive, metavar="P", help="instead: percent of the patients that are held out")
    add("--rotate", action=SwitchOnce, default=None, help="each seed holds out the next such part of the patients")
    add("--validation", type=float, metavar="P", help="percent of the others that choose settings (default: 20)")
    add("--baseline", metavar="ARM", help="arm to compare with (default: the first from scratch)")
    add("-p", "--plans", metavar="NAME", help="name of the plans (default: BDFMPlans)")
    add("-c", "--configuration", metavar="CONFIG", help="configuration (default: 3d_fullres)")
    add("-tr", "--trainer", metavar="TRAINER", help="of fine-tuning (default: nnUNetTrainerBDFM)")
    add("--target", dest="targets", action="append", metavar="NAME", help="what a subject-level trainer learns (all)")
    add("--steps", type=count, metavar="N", help="optimiser steps of each fine-tuning (default: 1000)")
    add("--rates", type=_rates, metavar="A,B", help="learning rates that every arm tries (default: 3e-4,1e-3,3e-3)")
    add("--search-seeds", choices=("each", "first"), help="seeds that search; else the first one's choice holds")
    add("--halving", action=SwitchOnce, default=None, help="successive halving of what is searched")
    add("--pretrain-on", type=dataset_id, metavar="ID", help="data set for pre-training (default: that of -d)")
    add("--pretrain-steps", type=count, metavar="N", help="optimiser steps of each pre-training (default: 1000)")
    add("--pretrain-seeds", choices=("each", "first"), help="seeds that pre-train; else the first one's serves all")
    add("--mirroring", action=SwitchOnce, default=None, help="predict mirrored images too")
    add("--split-seed", type=count, metavar="N", help="of the parts of the data set (default: 12345)")


def _rates(text: str) -> list[float]:
    return [positive(part) for part in text.split(",")]


def study(settings: argparse.Namespace) -> int:
    """Run a study, go on with one, list its tasks, or run one of them."""
    chosen = {"--list": settings.list, "--task": settings.task, "--dask": settings.dask, "--jobs": settings.jobs > 1}
    modes = [option for option, given in chosen.items() if given]
    if len(modes) > 1:
        raise InputError(f"{modes[0]} and {modes[1]} exclude each other: give one of them")
    folder = _folder(settings)
    if settings.list:
        return _list(folder)
    if settings.task is not None:
        return _run_one(settings, folder)
    from bdfm_nnunet.studies.study_running import run_study

    how = {"jobs": settings.jobs, "scheduler": settings.dask}
    reports = run_study(folder, **how, device=settings.device, keep_models=settings.keep_models)
    failed = [report for report in reports if report.state != "done"]
    for report in failed:
        print(f"{report.task} failed: {report.error}")
    _write(folder)
    return EXIT_REFUSED if failed else 0


def _folder(settings: argparse.Namespace) -> "StudyFolder":
    """Return the study that file and options tell, or that is in the folder."""
    from bdfm_nnunet.studies.study_folder import SETTINGS, StudyFolder, prepare

    content = _content(settings)
    named = content.pop("output", None)
    if settings.out is None and named is None:
        raise InputError("a study needs a folder: give it with -o DIR, or as output in the file")
    out = settings.out or Path(str(named))
    if not content:
        return StudyFolder.open(out)
    if "dataset" not in content and (out / SETTINGS).is_file():
        content = _joined(StudyFolder.open(out).settings.as_dict(), content)
    return prepare(_settings(content), out)


def study_settings_of(settings: argparse.Namespace) -> "StudySettings":
    """Return the study that the options of the command and its file tell.

    Raises:
        InputError: they tell none.
    """
    return _settings(_content(settings))


def _joined(stored: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a study that is there, with those that are given in their places, and arms added."""
    return {**stored, **content, "arms": {**stored["arms"], **content.get("arms", {})}}


def _settings(content: dict[str, Any]) -> "StudySettings":
    from bdfm_nnunet.studies.study_settings import StudySettings

    for name, how in (("dataset", "-d ID"), ("arms", "--arm NAME=KEY:VALUE,...")):
        if name not in content:
            raise InputError(f"the study lacks {name}: give it with {how}, or as an entry of the file")
    return StudySettings.from_dict(content)


def _content(settings: argparse.Namespace) -> dict[str, Any]:
    """Return the entries of the file, and the options in their places."""
    content = {} if settings.file is None else read_study_file(settings.file)
    for name in _SETTINGS:
        if (value := getattr(settings, name)) is not None:
            content[name] = [100 * each for each in value] if name == "fractions" else value
    for name in ("set", "pretrain_set"):
        if given := each_once(map(assignment, getattr(settings, name)), f"--{name.replace('_', '-')}", "setting"):
            content[name] = {**content.get(name, {}), **given}
    if given := each_once(map(assignment, settings.search), "--search", "setting"):
        content["search"] = {**content.get("search", {}), **given}
    if settings.arm:
        content["arms"] = {**content.get("arms", {}), **each_once(map(arm_of, settings.arm), "--arm", "arm")}
    return content


def read_study_file(path: Path) -> dict[str, Any]:
    """Read a study from a TOML or JSON file.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix != ".toml":
        found = read_json(path, dict)
    else:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        try:
            found = tomllib.loads(read_regular(path).decode("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no TOML ({error}): correct it") from None
    return dict(found)


def arm_of(text: str) -> tuple[str, dict[str, Any]]:
    """Read an arm: `NAME=KEY:VALUE,...`; of `set` and `pretrain_set` the values are `KEY=VALUE`, and may be several.

    >>> arm_of("lora=weights:last:900,set:training.weight_decay=0,set:patch_size=[32,32,32]")
    ('lora', {'weights': 'last:900', 'set': {'training.weight_decay': 0, 'patch_size': [32, 32, 32]}})
    >>> arm_of("scratch")
    ('scratch', {})

    Raises:
        InputError: it is something else.
    """
    name, _, rest = text.partition("=")
    found: dict[str, Any] = {}
    for part in _parts(rest):
        key, colon, value = part.partition(":")
        if not (name and key and colon and value):
            raise InputError(f"--arm {text} cannot be read at {part!r}: write --arm NAME=KEY:VALUE,KEY:VALUE")
        if key in _ARM_TABLES:
            setting, chosen = assignment(value)
            _add_once(found.setdefault(key, {}), setting, chosen, text)
        elif key in _ARM_SHAPES:
            _add_once(found, key, parse_json(value, f"{key} of --arm {name}", _ARM_SHAPES[key]), text)
        else:
            _add_once(found, key, value, text)
    return name, found


def _add_once(table: dict[str, Any], key: str, value: Any, text: str) -> None:
    if key in table:
        raise InputError(f"--arm {text} names {key} twice: name it once")
    table[key] = value


def _parts(text: str) -> Iterator[str]:
    """Yield what is between commas, but for commas inside brackets."""
    depth, part = 0, ""
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth:
            yield part
            part = ""
        else:
            part += letter
    if part:
        yield part


# ---------------------------------------------------------------------------------------------------- what is done


def _list(folder: "StudyFolder") -> int:
    from bdfm_nnunet.studies.study_listing import list_tasks, listing_text
    from bdfm_nnunet.studies.study_tasks import TaskList

    print(listing_text(list_tasks(TaskList(folder))))
    return 0


def _run_one(settings: argparse.Namespace, folder: "StudyFolder") -> int:
    from bdfm_nnunet.studies.study_running import Order, run_order
    from bdfm_nnunet.studies.study_tasks import TaskList

    tasks = TaskList(folder)
    name = tasks.named(settings.task).name
    report = run_order(Order(out=folder.path, task=name, device=settings.device, keep_models=settings.keep_models))
    if report.state != "done":
        raise InputError(f"{name}: {report.error}")
    if all(tasks.result(task) is not None for task in tasks):
        _write(folder)
    return 0


def _write(folder: "StudyFolder") -> None:
    from bdfm_nnunet.studies.study_results import write_study
    from bdfm_nnunet.studies.study_tasks import TaskList

    page = write_study(TaskList(folder))
    if page is not None:
        print(page.read_text(encoding="utf-8"))
        print(f"{page}; every score is in {page.with_suffix('.json')}")
