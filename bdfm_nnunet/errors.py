"""The one exception a user is meant to read."""

import sys
from types import TracebackType


class InputError(ValueError):
    """Something a user gave cannot be used.

    The message is one sentence that names the file or setting, what was expected and the remedy. The command line
    prints it without a traceback and ends with a non-zero exit code.
    """


class Refusal(InputError):
    """Why one case cannot be used; a command that goes through many cases notes it and takes the others."""


def show_as_one_line() -> None:
    """Lets a program that knows nothing of `InputError`, such as nnU-Net's commands, end with its sentence alone.

    The exit code stays 1. All other errors go to the hook that was there before.
    """
    before = sys.excepthook
    if hasattr(before, "for_input_errors"):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, InputError):
            sys.stderr.write(f"bdfm: error: {error}\n")
        else:
            before(kind, error, trace)

    hook.for_input_errors = True  # type: ignore[attr-defined]
    sys.excepthook = hook
