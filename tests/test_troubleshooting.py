"""docs/troubleshooting.md has an entry for each error that names one, with the words of the code."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError, Refusal

ROOT = Path(__file__).parents[1]
PACKAGE = ("bdfm_nnunet", "trainers", "plans", "dataset_conversion")
FEWEST_LETTERS = 12
"""Of an error whose words are made elsewhere the page has none."""


def said(node: ast.expr) -> str:
    """The words of a message, with … for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(said(part) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return "…"


def entries_of_the_code() -> dict[str, set[str]]:
    """Entry -> the words of its errors."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (path for folder in PACKAGE for path in sorted((ROOT / folder).rglob("*.py"))):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "entry=" in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("InputError", "Refusal"):
                for keyword in node.keywords:
                    assert keyword.arg == "entry" and isinstance(keyword.value, ast.Constant), path
                    found[str(keyword.value.value)].add(said(node.args[0]))
    return found


CODE = entries_of_the_code()
PAGE = dict(
    re.findall(r"^### (\S+)\n(.*?)(?=^###? |\Z)", (ROOT / "docs/troubleshooting.md").read_text("utf-8"), re.M | re.S)
)


def test_page_and_code_have_the_same_entries() -> None:
    assert set(PAGE) == set(CODE)
    assert len(CODE) >= 50


@pytest.mark.parametrize("entry", sorted(CODE))
def test_entry_has_the_words_the_cause_and_the_remedy(entry: str) -> None:
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", entry)
    expected = {words for words in CODE[entry] if sum(letter.isalpha() for letter in words) >= FEWEST_LETTERS}
    assert set(re.findall(r"^> (.+)$", PAGE[entry], re.M)) == expected
    assert "\n**Why.** " in PAGE[entry] and "\n**Do.** " in PAGE[entry]


@pytest.mark.parametrize("kind", [InputError, Refusal])
def test_entry_follows_the_sentence(kind: type[InputError]) -> None:
    assert str(kind("x is not there: give it", entry="no-such-x")) == "x is not there: give it [no-such-x]"
    assert str(kind("x is not there: give it")) == "x is not there: give it"


def test_the_command_line_shows_the_entry(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert main(["plan", "-d", "5"]) == 2
    assert capsys.readouterr().err == (
        "bdfm: error: nnUNet_raw is not set: name the folder with `export nnUNet_raw=/path/to/nnUNet_raw` first "
        "[folder-not-set]\n"
    )
