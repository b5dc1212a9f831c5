"""What is installed: every module of the tree, under the names of the house."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bdfm_nnunet", "trainers", "plans", "dataset_conversion")


def _tree() -> set[str]:
    """Where each file of the tree has to lie in the wheel."""
    files = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    kept = {path.relative_to(ROOT) for path in files if path.suffix in {".py", ".typed", ".css", ".js", ".json"}}
    return {("" if path.parts[0] == "bdfm_nnunet" else "bdfm_nnunet/") + path.as_posix() for path in kept}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel of a copy of the tree, so that no left-over of an earlier build gets into it."""
    copy = tmp_path_factory.mktemp("tree")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    out = copy / "out"
    code = f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"
    out.mkdir()
    result = subprocess.run([sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_the_tree_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == _tree()


def test_wheel_carries_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    texts = {name.rpartition("/")[2]: wheel.read(name).decode() for name in wheel.namelist() if ".dist-info/" in name}
    assert "Apache License" in texts["LICENSE"]
    assert "bdfm = bdfm_nnunet.cli:main" in texts["entry_points.txt"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    (pin,) = re.findall(r"^Requires-Dist: torch(?:$|[^a-z].*)", texts["METADATA"], re.MULTILINE)
    assert "<" not in pin and "==" not in pin  # users bring their own build


def test_installed_names_are_those_of_the_house() -> None:
    import bdfm_nnunet.dataset_conversion
    import bdfm_nnunet.plans

    assert Path(bdfm_nnunet.dataset_conversion.__file__).parent.name == "dataset_conversion"
    assert Path(bdfm_nnunet.plans.__file__).parent.name == "plans"
    (command,) = entry_points(group="console_scripts", name="bdfm")
    assert command.value == "bdfm_nnunet.cli:main"


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    assert not {folder for folder in folders if not (folder / "__init__.py").exists()}


def test_constraints_name_one_version_of_what_setup_requires() -> None:
    setup = (ROOT / "setup.py").read_text()
    required = re.search(r"REQUIREMENTS = \[(.*?)\]", setup, re.DOTALL)
    assert required is not None
    names = {re.split(r"[^\w-]", text)[0].lower() for text in re.findall(r'"([^"]+)"', required.group(1))}
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all("==" in line for line in lines)
    assert names - {"setuptools"} <= {line.partition("==")[0].lower() for line in lines}


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_make_installs_first_in_one_command(target: str, tmp_path: Path) -> None:
    """On a fresh clone every target makes the environment, with torch and torchvision in one pip command."""
    result = subprocess.run(
        ["make", "--dry-run", f"VENV={tmp_path}/env", "DEMO_OUT=there", "PYTHON=python9", target],
        cwd=ROOT, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    plan = result.stdout
    assert f'"python9" -m venv "{tmp_path}/env"' in plan
    assert "pip install -c \"constraints.txt\" torch torchvision -e '.[dev]'" in plan
    work = {"demo": "bdfm demo", "test": "-m pytest", "check": "-m mypy"}
    assert plan.index("pip install") < plan.index(work[target])
    assert target != "demo" or 'bdfm demo --out "there"' in plan


def test_make_reuses_an_environment(tmp_path: Path) -> None:
    (tmp_path / ".installed").touch()
    command = ["make", "--dry-run", f"VENV={tmp_path}", "test"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip" not in result.stdout and "pytest" in result.stdout


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["make", f"VENV={tmp_path}/env", f"PYTHON={old}", "install"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "Python 3.10 or later is needed" in result.stderr
    assert not (tmp_path / "env").exists()


def test_ci_runs_the_checks_and_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert {"make check", "make test"} <= set(script.read_text().splitlines())
