"""The one exception a user is meant to read."""


class InputError(ValueError):
    """Something a user gave cannot be used.

    The message is one sentence that names the file or setting, what was expected and the remedy. The command line
    prints it without a traceback and ends with a non-zero exit code.
    """
