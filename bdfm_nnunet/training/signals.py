"""Signals and time limits: when a training saves, and when and how it ends early.

Exit codes: 75 (EX_TEMPFAIL, "try again later") for a training that was told to stop or whose time is up, 130 after
Ctrl-C. Both have saved, and `--c` continues. torchrun starts anew whatever ends with another code than 0 and tells
nobody which one it was, so under torchrun the code is 0 and checkpoint_final.pth is not there yet.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

PAUSED, INTERRUPTED = 75, 130
SAVE, BROKEN, STOP, CTRL_C, TIME_UP = "save", "broken", "stop", "ctrl-c", "time up"
WISHES = (SAVE, BROKEN, STOP, CTRL_C, TIME_UP)
"""What a process may want of all others, see `ProcessGroup`."""

_SIGNALS = {signal.SIGINT: CTRL_C, signal.SIGTERM: STOP} | (
    {signal.SIGUSR1: STOP} if hasattr(signal, "SIGUSR1") else {}
)
_IMPATIENT_SECONDS = 1.0


class TrainingPaused(SystemExit):
    """A training that has ended early; a `SystemExit` so that commands which know nothing of it end cleanly."""

    def __init__(self, message: str, reasons: set[str]) -> None:
        code = INTERRUPTED if CTRL_C in reasons else PAUSED
        super().__init__(0 if under_torchrun() else code)
        self.message = message


def under_torchrun() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class StopSignals:
    """A context that remembers SIGTERM, SIGUSR1 and SIGINT instead of ending the process.

    Loader processes that are forked inside the block ignore these signals: schedulers send them to all processes of a
    job, and the training could not end its step without its loaders. A second Ctrl-C ends the process at once.

    Attributes:
        wanted: what the signals so far ask for: nothing, `STOP` or `CTRL_C`.
    """

    def __init__(self) -> None:
        self.wanted: set[str] = set()
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}
        self._first = 0.0

    def __enter__(self) -> "StopSignals":
        """Start to listen, where Python allows it: in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the former handlers of the signals."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        wish = _SIGNALS[signal.Signals(number)]
        now = time.monotonic()
        if wish == CTRL_C in self.wanted and now - self._first > _IMPATIENT_SECONDS and not under_torchrun():
            raise KeyboardInterrupt
        self._first = self._first or now
        self.wanted.add(wish)


@contextmanager
def ending_at_signals(message: str) -> Iterator[None]:
    """Let SIGTERM, SIGUSR1 and SIGINT end a block at once; for work that is started again afterwards.

    Args:
        message: of the `TrainingPaused` that they raise.

    Raises:
        TrainingPaused: one has come.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise TrainingPaused(message, {_SIGNALS[signal.Signals(number)]})

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Clock:
    """A clock that tells when a checkpoint is due and when the time is up, early enough to save.

    Args:
        interval_minutes: between two checkpoints; `None` for never.
        max_hours: until the training must have ended; `None` for no limit.
        started: `time.monotonic()` from which the hours count; by default now.
    """

    def __init__(
        self, *, interval_minutes: float | None, max_hours: float | None, started: float | None = None
    ) -> None:
        now = time.monotonic()
        self.interval = None if interval_minutes is None else 60 * interval_minutes
        self.end = None if max_hours is None else (now if started is None else started) + 3600 * max_hours
        self._saved = self._last = now
        self._steps: deque[float] = deque(maxlen=50)
        self._longest_save = 0.0

    def tick(self) -> set[str]:
        """Return `SAVE` or `TIME_UP` if it is time for that; to be called after each step."""
        now = time.monotonic()
        self._steps.append(now - self._last)
        self._last = now
        wanted = set()
        if self.interval is not None and now - self._saved >= self.interval:
            wanted.add(SAVE)
        # the others hear of it one step later, and a step or a disk can be slow
        if self.end is not None and now + 3 * max(self._steps) + 2 * self._longest_save >= self.end:
            wanted.add(TIME_UP)
        return wanted

    def saved(self, seconds: float) -> None:
        """Note how long a checkpoint took to write, whether it was written or not."""
        self._longest_save = max(self._longest_save, seconds)
        self._saved = self._last = time.monotonic()
