"""Commands in subprocesses, one after the other or side by side, each with its own log, under one progress bar."""

import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_atomically

logger = logging.getLogger(__name__)
_POLL_SECONDS = 0.5
# Not OMP_THREAD_LIMIT: oneDNN waits for ever for the threads that torch was told to use and that it forbids.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: what it does, in a few words; also the name of its log.
        command: program and arguments; the program is looked for beside the running Python.
        environment: variables for this command alone.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def as_shell(self) -> str:
        """Return the command as a line for a shell."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*assignments, shlex.join(self.command)])


def find_program(name: str) -> str:
    """Return the program of that name beside the running Python, so that it belongs to the same installation.

    Raises:
        InputError: there is none.
    """
    folder = str(Path(sys.executable).parent)
    found = shutil.which(name, path=folder)
    if found is None:
        raise InputError(f"{folder} holds no program {name}: install bdfm_nnunet there with `{sys.executable} -m pip`")
    return found


def write_script(path: Path, groups: Sequence[Sequence[Step]], *, environment: Mapping[str, str], about: str) -> None:
    """Write all commands as a shell script that runs them again one by one."""
    lines = ["#!/bin/sh", *[f"# {line}" for line in about.splitlines()], "set -eu"]
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    for group in groups:
        lines += [text for step in group for text in ("", f"# {step.name}", step.as_shell())]
    with write_atomically(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_steps(
    groups: Sequence[Sequence[Step]],
    *,
    environment: Mapping[str, str],
    logs: Path,
    threads: int,
    progress: bool | None = None,
) -> dict[str, float]:
    """Run the groups in order and the steps of a group side by side.

    Args:
        groups: the steps.
        environment: variables for all of them, on top of those of this process.
        logs: folder for the output, one file per step.
        threads: computing threads, shared by the steps of a group.
        progress: whether the bar is shown; by default on a terminal only.

    Returns:
        Seconds per step.

    Raises:
        InputError: a step failed; the others of its group are stopped.
    """
    logs.mkdir(parents=True, exist_ok=True)
    disable = None if progress is None else not progress
    seconds: dict[str, float] = {}
    bar_format = "{n_fmt}/{total_fmt} steps |{bar:20}| {elapsed} {desc}"
    count = sum(map(len, groups))
    with logging_redirect_tqdm(), tqdm(total=count, disable=disable, bar_format=bar_format) as bar:
        for group in groups:
            shared = {**os.environ, **environment}
            shared |= dict.fromkeys(_THREAD_VARIABLES, str(max(1, threads // len(group))))
            first = len(seconds) + 1
            files = [logs / f"{first + i:02d}_{step.name.replace(' ', '_')}.log" for i, step in enumerate(group)]
            seconds |= _run_group(group, files, shared, bar)
    return seconds


def _run_group(
    group: Sequence[Step], logs: Sequence[Path], environment: Mapping[str, str], bar: Any
) -> dict[str, float]:
    started = time.monotonic()
    running: dict[str, subprocess.Popen[bytes]] = {}
    seconds: dict[str, float] = {}
    try:
        for step, log in zip(group, logs):
            running[step.name] = _start(step, log, environment)
        while len(seconds) < len(group):
            time.sleep(_POLL_SECONDS)
            for step, log in zip(group, logs):
                code = running[step.name].poll()
                if code is None or step.name in seconds:
                    continue
                if code:
                    raise InputError(_failure(step, code, log))
                seconds[step.name] = time.monotonic() - started
                logger.info("%s: done after %.0f s", step.name, seconds[step.name])
                bar.update()
            waiting = [f"{s.name}: {last_line(log)}" for s, log in zip(group, logs) if s.name not in seconds]
            bar.set_description_str(" | ".join(text[:60] for text in waiting))
    finally:
        _stop(running.values())
    return seconds


def _start(step: Step, log: Path, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    program = find_program(step.command[0])
    with log.open("wb") as stream:
        stream.write(f"$ {step.as_shell()}\n".encode())
        stream.flush()
        return subprocess.Popen(
            [program, *step.command[1:]],
            env={**environment, **step.environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def _stop(processes: "Iterable[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def last_line(log: Path, *, tail: int = 4096) -> str:
    """Return the last line of a log that is not empty; of a progress bar its last state."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - tail))
        text = stream.read().decode(errors="replace").replace("\r", "\n")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _failure(step: Step, code: int, log: Path) -> str:
    ending = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return (
        f"the step {step.name!r} ({step.command[0]}) {ending}, its last line is {last_line(log)!r}: "
        f"read {log}, mend the cause and run the same command again"
    )
