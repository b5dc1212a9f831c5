"""The code that runs: digest of the package's files, and the commit where it is known."""

import hashlib
import json
import re
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import bdfm_nnunet

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_ROOT_FOLDERS = ("trainers", "plans", "dataset_conversion")
"""Parts of the package that lie beside it in a checkout."""


@lru_cache(1)
def code_sha256() -> str:
    """Return the SHA-256 of the package's Python files, by their names: equal for a checkout and its wheel.

    Example:
        >>> len(code_sha256())
        64
    """
    folders = {"": Path(next(iter(bdfm_nnunet.__path__)))}
    for name in _ROOT_FOLDERS:
        spec = find_spec(f"bdfm_nnunet.{name}")
        folders |= {f"{name}/": Path(place) for place in (spec and spec.submodule_search_locations) or ()}
    files = {f"{name}{path.relative_to(top).as_posix()}": path for name, top in folders.items() for path in _files(top)}
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if path.is_file()]


@lru_cache(1)
def commit() -> str | None:
    """Return the commit that pip has installed, or that the checkout around this package is at; None if unknown.

    Example:
        >>> commit() is None or len(commit()) in (40, 64)
        True
    """
    with suppress(PackageNotFoundError, OSError, ValueError, TypeError, AttributeError):
        told = json.loads(distribution("bdfm-nnunet").read_text("direct_url.json") or "{}")
        found = str(told.get("vcs_info", {}).get("commit_id"))
        if _COMMIT.fullmatch(found):
            return found
    return commit_of_checkout(Path(next(iter(bdfm_nnunet.__path__))).parent)


def commit_of_checkout(folder: Path) -> str | None:
    """Return the commit that git's own files name as checked out in a folder; git itself is not started.

    Example:
        >>> commit_of_checkout(Path(".")) is None
        True
    """
    if not (folder / "setup.py").is_file():
        return None  # a repository around an installed package is another one
    with suppress(OSError, UnicodeDecodeError):
        git = folder / ".git"
        if git.is_file():  # a second working tree
            git = folder / git.read_text().strip().removeprefix("gitdir: ")
        head = (git / "HEAD").read_text().strip()
        if _COMMIT.fullmatch(head):
            return head
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        return _of_branch(head.removeprefix("ref: "), (git, shared))
    return None


def _of_branch(name: str, places: tuple[Path, ...]) -> str | None:
    for place in places:
        if (place / name).is_file() and _COMMIT.fullmatch(found := (place / name).read_text().strip()):
            return found
    packed = places[-1] / "packed-refs"
    lines = packed.read_text().splitlines() if packed.is_file() else []
    found = next((line.split()[0] for line in lines if line.endswith(f" {name}")), "")
    return found if _COMMIT.fullmatch(found) else None
