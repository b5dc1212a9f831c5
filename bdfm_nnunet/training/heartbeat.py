"""Signs of life between the processes of a training: one that is stopped, or whose machine is gone, is named.

Nothing else would tell for long: the others wait for it inside a step, half an hour on the CPU, and an nccl kernel
cannot be interrupted. So a thread of each process writes into the store where the processes have met and reads what the
others write there. Waits are counted in own wake-ups, so a job that is suspended as a whole goes on when it is resumed.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import distributed

_DONE = b"done"


class Heartbeat:
    """The signs of life of one process, and its watch over those of the others.

    Args:
        store: a separate connection to where the processes have met.
        rank: number of this process.
        count: how many there are.
        interval: seconds between two signs.
        patience: seconds of silence after which the training is given up.
        give_up: takes the sentence; by default it is printed and the process ends.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        count: int,
        *,
        interval: float = 5.0,
        patience: float = 60.0,
        give_up: Callable[[str], None] | None = None,
    ) -> None:
        self._store, self._rank, self._others = store, rank, [other for other in range(count) if other != rank]
        self._interval, self._most = interval, max(round(patience / interval), 1)
        self._seconds = patience
        self._give_up = _end if give_up is None else give_up
        self._over = threading.Event()
        self._heard: dict[int, bytes] = {}
        self._answers = 0
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._talk, self._watch)]

    def start(self) -> None:
        """Begin; at the end of the process tell the others that it ended normally."""
        for thread in self._threads:
            thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """Tell the others that this process ends normally."""
        self._over.set()
        self._threads[0].join(self._interval)

    def _talk(self) -> None:
        beat = 0
        while True:
            over = self._over.wait(self._interval)
            beat += 1
            try:
                self._store.set(_key(self._rank), _DONE if over else str(beat))
                known = [rank for rank in self._others if self._store.check([_key(rank)])]
                self._heard = {rank: self._store.get(_key(rank)) for rank in known}
            except RuntimeError:
                return  # the watch finds that nobody answers any more
            self._answers += 1
            if over:
                return

    def _watch(self) -> None:
        silent: dict[int, int] = {}
        before: dict[int, bytes] = {}
        answers = unanswered = 0
        while not self._over.wait(self._interval):
            unanswered = 0 if self._answers > answers else unanswered + 1
            if unanswered > self._most:
                self._give_up(f"the store where the processes have met has been silent for {self._seconds:g}")
                return
            if unanswered:
                continue
            answers, heard = self._answers, self._heard
            for rank, sign in heard.items():
                silent[rank] = silent.get(rank, 0) + 1 if sign == before.get(rank) and sign != _DONE else 0
            before = heard
            gone = [str(rank) for rank, times in silent.items() if times > self._most]
            if gone:
                self._give_up(
                    f"process {' and '.join(gone)} of this training has given no sign of life for {self._seconds:g}"
                )
                return


def start_heartbeat(rank: int, count: int) -> Heartbeat | None:
    """Begin to give and watch signs of life where the processes were started with a meeting point, as torchrun does."""
    host, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        return None
    try:
        store = distributed.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=30))
    except RuntimeError:  # they have met in another way
        return None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    heartbeat = Heartbeat(distributed.PrefixStore(f"signs{attempt}of{count}", store), rank, count)
    heartbeat.start()
    return heartbeat


def _key(rank: int) -> str:
    return f"sign{rank}"


def _end(sentence: str) -> None:
    """Print the sentence and end: the main thread waits for the silent one and cannot."""
    remedy = "it was stopped, or its machine is gone; end all processes and continue with --c"
    sys.stderr.write(f"bdfm: error: {sentence} seconds: {remedy}\n")
    sys.stderr.flush()
    os._exit(1)
