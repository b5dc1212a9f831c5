import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.locks import hold_lock

_HOLD = """
import sys, time
from pathlib import Path
from bdfm_nnunet.locks import hold_lock
with hold_lock(Path(sys.argv[1]), otherwise="taken"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_keeps_others_out_until_its_process_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        began = time.monotonic()
        with (
            pytest.raises(InputError, match="taken by another"),
            hold_lock(path, wait=0.2, otherwise="taken by another"),
        ):
            pass
        assert time.monotonic() - began >= 0.2
        os.kill(other.pid, signal.SIGKILL)
    with hold_lock(path, otherwise="still taken"):
        pass
    with hold_lock(path, otherwise="not released"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*file"), hold_lock(tmp_path / "file" / ".lock", otherwise=""):
        pass


def test_a_lock_that_is_removed_keeps_others_out_as_well(tmp_path: Path) -> None:
    path, counted = tmp_path / ".lock", tmp_path / "count"
    counted.write_text("0")

    def count(_: int) -> None:
        with hold_lock(path, wait=60, otherwise="taken", remove=True):
            before = int(counted.read_text())
            time.sleep(0.002)
            counted.write_text(str(before + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    assert counted.read_text() == "40" and not path.exists()
