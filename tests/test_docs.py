"""The documentation says what the code does."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import pytest

from bdfm_nnunet import settings, trainers

ROOT = Path(__file__).parents[1]


def _shown(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)


def _section(block: str) -> str:
    page = (ROOT / "docs" / "settings.md").read_text()
    return page.split(f"## `{block}`")[1].split("\n## ")[0]


def _described(kind: type) -> dict[str, str]:
    """What the docstrings of a class and of those it inherits from say of each attribute, on one line."""
    found = {}
    for each in kind.__mro__[:-1]:
        attributes = (inspect.getdoc(each) or "").partition("Attributes:\n")[2].split("\n\n")[0]
        for entry in re.split(r"\n(?=    \w)", attributes):
            name, _, text = entry.strip().partition(": ")
            found[name] = " ".join(text.split())
    return found


@pytest.mark.parametrize("block", settings.BLOCKS)
def test_settings_page_says_what_the_docstrings_say(block: str) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+? \| (.+) \|$", _section(block), re.M))
    described = _described(settings.BLOCKS[block])
    assert set(described) == {field.name for field in dataclasses.fields(settings.BLOCKS[block])}
    assert {name: rows[name][: len(text)] for name, text in described.items()} == described


@pytest.mark.parametrize("block", settings.BLOCKS)
def test_settings_page_has_every_setting_and_its_default(block: str) -> None:
    section = _section(block)
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.M))
    expected = {field.name: _shown(field.default) for field in dataclasses.fields(settings.BLOCKS[block])}
    assert {name: rows.get(name) for name in expected} == expected
    assert set(rows) == set(settings.ALLOWED[block])


def test_readme_names_every_trainer() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in trainers.__all__)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
