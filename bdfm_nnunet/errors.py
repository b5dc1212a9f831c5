"""The exceptions whose message a user reads."""

import sys
from types import TracebackType


class InputError(ValueError):
    """Error in something that the user gave.

    The message is one sentence that names the file or setting, what was expected and the remedy. The command line
    prints it without a traceback and ends with a non-zero exit code.

    Args:
        message: the sentence.
        entry: heading of docs/troubleshooting.md that says more; it follows the sentence in brackets.

    Example:
        >>> print(InputError("scan.nii is not a folder: name one", entry="no-source-folder"))
        scan.nii is not a folder: name one [no-source-folder]
    """

    def __init__(self, message: object = "", *, entry: str = "") -> None:
        super().__init__(f"{message} [{entry}]" if entry else message)


class Refusal(InputError):
    """Error in one case; a command that goes through many cases records it and continues with the others."""


def show_as_one_line() -> None:
    """Let programs that do not know `InputError`, such as nnU-Net's commands, print only its message.

    The exit code stays 1. All other errors go to the previous hook.
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
