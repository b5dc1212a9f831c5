"""Commands run in order or side by side, with logs, and their failures told in a sentence."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.studies.subprocesses import Step, find_program, last_line, run_steps, write_script

PYTHON = Path(sys.executable).name


def step(name, code, **environment):
    return Step(name, (PYTHON, "-c", code), environment)


def run(groups, tmp_path, **settings):
    return run_steps(groups, **{"environment": {}, "logs": tmp_path / "logs", "threads": 2, **settings})


def test_steps_run_in_order_and_leave_numbered_logs(tmp_path, monkeypatch):
    groups = [[step("write it", "open('a', 'w').write('x')")], [step("read it", "print(open('a').read() * 3)")]]
    monkeypatch.chdir(tmp_path)
    seconds = run(groups, tmp_path)
    assert list(seconds) == ["write it", "read it"] and all(value > 0 for value in seconds.values())
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["01_write_it.log", "02_read_it.log"]
    assert (tmp_path / "logs" / "02_read_it.log").read_text().splitlines()[-1] == "xxx"
    assert (tmp_path / "logs" / "01_write_it.log").read_text().startswith("$ python")


def test_steps_of_a_group_run_side_by_side_and_share_the_threads(tmp_path):
    code = (
        "import os, pathlib, time\n"
        "pathlib.Path(os.environ['MINE']).touch()\n"
        "end = time.monotonic() + 20\n"
        "while not os.path.exists(os.environ['OTHER']) and time.monotonic() < end: time.sleep(0.05)\n"
        "print(os.path.exists(os.environ['OTHER']), os.environ['OMP_NUM_THREADS'])"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    alone = step("alone", "import os; print(os.environ['OMP_NUM_THREADS'])")
    run([[step("one", code, MINE=a, OTHER=b), step("two", code, MINE=b, OTHER=a)], [alone]], tmp_path, threads=4)
    logs = [path.read_text().splitlines()[-1] for path in sorted((tmp_path / "logs").iterdir())]
    assert logs == ["True 2", "True 2", "4"]


def test_environment_of_all_and_of_one_step(tmp_path, monkeypatch):
    monkeypatch.setenv("KEPT", "kept")
    show = "import os; print(*[os.environ.get(n) for n in ('KEPT', 'SHARED', 'OWN')])"
    groups = [[step("one", show, OWN="1")], [step("two", show, SHARED="over")]]
    run(groups, tmp_path, environment={"SHARED": "all"})
    logs = [path.read_text().splitlines()[-1] for path in sorted((tmp_path / "logs").iterdir())]
    assert logs == ["kept all 1", "kept over None"]


def test_failure_names_step_code_log_and_last_line_and_stops_what_follows(tmp_path):
    bad = step("bad", "import sys; print('no such data set'); sys.exit(5)")
    after = step("after", f"open({str(tmp_path / 'after')!r}, 'w')")
    with pytest.raises(InputError, match=r"'bad' .* exit code 5, its last line is 'no such data set': read .*01_bad"):
        run([[bad], [after]], tmp_path)
    assert not (tmp_path / "after").exists()


def test_failure_stops_the_other_step_of_the_group(tmp_path):
    pid = tmp_path / "pid"
    slow = step("slow", f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    wait = (
        f"import os, sys, time\nwhile not os.path.exists({str(pid)!r}): time.sleep(0.05)\ntime.sleep(0.3)\nsys.exit(1)"
    )
    started = time.monotonic()
    with pytest.raises(InputError, match="'bad'"):
        run([[slow, step("bad", wait)]], tmp_path)
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_killed_step_names_the_signal(tmp_path):
    kill = step("kill", f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})")
    with pytest.raises(InputError, match="was ended by signal 9"):
        run([[kill]], tmp_path)


def test_missing_program_names_the_folder():
    assert Path(find_program(PYTHON)).parent == Path(sys.executable).parent
    with pytest.raises(InputError, match="holds no program bdfm-nothing: install"):
        find_program("bdfm-nothing")


def test_finished_steps_are_logged_and_the_bar_shows(tmp_path, caplog, capfd):
    with caplog.at_level(logging.INFO):
        run([[step("one", "pass")]], tmp_path)
    assert "one: done after" in caplog.text and "steps" not in capfd.readouterr().err
    run([[step("one", "pass")]], tmp_path, progress=True)
    assert "1/1 steps" in capfd.readouterr().err


def test_script_runs_the_same_commands_again(tmp_path):
    groups = [[step("one", "import os; print(os.environ['SHARED'], os.environ['OWN'])", OWN="a b")]]
    script = tmp_path / "commands.sh"
    write_script(script, groups, environment={"SHARED": "it's"}, about="two\nlines")
    text = script.read_text()
    assert "# two\n# lines\n" in text and "# one\n" in text
    done = subprocess.run(["sh", str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "it's a b\n"


def test_last_line_of_a_bar_is_its_last_state(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"start\n 10%\r 50%\r100%\r\n\n")
    assert last_line(log) == "100%"
    log.write_bytes(b"")
    assert last_line(log) == ""
    log.write_bytes(b"x" * 10_000 + b"\nend")
    assert last_line(log, tail=8) == "end"
