"""Form that keeps the house readable: unique names, short files and functions, nothing vague, no wildcard imports."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ("bdfm_nnunet", "trainers", "plans", "dataset_conversion")
FILES = sorted(path for folder in PACKAGE for path in (ROOT / folder).rglob("*.py"))
ALL_FILES = [*FILES, *sorted(path for folder in ("benchmarks", "tests") for path in (ROOT / folder).rglob("*.py"))]
LONGEST_FILE, LONG_FUNCTION, LONG_FUNCTIONS = 400, 40, 0.02
VAGUE = {"utils", "helpers", "misc", "common"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def same_names(paths: list[Path]) -> list[list[Path]]:
    """Modules and packages that share a base name, `__init__` aside; a package counts as its folder."""
    named: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        place = path.parent if path.stem == "__init__" else path
        named[place.stem].append(place)
    return [places for places in named.values() if len(places) > 1]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of every function and method of a file, from `def` to its end, docstring and all."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Function):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def stars(path: Path) -> list[int]:
    """Lines of the wildcard imports of a file."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [n.lineno for n in nodes if isinstance(n, ast.ImportFrom) and any(name.name == "*" for name in n.names)]


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_two_modules_have_one_name() -> None:
    assert not same_names(FILES)


def test_no_file_is_long() -> None:
    assert not {str(path.relative_to(ROOT)): lines(path) for path in ALL_FILES if lines(path) > LONGEST_FILE}


def test_few_functions_are_long() -> None:
    found = [(count, f"{path.relative_to(ROOT)}: {name}") for path in FILES for name, count in functions(path)]
    long = sorted((each for each in found if each[0] > LONG_FUNCTION), reverse=True)
    assert len(long) <= LONG_FUNCTIONS * len(found), f"{len(long)} of {len(found)} are long, above all {long[:5]}"


@pytest.mark.parametrize("what", ["wildcard imports", "vague names"])
def test_nothing_in_the_house_has(what: str) -> None:
    guilty = (lambda path: path.stem in VAGUE) if what == "vague names" else stars
    assert not [path for path in ALL_FILES if guilty(path)]


def test_the_rules_find_what_breaks_them(tmp_path: Path) -> None:
    for name in ("a/__init__.py", "a/b.py", "c/a.py", "c/__init__.py", "c/b/__init__.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def long():\n    '''Text.'''\n\n    return 1\n\n\nfrom os import *\nfrom sys import path\n")
    found = same_names(sorted(tmp_path.rglob("*.py")))
    assert [{place.relative_to(tmp_path).as_posix() for place in places} for places in found] == [
        {"a", "c/a.py"}, {"a/b.py", "c/b"},
    ]  # fmt: skip
    assert list(functions(tmp_path / "a/b.py")) == [("long", 4)]
    assert stars(tmp_path / "a/b.py") == [7] and lines(tmp_path / "a/b.py") == 8
