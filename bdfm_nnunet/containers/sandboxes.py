"""Where a container is run for a check: here without privileges and network, or in an image of it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bdfm_nnunet.errors import InputError

IN, OUT = "{IN}", "{OUT}"
"""Stand for the two folders in arguments, and in what comes behind them."""
NOBODY = "65534"
_WITHOUT_POWERS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs")


@dataclass(frozen=True)
class RunReport:
    """How a run ended.

    Attributes:
        code: exit code; None where it was ended for its time.
        log: what it has printed.
        seconds: wall-clock time.
        peak_mib: largest resident memory; None where that is not measured.
    """

    code: int | None
    log: str
    seconds: float
    peak_mib: float | None


@dataclass(frozen=True)
class Sandbox:
    """A way to run a container.

    Attributes:
        name: "here", "docker" or "apptainer".
        folder: of the container.
        before: words before the entry point.
        image: of docker or apptainer.
        memory_gib: limit of memory; None: none.
        told: what it keeps from the container, in words.
        powerless: whether permissions of files bind it.
    """

    name: str
    folder: Path
    before: tuple[str, ...] = ()
    image: str = ""
    memory_gib: float | None = None
    told: tuple[str, ...] = ()
    powerless: bool = False

    def command(self, arguments: Sequence[str], source: Path, out: Path) -> list[str]:
        """Return the words of a run.

        Args:
            arguments: of the entry point, with `IN` and `OUT` in the place of the folders.
            source: folder of the input, read only.
            out: folder of the results.
        """
        if self.name == "here":
            words = [word.replace(IN, str(source)).replace(OUT, str(out)) for word in arguments]
            return [*self.before, str(self.folder / "entrypoint"), *words]
        words = [word.replace(IN, "/input").replace(OUT, "/output") for word in arguments]
        if self.name == "docker":
            memory = ["--memory", f"{self.memory_gib:g}g"] if self.memory_gib else []
            mounts = ["-v", f"{source}:/input:ro", "-v", f"{out}:/output"]
            gpus = ["--gpus", "all"] if os.path.exists("/dev/nvidia0") else []
            return ["docker", "run", "--rm", "--network", "none", *memory, *gpus, *mounts, self.image, *words]
        nv = ["--nv"] if os.path.exists("/dev/nvidia0") else []
        mounts = ["--bind", f"{source}:/input:ro,{out}:/output"]
        return ["apptainer", "run", "--containall", *nv, "--net", "--network", "none", *mounts, self.image, *words]

    def run(self, arguments: Sequence[str], source: Path, out: Path, *, timeout: float) -> RunReport:
        """Run the container and wait for its end.

        Args:
            arguments: as in `command`.
            source: folder of the input.
            out: folder of the results.
            timeout: seconds after which it is ended.
        """
        before = time.monotonic()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                self.command(arguments, source, out), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                preexec_fn=self._limit if self.name == "here" else None, cwd="/",
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
            code, peak = _wait(process, before + timeout)
            log.seek(0)
            text = log.read().decode("utf-8", "backslashreplace")
        return RunReport(code, text, time.monotonic() - before, peak if self.name == "here" else None)

    def _limit(self) -> None:
        import resource  # not on Windows

        if self.memory_gib and not os.path.exists("/dev/nvidia0"):  # drivers reserve more addresses than memory
            size = int(self.memory_gib * 2**30)
            resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _wait(process: "subprocess.Popen[bytes]", until: float) -> tuple[int | None, float]:
    """Wait for a process; return its exit code, None if it took too long, and its peak memory in MiB."""
    peak = None
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            scale = 2**20 if sys.platform == "darwin" else 2**10
            return process.returncode, usage.ru_maxrss / scale if peak is None else peak
        peak = _peak_so_far(process.pid) or peak
        if time.monotonic() > until:
            process.kill()
            process.wait()
            return None, 0.0
        time.sleep(0.05)


def _peak_so_far(pid: int) -> float | None:
    """Return the largest resident memory in MiB of the program that a process runs; None where that is not told.

    What `wait4` tells counts the process that it was forked from, too, which may be larger.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return None if found is None else int(found[1]) / 2**10


def local_sandbox(folder: Path, memory_gib: float | None) -> Sandbox:
    """Return the strictest way to run a container here that the system allows.

    Args:
        folder: of the container.
        memory_gib: limit of memory.
    """
    root, told, before = os.geteuid() == 0, [], []
    network = (["unshare", "--net"], ["unshare", "--user", "--map-current-user", "--net"])[not root]
    if _works([*network, "true"]):
        before += network
        told.append("no network")
    else:
        told.append("the network could not be cut off here")
    powerless = not root
    if root:
        other = [*_WITHOUT_POWERS, "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]
        python = (
            (folder / "local_python").read_text().strip() if (folder / "local_python").is_file() else sys.executable
        )
        for words, sentence in ((other, "another user"), (list(_WITHOUT_POWERS), "root without its powers")):
            code = f"import tqdm; open({str(folder / 'predict.py')!r})"
            if _works([*words, "sh", "-c", 'exec "$0" -c "$1"', python, code]):  # the shell has lost its powers
                before += words
                powerless = True
                told.append(sentence)
                break
        else:
            told.append("as root: permissions do not bind it")
    else:
        told.append("the user who checks")
    if memory_gib:
        limited = "no limit of memory beside a graphics card"
        told.append(limited if os.path.exists("/dev/nvidia0") else f"{memory_gib:g} GiB of addresses at most")
    told.append("input without permission to write" if powerless else "input that root could write to")
    return Sandbox("here", folder, tuple(before), "", memory_gib, tuple(told), powerless)


def engines() -> list[str]:
    """Return which of docker and apptainer work here."""
    found = {"docker": ["docker", "info"], "apptainer": ["apptainer", "--version"]}
    return [name for name, words in found.items() if shutil.which(name) and _works(words)]


def built_sandbox(name: str, folder: Path, memory_gib: float | None) -> Sandbox:
    """Build the image of a container, and return how it is run.

    Args:
        name: "docker" or "apptainer".
        folder: of the container.
        memory_gib: limit of memory.

    Raises:
        InputError: it cannot be built.
    """
    image = "bdfm-container-check" if name == "docker" else str(folder / "check" / "container.sif")
    (folder / "check").mkdir(exist_ok=True)
    words = ["docker", "build", "-t", image, "."] if name == "docker" else [
        "apptainer", "build", "--force", "--fakeroot", image, "Apptainer.def"
    ]  # fmt: skip
    found = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    if found.returncode:
        reason = " ".join((found.stderr or found.stdout).split())[-300:]
        raise InputError(f"{' '.join(words)} fails in {folder} ({reason}): correct that, or check with --engine here")
    told = ("no network", "read-only input", *([f"{memory_gib:g} GiB"] if memory_gib and name == "docker" else []))
    return Sandbox(name, folder, (), image, memory_gib, told, False)


def _works(words: Sequence[str]) -> bool:
    try:
        return subprocess.run(words, capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
