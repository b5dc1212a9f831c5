"""The harness measures what it says, and writes results that programs and people can read."""

import json
import sys
from pathlib import Path

import pytest

import harness
from harness import Result, Served, Spread, Table, Times, alternate, markdown, options, parse, peak_memory, prose


def test_arms_take_turns_and_warm_up_is_not_timed() -> None:
    calls: list[str] = []
    arms = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = alternate(arms, rounds=2, warmup=1, before=lambda: calls.append("-"))
    assert "".join(calls) == "-a-b" * 3
    assert {name: len(values) for name, values in times.seconds.items()} == {"a": 2, "b": 2}


def test_only_the_arm_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

    def lasting(seconds: float) -> harness.Arm:
        return lambda: now.__setitem__(0, now[0] + seconds)

    times = alternate({"fast": lasting(1), "slow": lasting(4)}, rounds=3, before=lasting(100))
    assert times.seconds == {"fast": [1, 1, 1], "slow": [4, 4, 4]}


def test_another_clock() -> None:
    ticks = iter(range(100))
    times = alternate({"arm": lambda: None}, rounds=2, warmup=0, clock=lambda: float(next(ticks) ** 2))
    assert times.seconds == {"arm": [1.0, 5.0]}


def test_spread_and_speedup_are_taken_over_the_rounds() -> None:
    times = Times({"fast": [1.0, 2.0, 1.0], "slow": [10.0, 10.0, 30.0]})
    assert times.of("slow") == Spread(10, 10, 30)
    assert times.speedup("fast", "slow") == Spread(10, 5, 30)
    assert str(times.speedup("fast", "slow")) == "10 (5 to 30)"
    assert str(Spread.of([2.5])) == "2.5"


def test_markdown_has_columns_of_even_width() -> None:
    table = Table("", ["arm", "s"], [["a longer name", "1"], ["b", "1234"]])
    assert markdown(table).splitlines() == [
        "| arm           | s    |",
        "|---------------|------|",
        "| a longer name | 1    |",
        "| b             | 1234 |",
    ]


def test_a_served_arm_runs_when_it_is_asked_to_and_reports_at_the_end(tmp_path: Path) -> None:
    folder = Path(harness.__file__).parent
    script, log = tmp_path / "arm.py", tmp_path / "log"
    script.write_text(
        f"import json, sys; sys.path.insert(0, {str(folder)!r})\n"
        "from harness import serve\n"
        "peak = serve(lambda: open(sys.argv[1], 'a').write('x'))\n"
        "print(json.dumps({'peak': peak}))\n"
    )
    arm = Served(script, str(log))
    assert not log.exists()
    arm()
    arm()
    assert log.read_text() == "xx"
    assert arm.close()["peak"] > 1 << 20
    script.write_text("raise SystemExit(3)")
    with pytest.raises(RuntimeError, match="ended with 3"):
        Served(script)


def test_peak_memory_of_a_served_arm_holds_what_it_allocated(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(harness.__file__).parent)!r})\n"
        "from harness import peak_memory, serve\nbefore = peak_memory()\n"
        "print(serve(lambda: len(b'1' * (100 << 20))) - before)\n"
    )
    arm = Served(script)
    arm()
    # the kernel counts pages with a slack of some dozens
    assert 99 << 20 <= arm.close() < 110 << 20
    assert peak_memory() > 10 << 20


def test_quick_changes_defaults_and_options_still_win(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(*given: str) -> tuple[int, int, bool]:
        monkeypatch.setattr(sys, "argv", ["script.py", *given])
        parser = options("what it is", rounds=5)
        parser.add_argument("--size", type=int, default=96)
        found = parse(parser, quick={"size": 16, "rounds": 1})
        return found.size, found.rounds, found.quick

    assert settings() == (96, 5, False)
    assert settings("--quick") == (16, 1, True)
    assert settings("--quick", "--size", "32", "--rounds", "2") == (32, 2, True)


def test_about_is_the_docstring_without_its_command() -> None:
    assert prose("Title.\n\nMore:\n\n- a point\n  goes on\n\n    python script.py [--quick]\n") == (
        "Title.\n\nMore:\n\n- a point\n  goes on"
    )


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(harness, "QUICK_RESULTS", tmp_path / "quick")
    monkeypatch.setattr(sys, "argv", ["/somewhere/step.py", "--size", "8 8", "--json", "x.json"])
    return tmp_path


def test_a_result_says_how_it_was_made(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = Times({"a": [1.0, 2.0]})
    table = Table("Times", ["arm", "s"], [["a", "1.5"]])
    result = Result("Step", "About.", {"size": 8, "json": Path("x.json")}, ("torch", "no-such-package"), [table])
    result.goals.append(("twice as fast", "1.4", False))
    result.raw = {"seconds": times, "ratio": times.of("a")}
    path = result.write()
    assert path == folders / "results" / "step.json"
    content = json.loads(path.read_text())
    assert content["command"] == "python benchmarks/step.py --size '8 8'"
    assert content["raw"] == {"seconds": {"a": [1, 2]}, "ratio": {"median": 1.5, "low": 1, "high": 2}}
    assert content["tables"] == [{"title": "Times", "columns": ["arm", "s"], "rows": [["a", "1.5"]], "note": ""}]
    assert content["settings"] == {"size": 8}, "where something lies says nothing of what was measured"
    assert set(content["versions"]) == {"python", "torch"}
    assert {"processor", "processors", "memory_gib", "system"} <= set(content["machine"])
    out = capsys.readouterr().out
    assert "missed: twice as fast: 1.4" in out and "| a   | 1.5 |" in out


def test_a_quick_result_replaces_no_reported_one(folders: Path) -> None:
    assert Result("Step", "", {"quick": True}).write() == folders / "quick" / "step.json"
    assert Result("Step", "", {"quick": True}).write(folders / "mine.json") == folders / "mine.json"
    assert not (folders / "results").exists()


def test_a_figure_lies_beside_its_result(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Figure:
        def savefig(self, path: Path, dpi: int) -> None:
            path.write_text("drawn")

    monkeypatch.setattr(harness, "FIGURES", folders / "docs")
    result = Result("Step", "", {})
    assert result.add_figure(Figure(), "a.png", "What it shows.") == folders / "docs" / "a.png"
    assert result.figures == [("a.png", "What it shows.")]
    quick = Result("Step", "", {"quick": True}).add_figure(Figure(), "a.png", "")
    assert quick == folders / "quick" / "figures" / "a.png"
    mine = Result("Step", "", {"quick": True, "json": folders / "mine.json"}).add_figure(Figure(), "a.png", "")
    assert mine == folders / "a.png" and mine.read_text() == "drawn"
