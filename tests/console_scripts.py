"""Console scripts started as a user types them, on data sets that the tests have prepared."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import Prepared

SCRIPTS = Path(sys.executable).parent


class Bench:
    """The prepared data sets, with results of their own, and the commands on them.

    Attributes:
        prepared: the data sets.
        environ: what `bdfm env` and the folders make of the environment.
        results: nnUNet_results.
    """

    def __init__(self, prepared: Prepared, results: Path) -> None:
        self.prepared, self.results = prepared, results
        line = subprocess.run([SCRIPTS / "bdfm", "env"], capture_output=True, text=True, check=True).stdout
        command = f'{line}\nprintf %s "$nnUNet_extTrainer"'
        found = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
        self.environ = os.environ | {"nnUNet_extTrainer": found, "nnUNet_results": str(results)}

    def start(self, command: str, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [SCRIPTS / command, *map(str, arguments)], env=self.environ | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, command: str, *arguments: object, code: int = 0, **variables: str) -> str:
        process = self.start(command, *arguments, **variables)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == code, output[-3000:]
        return output

    def training(self, dataset_id: int, variant: str, trainer: str, plans: str = "BDFMPlans") -> list[object]:
        return [dataset_id, variant, 0, "-tr", trainer, "-p", plans, "-device", "cpu"]

    def folder(self, dataset_id: int, variant: str, trainer: str, plans: str = "BDFMPlans") -> Path:
        name = self.prepared.folder("nnUNet_preprocessed", dataset_id).name
        return self.results / name / f"{trainer}__{plans}__{variant}" / "fold_0"


def kill_once_there_is(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not path.is_file():
        assert process.poll() is None and time.monotonic() < deadline, process.stdout and process.stdout.read()[-3000:]
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
