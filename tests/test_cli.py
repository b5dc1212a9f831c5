"""The command line: what it accepts, what it hands over, how it ends."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import PLUGIN, nnunet_folder, trainer_search_path
from tests.commands.stand_ins import replaced


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bdfm_nnunet.cli import build_parser; build_parser().format_help();"
        "print(sorted({'torch', 'nnunetv2', 'numpy', 'SimpleITK'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    seconds = []
    for _ in range(3):
        before = _of_children()
        subprocess.run([sys.executable, "-m", "bdfm_nnunet.cli", "--help"], check=True, capture_output=True)
        seconds.append(_of_children() - before)
    assert min(seconds) < 1


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"bdfm-nnunet {version('bdfm-nnunet')}\n"


def _of_children() -> float:
    """Seconds of the processor for ended child processes: what else is at work on the machine does not count."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.parametrize(
    "command",
    [
        "releases",
        "convert",
        "cohort",
        "synthesise",
        "splits",
        "exposure",
        "rules",
        "verify",
        "submit",
        "plan",
        "weights",
        "evaluate",
        "postprocess tune",
        "postprocess apply",
        "container",
        "container check",
        "demo",
        "env",
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"bdfm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["convert", "brats2023-gli", "somewhere"],
        ["convert", "brats2023-gli", "somewhere", "-d", "0"],
        ["convert", "brats2023-gli", "somewhere", "-d", "1", "--workers", "0"],
        ["convert", "brats2023-gli", "somewhere", "-d", "1", "--link", "soft"],
        ["convert", "folder", "somewhere", "-d", "1", "--image", "t1"],
        ["convert", "folder", "somewhere", "-d", "1", "--channels", "a,,b"],
        ["splits", "-d", "1", "--fractions", "0,50"],
        ["splits", "-d", "1", "--fractions", "half"],
        ["evaluate", "a", "b", "--release", "brats2021", "-o", "c.json", "--metrics", "lesionwise"],
        ["postprocess"],
        ["cohort", "-d", "1"],
        ["plan", "-d", "5", "--gpu-memory", "-2"],
        ["plan", "-d", "5", "--gpu-memory", "much"],
        ["plan", "-d", "5", "--network", "vgg"],
        ["plan", "-d", "5", "--calibrate", "0"],
        ["plan", "-d", "5", "--calibrate", "--device", "tpu"],
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["releases", "brats2023-gly"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bdfm: error: ") and error.count("\n") == 1 and "brats2023-gli" in error


def test_bad_input_of_any_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["releases", "two\nlines \x1b[31m"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "\x1b" not in error


def test_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupt)
    assert cli.main(["env"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_env_prints_a_line_that_a_shell_understands() -> None:
    odd = '/odd "name" $HOME'
    environ = {**os.environ, "nnUNet_extTrainer": odd, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = f'eval "$({sys.executable} -m bdfm_nnunet.cli env)" && printf %s "$nnUNet_extTrainer"'
    result = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert result.stdout == f"{PLUGIN}{os.pathsep}{odd}"


def test_search_path_holds_our_folder_once() -> None:
    assert trainer_search_path({}) == str(PLUGIN)
    twice = {"nnUNet_extTrainer": os.pathsep.join(["/mine", str(PLUGIN)])}
    assert trainer_search_path(twice) == os.pathsep.join([str(PLUGIN), "/mine"])
    assert [path.name for path in PLUGIN.glob("*.py")].count("bdfm_nnunet_trainers.py") == 1


def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", " ")
    with pytest.raises(InputError, match="export nnUNet_raw=/path"):
        nnunet_folder("nnUNet_raw")


@pytest.mark.parametrize(
    "arguments", [["plan", "-d", "5"], ["weights", "x", "-d", "5", "-p", "P", "-o", "y"], ["train", "5", "2d", "0"]]
)
def test_commands_need_their_folders(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere")
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert cli.main(arguments) == 2
    assert "export nnUNet_preprocessed=" in capsys.readouterr().err


def test_demo_hands_over_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = replaced(monkeypatch, "bdfm_nnunet.studies.demonstration", "run_demo")
    assert cli.main(["demo", "--out", "there"]) == 0
    assert calls == [((), {"out": Path("there")})]
