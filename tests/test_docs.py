"""The documentation says what the code does."""

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import settings, trainers
from docs.site.setting_pages import SECTIONS

ROOT = Path(__file__).parents[1]


def _shown(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)


OUTSIDE = {"`pretraining`": {"legacy", "objectives"}}
"""Rows of a section that are no field of its class."""


def _fields(kind: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a class that are not every objective's, nor those of every fine-tuning."""
    found = {field.name: field for field in dataclasses.fields(kind)}
    inherits = issubclass(kind, settings.CropSettings) and kind is not settings.CropSettings
    common = dict(settings.CropSettings.__dataclass_fields__) if inherits else {}
    if kind is settings.SubjectSettings:
        common |= settings.WeightSettings.__dataclass_fields__
    return {name: field for name, field in found.items() if name not in common}


def _rows(section: str) -> dict[str, tuple[str, str]]:
    """Setting -> default and meaning."""
    page = (ROOT / "docs" / "settings.md").read_text()
    text = page.split(f"## {section}\n")[1].split("\n## ")[0]
    return {
        name: (default, meaning)
        for name, default, meaning in re.findall(r"^\| `(\w+)` \| ([^|]+?) \| (.+) \|$", text, re.M)
    }


def _described(kind: type) -> dict[str, str]:
    """What the docstrings of a class and of those it inherits from say of each attribute, on one line."""
    found = {}
    for each in kind.__mro__[:-1]:
        attributes = (inspect.getdoc(each) or "").partition("Attributes:\n")[2].split("\n\n")[0]
        for entry in re.split(r"\n(?=    \w)", attributes):
            name, _, text = entry.strip().partition(": ")
            found[name] = " ".join(text.split())
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_page_says_what_the_docstrings_say(section: str) -> None:
    described = _described(SECTIONS[section])
    assert set(described) == {field.name for field in dataclasses.fields(SECTIONS[section])}
    rows = _rows(section)
    for name in _fields(SECTIONS[section]):
        assert rows[name][1].startswith(described[name]), name


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_page_has_every_setting_and_its_default(section: str) -> None:
    rows = _rows(section)
    expected = {name: _shown(field.default) for name, field in _fields(SECTIONS[section]).items()}
    assert {name: rows[name][0] if name in rows else None for name in expected} == expected
    assert set(rows) - set(expected) == OUTSIDE.get(section, set())


def test_settings_page_has_every_name_that_a_block_takes() -> None:
    for block, names in settings.ALLOWED.items():
        rows = [set(_rows(section)) for section in SECTIONS if section.startswith(f"`{block}`")]
        assert set().union(*rows) == set(names), block


def test_readme_names_every_trainer() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{name}`" in readme for name in trainers.__all__)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
