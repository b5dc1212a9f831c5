"""The entry point of a container: cases in, results out; one bad case costs that case alone.

Exit codes: 0 done, 2 nothing could be predicted (a sentence says why); where some cases could not be, the code of the
challenge.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.containers.challenge_forms import ENDINGS, ChallengeForm
from bdfm_nnunet.containers.container_settings import ContainerSettings
from bdfm_nnunet.containers.input_cases import InputCase, find_inputs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, sweep, unfinished
from bdfm_nnunet.nnunet_folders import VARIABLES
from bdfm_nnunet.safe_names import printable

logger = logging.getLogger("bdfm_nnunet.containers.entry")
EXIT_NOTHING = 2
_MOUNTED = ("/input", "/output")


class Unusable(Exception):
    """The model cannot be loaded: no case can be predicted."""


def main(folder: str | Path, arguments: Sequence[str]) -> int:
    """Run the container in a folder, and return its exit code.

    Args:
        folder: what `bdfm container` wrote.
        arguments: IN and OUT; nothing for /input and /output; or the flags of the challenge.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("bdfm_nnunet.prediction").setLevel(logging.WARNING)
    try:
        settings = ContainerSettings.read(Path(folder))
        return _run(Path(folder), settings, list(arguments))
    except (InputError, Unusable) as error:
        logger.error("error: %s", printable(str(error)))
        return EXIT_NOTHING


def _run(folder: Path, settings: ContainerSettings, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="entrypoint", description=settings.form.interface, allow_abbrev=False)
    given = settings.form.flags and any(text.partition("=")[0] == "--output" for text in arguments)
    if not given:
        parser.add_argument("IN", nargs="?", type=Path, default=Path(_MOUNTED[0]), help="folder of the cases")
        parser.add_argument("OUT", nargs="?", type=Path, default=Path(_MOUNTED[1]), help="folder of the results")
        folders = parser.parse_args(arguments)
        return run_folder(folder, settings, folders.IN, folders.OUT)
    for flag in settings.form.flags:
        parser.add_argument(f"--{flag}", type=Path, metavar="IMAGE")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        logger.warning("options that this task does not have were left aside: %s", printable(" ".join(unknown)))
    files = {flag: getattr(chosen, flag) for flag in settings.form.flags if getattr(chosen, flag) is not None}
    return run_one(folder, settings, files, chosen.output)


# --------------------------------------------------------------------------------------------------------- one case


def run_one(folder: Path, settings: ContainerSettings, files: dict[str, Path], output: Path) -> int:
    """Predict the case whose images are named one by one, and return the exit code.

    Args:
        folder: of the container.
        settings: of the container.
        files: flag to image.
        output: the file to write.
    """
    case, names = InputCase(output.name), settings.names
    for flag, path in files.items():
        channel = settings.channels[0] if settings.form.flags == ("input",) else names.of_name(flag)
        if channel is not None and not channel.endswith("*"):
            case.files[channel] = path
    for flag, path in files.items():
        channel = (names.of_name(flag) or "").rstrip("*")
        if channel and channel not in case.files:
            case.files[channel] = path
            case.notes.append(f"--{flag} takes the place of {channel}")
    missing = [name for name in settings.channels if name not in case.files and name not in settings.optional]
    case.faults += [f"it has no {name}: give its image" for name in missing]
    with _results(output.parent), _work_folder(output.parent) as work:
        predicted = _Run(folder, settings, work).predict(case, output)
    return 0 if predicted else EXIT_NOTHING


# -------------------------------------------------------------------------------------------------------- all cases


def run_folder(folder: Path, settings: ContainerSettings, source: Path, out: Path) -> int:
    """Predict all cases of a folder, and return the exit code.

    Args:
        folder: of the container.
        settings: of the container.
        source: of the cases; nothing is written there.
        out: where results go, without folders.

    Raises:
        InputError: there is no case, or the results cannot be written.
    """
    with _results(out), _work_folder(out) as work:
        if there := len([name for name in os.listdir(out) if not name.startswith(".")]):
            logger.warning(
                "%s holds %d files already: those of the same names are replaced", printable(str(out)), there
            )
        cases, notes = find_inputs(source, settings.names)
        for note in notes:
            logger.warning("%s", printable(note))
        run, before = _Run(folder, settings, work), time.monotonic()
        for number, case in enumerate(cases, 1):
            run.predict(case, out / f"{case.name}{ENDINGS[settings.form.result]}")
            left = (time.monotonic() - before) / number * (len(cases) - number)
            logger.info("%d of %d, about %.0f minutes to go", number, len(cases), left / 60)
    logger.info("%d of %d cases predicted", run.predicted, len(cases))
    for name, why in run.failed.items():
        logger.error("not predicted: %s (%s)", printable(name), printable(why))
    return exit_code(settings.form, run.predicted, len(run.failed))


def exit_code(form: ChallengeForm, predicted: int, failed: int) -> int:
    """Return the exit code of a run over a folder.

    >>> from bdfm_nnunet.containers.challenge_forms import find_form
    >>> [exit_code(find_form(name), 9, 1) for name in ("brats2026-met", "plain")], exit_code(find_form("plain"), 0, 1)
    ([0, 3], 2)
    """
    if not predicted:
        return EXIT_NOTHING
    return form.partial_exit if failed else 0


@dataclass
class _Run:
    """A run of the model, which is loaded for the first case that can be predicted."""

    folder: Path
    settings: ContainerSettings
    work: Path
    predicted: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in VARIABLES:  # nnU-Net complains without them, and uses none
            os.environ.setdefault(name, str(self.work))
        self.model: Any = None
        self.staging = self.settings.staging

    def predict(self, case: InputCase, output: Path) -> bool:
        """Predict a case and write its result; what is wrong with it is told."""
        for note in case.notes:
            logger.warning("%s: %s", printable(case.name), printable(note))
        fault = "; ".join(case.faults) or self._fault(case, output)
        if fault:
            self.failed[case.name] = fault
            logger.error("%s is not predicted: %s", printable(case.name), printable(fault))
        self.predicted += not fault
        return not fault

    def _fault(self, case: InputCase, output: Path) -> str:
        before = time.monotonic()
        try:
            with tempfile.TemporaryDirectory(dir=self.work) as place:
                staged = self.staging.stage(case.files, Path(place))
                for note in staged.notes:
                    logger.warning("%s: %s", printable(case.name), printable(note))
                content = self._loaded().result(staged, Path(place))
            _place(content, output)
        except InputError as error:
            return str(error)
        except Unusable:
            raise
        except (Exception, MemoryError) as error:  # whatever a library does with one case, the others go on
            return " ".join(f"{type(error).__name__}: {error}".split())[:300]
        logger.info("%s in %.1f s", printable(case.name), time.monotonic() - before)
        return ""

    def _loaded(self) -> Any:
        """Return the model; its module imports PyTorch, which takes seconds.

        Raises:
            Unusable: it cannot be loaded.
        """
        if self.model is None:
            from bdfm_nnunet.containers import model_runs

            try:
                self.model = model_runs.load_model(self.folder, self.settings)
            except Exception as error:
                raise Unusable(" ".join(f"{error}".split()) or type(error).__name__) from error
        return self.model


# ------------------------------------------------------------------------------------------------------ the results


@contextmanager
def _results(out: Path) -> Iterator[None]:
    """Make the folder of the results, and check that files can be written there.

    Raises:
        InputError: they cannot.
    """
    probe = unfinished(out / "result")
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise cannot_write(out, error) from error
    sweep(out)
    yield


@contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Yield a folder for what comes between: in the system's place for that, else hidden among the results."""
    try:
        place = tempfile.TemporaryDirectory(prefix="bdfm-")
    except OSError:
        place = tempfile.TemporaryDirectory(prefix=unfinished(out / "work").name, dir=out)
    with place as work:
        yield Path(work)


def _place(content: bytes, output: Path) -> None:
    """Write a result whole or not at all; its name may be as long as the system allows."""
    temporary = unfinished(output.parent / "result")
    try:
        temporary.write_bytes(content)
        temporary.replace(output)
    except OSError as error:
        raise cannot_write(output, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
