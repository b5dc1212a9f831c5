"""Print the entry of a version in CHANGELOG.md, for the notes of its release: `release_notes.py v0.2.0`.

Ends with exit code 1 and a sentence where the tag is not the version of the package, or the entry lacks its date.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSIONED = {
    "setup.py": r'version="([^"]+)"',
    "bdfm_nnunet/__init__.py": r'__version__ = "([^"]+)"',
    "CITATION.cff": r"^version: (\S+)$",
}
"""File to what finds the version in it."""


def versions(root: Path = ROOT) -> dict[str, str]:
    """Return the version that each file names."""
    found = {}
    for name, pattern in VERSIONED.items():
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = match[1] if match else "none"
    return found


def notes(tag: str, root: Path = ROOT) -> str:
    """Return the notes of a release.

    Raises:
        ValueError: the tag does not fit the files.
    """
    version = tag.removeprefix("v")
    for name, named in versions(root).items():
        if named != version:
            raise ValueError(f"{name} names version {named}, the tag is {tag}: make them the same")
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(version)}, (.+)\n+((?:.*\n)*?)(?=^## |\Z)", text, re.MULTILINE)
    if found is None or not re.fullmatch(r"\d{4}-\d{2}-\d{2}", found[1]):
        raise ValueError(f"CHANGELOG.md has no heading `## {version}, YEAR-MONTH-DAY`: date the entry of this version")
    return found[2].strip() + "\n"


if __name__ == "__main__":
    try:
        sys.stdout.write(notes(sys.argv[1]))
    except ValueError as error:
        sys.exit(str(error))
