"""Other libraries' output, also from processes that they start, goes to a file; the terminal shows only ours."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write

logger = logging.getLogger(__name__)
LAST_LINES = 8


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Redirect all printed text and warnings to a file; our log and progress bars stay on the terminal.

    The file descriptors of the process are redirected, so child processes and C libraries write to the file too. If
    standard error is not a terminal, progress bars also go to the file.

    Args:
        path: file to write; none is left if nothing is printed. After an error its last lines are logged.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    except OSError as error:
        raise cannot_write(path, error) from error
    with log, ExitStack() as stack:
        terminal = stack.enter_context(os.fdopen(os.dup(2), "w", encoding="utf-8", errors="replace", buffering=1))
        for stream in _handlers_of_descriptor(2):
            stack.callback(stream.setStream, stream.setStream(terminal))
        watched = _is_terminal(sys.stderr)
        for descriptor in (1, 2):
            stack.enter_context(_moved(descriptor, log))
        stack.enter_context(redirect_stdout(log))
        stack.enter_context(redirect_stderr(terminal if watched else log))
        stack.enter_context(_warnings_to(log))
        try:
            yield
        except Exception:
            log.flush()
            _tell_last_lines(path)
            raise
        finally:
            log.flush()
            if not path.stat().st_size:
                path.unlink()


@contextmanager
def _moved(descriptor: int, log: TextIO) -> Iterator[None]:
    before = os.dup(descriptor)
    os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        os.dup2(before, descriptor)
        os.close(before)


@contextmanager
def _warnings_to(log: TextIO) -> Iterator[None]:
    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        log.write(warnings.formatwarning(message, category, filename, lineno, line))

    before = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


def _handlers_of_descriptor(descriptor: int) -> "list[logging.StreamHandler[Any]]":
    found = []
    for handler in logging.getLogger().handlers:
        with suppress(AttributeError, OSError, ValueError):
            if isinstance(handler, logging.StreamHandler) and handler.stream.fileno() == descriptor:
                found.append(handler)
    return found


def _is_terminal(stream: Any) -> bool:
    with suppress(AttributeError, ValueError):
        return bool(stream.isatty())
    return False


def _tell_last_lines(path: Path) -> None:
    with suppress(OSError, InputError):
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
        lines = [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
        if lines:
            logger.error("the last lines of %s:\n%s", path, "\n".join(lines))
