"""The number of threads that a user has asked for."""

import os


def named_threads() -> int | None:
    """Return the number in OMP_NUM_THREADS; None where it names none.

    nnU-Net's commands set the number of torch's threads themselves, whatever that variable says.
    """
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) > 0 else None
