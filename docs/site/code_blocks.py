"""Blocks of code in Markdown pages, and the `bdfm` commands in them."""

import re
import shlex
from collections.abc import Iterator

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.M | re.S)
_INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.M)
_INLINE = re.compile(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")
_SHELL = {"", "bash", "sh", "console"}
_ENDS = {"|", ">", ">>", "&&", "||", "<", "&"}


def blocks(text: str, languages: set[str]) -> list[str]:
    """Return the fenced blocks in some languages, "" for those that name none."""
    return [body for _, language, body in _FENCE.findall(text) if language in languages]


def commands(text: str) -> list[list[str]]:
    r"""Return the words after `bdfm` of each command in the blocks of a page.

    Example:
        >>> commands("```bash\nexport A=1; bdfm plan -d 5 --variant x  # a comment\n```\n")
        [['plan', '-d', '5', '--variant', 'x']]
    """
    plain = _FENCE.sub("", text)
    shown = [*blocks(text, _SHELL), *(match[0] for match in _INDENTED.finditer(plain))]
    lines = "\n".join(shown).replace("\\\n", " ").splitlines()
    return [words for line in lines for words in _of_line(line)]


def inline_commands(text: str) -> list[list[str]]:
    """Return the words after `bdfm` of each command between backticks."""
    found = (" ".join(code.split()) for code in _INLINE.findall(_FENCE.sub("", text)))
    return [code.split()[1:] for code in found if code.startswith("bdfm ") and len(code.split()) > 1]


def _of_line(line: str) -> Iterator[list[str]]:
    if not re.search(r"(^|[\s;(])bdfm ", line):
        return
    try:
        words = shlex.split(re.sub(r"\[(--?\w[^\]]*)\]", r"\1", line), comments=True)
    except ValueError:
        return  # a line of prose
    while "bdfm" in words:
        words = words[words.index("bdfm") + 1 :]
        end = next((at for at, word in enumerate(words) if word in _ENDS or word.endswith(";")), len(words))
        last = [words[end][:-1]] if end < len(words) and words[end] not in _ENDS else []
        yield [*words[:end], *filter(None, last)]
        words = words[end:]
