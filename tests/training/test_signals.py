import os
import signal

import pytest

from bdfm_nnunet.training import signals
from bdfm_nnunet.training.signals import (
    CTRL_C,
    SAVE,
    STOP,
    TIME_UP,
    Clock,
    StopSignals,
    TrainingPaused,
    ending_at_signals,
)


@pytest.mark.parametrize(("number", "wish"), [(signal.SIGTERM, STOP), (signal.SIGUSR1, STOP), (signal.SIGINT, CTRL_C)])
def test_signals_are_remembered_and_given_back(number: signal.Signals, wish: str) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert not stop.wanted
        os.kill(os.getpid(), number)
        assert stop.wanted == {wish}
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(times))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with pytest.raises(KeyboardInterrupt), StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # a terminal and torchrun may send it twice
        assert stop.wanted == {CTRL_C}
        os.kill(os.getpid(), signal.SIGINT)


def test_loaders_that_were_forked_ignore_the_signals() -> None:
    with StopSignals() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(7 if stop.wanted else 0)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_signals_end_a_block_at_once(number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    before = signal.getsignal(number)
    reached = []
    with pytest.raises(TrainingPaused) as paused, ending_at_signals("begin anew"):
        os.kill(os.getpid(), number)
        reached.append(1)
    assert (paused.value.code, paused.value.message, reached) == (code, "begin anew", [])
    assert signal.getsignal(number) is before


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: time[0])
    return time


def test_checkpoints_are_due_after_the_interval(now: list[float]) -> None:
    clock = Clock(interval_minutes=1, max_hours=None)
    now[0] += 59
    assert clock.tick() == set()
    now[0] += 1
    assert clock.tick() == {SAVE} == clock.tick()
    clock.saved(2)
    assert clock.tick() == set()
    assert Clock(interval_minutes=None, max_hours=None).tick() == set()


def test_the_limit_leaves_time_for_a_step_and_the_checkpoint(now: list[float]) -> None:
    clock = Clock(interval_minutes=None, max_hours=0.1, started=80)  # until 440
    for _ in range(20):
        now[0] += 10
        assert clock.tick() == set()  # until 300
    now[0] += 10
    clock.saved(50)
    assert clock.tick() == {TIME_UP}  # 310 + 3 * 10 + 2 * 50


@pytest.mark.parametrize(
    ("reasons", "run", "code"), [({STOP}, None, 75), ({TIME_UP, CTRL_C}, None, 130), ({TIME_UP}, "job", 0)]
)
def test_exit_codes(reasons: set[str], run: str | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if run:  # torchrun would take any other code for a failure and start anew
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", run)
    error = TrainingPaused("paused", reasons)
    assert error.code == code and error.message == "paused"
