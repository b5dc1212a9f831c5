"""Names that become paths: of cases, plans, configurations and data sets, whoever wrote them."""

from bdfm_nnunet.errors import InputError

LONGEST = 200
"""Bytes of a name; endings and the mark of an unfinished file are added to it, and file systems take 255."""
_FORBIDDEN = "/\\:\0"


def fault_of_name(name: object) -> str:
    """Return why something cannot be the name of a file; empty where it can.

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
    r"""Return a text of any origin as a terminal can show it: control characters and what is no UTF-8 become escapes.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def check_name(name: object, what: str) -> str:
    """Return the name, which can be joined to a folder without leaving it.

    Args:
        name: from a file, an option or a folder.
        what: for the sentence: which name of which file.

    Raises:
        InputError: it cannot be the name of a file.
    """
    if fault := fault_of_name(name):
        shown = repr(name) if len(repr(name)) < 80 else f"{repr(name)[:80]}..."
        raise InputError(f"{what} {shown} is no usable name ({fault}): use letters, digits, hyphens and underscores")
    assert isinstance(name, str)
    return name
