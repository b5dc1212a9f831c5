"""Check of names that become paths: of cases, plans, configurations and data sets."""

import re
from collections.abc import Sequence

from bdfm_nnunet.errors import InputError

LONGEST = 200
"""Longest name in bytes; file systems allow 255, including endings and the mark of an unfinished file."""
_FORBIDDEN = "/\\:\0"


def fault_of_name(name: object) -> str:
    """Return why something cannot be a file name; empty if it can.

    A name has no separator of any system, no control character, no dot in front and no white space around it, is
    valid Unicode and at most `LONGEST` bytes long.

    >>> fault_of_name("BraTS-GLI-00000-000")
    ''
    >>> fault_of_name("../x")
    'it begins with a dot'
    """
    if not isinstance(name, str):
        return f"it is a {type(name).__name__}, not a text"
    if not name or name != name.strip():
        return "it is empty" if not name.strip() else "it has white space around it"
    if name.startswith("."):
        return "it begins with a dot"
    if found := [letter for letter in name if letter in _FORBIDDEN or (not letter.isprintable() and letter != " ")]:
        return f"it holds {found[0]!r}"
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        return "it is not valid UTF-8"
    return f"it has {size} bytes, at most {LONGEST} are possible" if size > LONGEST else ""


def printable(text: str) -> str:
    r"""Return a text that is safe to print: control characters and invalid UTF-8 are escaped.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable_lines(text: str) -> str:
    r"""Return lines of text, each as `printable`.

    >>> printable_lines("a\x1b\nb")
    'a\\x1b\nb'
    """
    return "\n".join(map(printable, text.split("\n")))


def check_name(name: object, what: str) -> str:
    """Check a name and return it; joined to a folder, it cannot lead out of it.

    Args:
        name: name from a file, an option or a folder.
        what: description of the name in the message: which name of which file.

    Raises:
        InputError: the name cannot be a file name.
    """
    if fault := fault_of_name(name):
        shown = repr(name) if len(repr(name)) < 80 else f"{repr(name)[:80]}..."
        raise InputError(f"{what} {shown} is no usable name ({fault}): use letters, digits, hyphens and underscores")
    assert isinstance(name, str)
    return name


def file_name_of(text: str, others: Sequence[str] = ()) -> str:
    """Return a file name for a text, such as the name of a target, other than those of the texts before it.

    >>> file_name_of("time to/event", []), file_name_of("a b", ["a_b"])
    ('time_to_event', 'a_b_2')
    """
    plain = _plain(text)
    same = sum(_plain(other) == plain for other in others)
    return f"{plain}_{same + 1}" if same else plain


def _plain(text: str) -> str:
    return re.sub(r"\W+", "_", text).strip("_")[:80] or "target"
