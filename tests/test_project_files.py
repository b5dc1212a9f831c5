"""Files for a public host and for contributors say what the project does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
YAML = [".pre-commit-config.yaml", *(str(path.relative_to(ROOT)) for path in (ROOT / ".github").rglob("*.yml"))]


def _read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def _steps(workflow: str) -> list[dict[str, Any]]:
    return [step for job in _read(f".github/workflows/{workflow}")["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", YAML)
def test_files_are_yaml(name: str) -> None:
    assert isinstance(_read(name), dict)


def test_tests_run_under_every_python_that_is_promised() -> None:
    setup = (ROOT / "setup.py").read_text()
    assert 'python_requires=">=3.10"' in setup and "range(10, 14)" in setup
    assert _read(".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["python"] == PYTHONS
    assert 'target-version = "py310"' in (ROOT / "pyproject.toml").read_text()
    assert "Python 3.10 to 3.13" in (ROOT / "docs/install.md").read_text()


def test_workflows_make_what_the_makefile_has() -> None:
    targets = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {
        word for step in _steps("tests.yml") for word in re.findall(r"make PYTHON=python (\w+)", step.get("run", ""))
    }
    assert wanted == {"check", "test", "docs"} and wanted <= targets


@pytest.mark.parametrize("workflow", ["tests.yml", "release.yml"])
def test_workflows_may_do_no_more_than_they_must(workflow: str) -> None:
    content = _read(f".github/workflows/{workflow}")
    assert content["permissions"] == {"contents": "read" if workflow == "tests.yml" else "write"}
    assert {step["uses"].split("/")[0] for step in _steps(workflow) if "uses" in step} == {"actions"}
    # what a stranger writes into a title or a branch's name is no part of a command
    assert not [step for step in _steps(workflow) if "${{" in step.get("run", "")]


def test_hooks_take_the_ruff_that_is_tested() -> None:
    (pinned,) = re.findall(r"^(ruff==\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    hooks = {
        hook["id"]: hook for repository in _read(".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]
    }
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [pinned]


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_issue_forms_ask_for_something(name: str) -> None:
    form = _read(f".github/ISSUE_TEMPLATE/{name}")
    assert form["name"] and form["description"]
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    assert asked[0]["validations"]["required"] and len({part["id"] for part in asked}) == len(asked)
    assert all(part["attributes"]["label"] for part in asked)


@pytest.fixture(scope="module")
def releasing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_notes", ROOT / ".github/release_notes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_files_name_one_version(releasing: ModuleType) -> None:
    assert len(set(releasing.versions().values())) == 1
    assert re.search(rf"^## {re.escape(releasing.versions()['setup.py'])}, ", (ROOT / "CHANGELOG.md").read_text(), re.M)


def _project(root: Path, entry: str) -> Path:
    (root / "bdfm_nnunet").mkdir()
    (root / "setup.py").write_text('setup(version="0.2.0")')
    (root / "bdfm_nnunet/__init__.py").write_text('__version__ = "0.2.0"\n')
    (root / "CITATION.cff").write_text("version: 0.2.0\n")
    (root / "CHANGELOG.md").write_text(f"# Changes\n\n## 0.2.0, {entry}\n\n- new\n\n## 0.1.0, 2029-01-01\n\n- old\n")
    return root


def test_notes_of_a_release_are_its_entry(releasing: ModuleType, tmp_path: Path) -> None:
    assert releasing.notes("v0.2.0", _project(tmp_path, "2030-01-31")) == "- new\n"


def test_a_tag_that_does_not_fit_is_refused(releasing: ModuleType, tmp_path: Path) -> None:
    root = _project(tmp_path, "not released yet")
    with pytest.raises(ValueError, match="date the entry of this version"):
        releasing.notes("v0.2.0", root)
    with pytest.raises(ValueError, match=r"setup\.py names version 0\.2\.0, the tag is v0\.3\.0"):
        releasing.notes("v0.3.0", root)


def test_the_guide_for_contributors_names_what_is_there() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`((?:tests|\.github|bdfm_nnunet)/[\w./-]+\.(?:py|yml))`", guide):
        assert (ROOT / name).exists() or name == "bdfm_nnunet/losses/x.py", name
    targets = set(re.findall(r"`make (?:\w+=\S+ )*([\w-]+)`", guide))
    makefile = (ROOT / "Makefile").read_text()
    assert targets and all(re.search(rf"^(?:[\w-]+ )*{target}(?: [\w-]+)*:", makefile, re.M) for target in targets)
