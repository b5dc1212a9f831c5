"""What others print goes to a file."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.output_log import LAST_LINES, output_to

PROGRAM = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
from bdfm_nnunet.output_log import output_to
from bdfm_nnunet.cli import _set_up_messages
_set_up_messages()
ours = logging.getLogger("bdfm_nnunet.plans")
with output_to(Path(sys.argv[1])):
    print("printed")
    os.write(1, b"by a library in C\\n")
    os.write(2, b"to standard error\\n")
    subprocess.run([sys.executable, "-c", "print('of a worker')"])
    warnings.warn("a warning", FutureWarning)
    logging.getLogger().info("copying a to b")
    ours.info("told by us")
    print("bar", file=sys.stderr)
print("result")
"""


def test_only_what_is_ours_reaches_the_terminal(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "a.log")], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "result\n", "told by us\n")
    log = (tmp_path / "a.log").read_text()
    for line in ("printed", "by a library in C", "to standard error", "of a worker", "FutureWarning: a warning", "bar"):
        assert line in log
    assert "told by us" not in log


def test_after_an_error_the_last_lines_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(InputError, match="broken"), output_to(tmp_path / "a.log"):
        for number in range(20):
            sys.stdout.write(f"line {number}\n\n")
        raise InputError("broken")
    (message,) = caplog.messages
    assert message.splitlines()[0] == f"the last lines of {tmp_path / 'a.log'}:"
    assert message.splitlines()[1:] == [f"line {number}" for number in range(20 - LAST_LINES, 20)]


def test_everything_is_as_before_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr, list(logging.getLogger().handlers)
    with output_to(tmp_path / "a.log"):
        sys.stdout.write("inside\n")
    sys.stdout.write("outside\n")
    assert before == (sys.stdout, sys.stderr, list(logging.getLogger().handlers))
    assert capsys.readouterr().out == "outside\n"


def test_nothing_printed_leaves_no_file(tmp_path: Path) -> None:
    with output_to(tmp_path / "a.log"):
        logging.getLogger("bdfm_nnunet.x").info("ours")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write .*name a folder"), output_to(tmp_path / "file" / "a.log"):
        pass
