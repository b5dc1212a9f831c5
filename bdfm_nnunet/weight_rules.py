"""Rules of challenges on the data that weights may come from: a table in weight_rules.json, or a file of a user's own.

As the organisers' pages had them on the dates in the table; ask the organisers before you submit.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.source_names import by_ids, by_name, plain_source, stands_for_any

Answer = Literal["allowed", "forbidden", "unknown"]
ANSWERS: tuple[Answer, ...] = ("allowed", "forbidden", "unknown")
TABLE = Path(__file__).with_name("weight_rules.json")
LISTS = ("allowed", "unclear", "forbidden")
_PATTERNS = ({str: str}, [str])
_SHAPE = {
    "name": str,
    "title?": str,
    "rule": str,
    **{f"{name}?": _PATTERNS for name in LISTS},
    "others": str,
    "source": {"text": str, "address": str, "date": str},
    "notes?": [str],
}
_FORM = "see docs/challenges.md for the form, or edit what `bdfm rules NAME --json` prints"


@dataclass(frozen=True)
class Judgement:
    """What rules say of one source of data.

    Attributes:
        answer: "unknown" where they do not tell.
        why: the reason, without a full stop.

    Example:
        >>> find_rules("brats2026-goat").judge("oasis1")
        Judgement(answer='forbidden', why='not among the sources that these rules allow')
    """

    answer: Answer
    why: str


@dataclass(frozen=True, kw_only=True)
class WeightRules:
    """The rules of one challenge, or of one of its tracks.

    A source is looked for in `allowed`, `unclear` and `forbidden`, in this order. Names are compared without case and
    marks; `*` stands for any letters.

    Attributes:
        name: as users type it.
        title: the challenge.
        rule: what it allows, a sentence without its full stop.
        allowed: source -> why it may be used.
        unclear: source -> why nobody but the organisers can tell.
        forbidden: source -> why it may not be used, nor data that shares scans with it.
        others: answer for all other sources.
        source: `text`, `address` and `date` of where this is written.
        notes: more that a user should know; sentences without full stops.

    Example:
        >>> rules = find_rules("brats2026-met")
        >>> rules.judge("new-gliomas", overlaps=["brats2021"])
        Judgement(answer='forbidden', why='shares scans with brats2021: data of another year or task of BraTS')
        >>> rules.judge("folder-0a1b2c3d").answer, rules.judge("ixi").answer
        ('unknown', 'allowed')
    """

    name: str
    rule: str
    others: Answer
    source: Mapping[str, str]
    title: str = ""
    allowed: Mapping[str, str] = field(default_factory=dict)
    unclear: Mapping[str, str] = field(default_factory=dict)
    forbidden: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def judge(self, source: str, overlaps: Iterable[str] = ()) -> Judgement:
        """Judge a source of data.

        Args:
            source: name of a release, cohort or data set.
            overlaps: names of the releases that share scans with it.
        """
        answers: tuple[Answer, ...] = ("allowed", "unknown", "forbidden")
        for answer, patterns in zip(answers, (self.allowed, self.unclear, self.forbidden), strict=True):
            if (why := _match(source, patterns)) is not None:
                return Judgement(answer, why or f"these rules name it {answer}")
        if stands_for_any(source):
            return Judgement("unknown", "stands for any data: convert it under a name of its own with --entry")
        for other in sorted(overlaps):
            if _match(other, self.allowed) is None and (why := _match(other, self.forbidden)) is not None:
                return Judgement("forbidden", f"shares scans with {other}" + (f": {why}" if why else ""))
        among = {"allowed": "not among the sources that these rules forbid",
                 "forbidden": "not among the sources that these rules allow"}  # fmt: skip
        return Judgement(self.others, among.get(self.others, "these rules do not name it"))

    def recognise(
        self, dataset: str, ids: Iterable[str], named: Collection[str] = ()
    ) -> Iterator[tuple[str, Judgement]]:
        """Yield the sources that data without a name of its own seems to be of: ids may forbid, but nothing allows.

        Args:
            dataset: name of the data set.
            ids: of its cases and patients.
            named: sources that are known already.

        Example:
            >>> rules = find_rules("brats2026-met")
            >>> [(source, found.answer) for source, found in rules.recognise("Dataset501_X", ["BraTS2021_00001"])]
            [('brats2021', 'forbidden')]
        """
        by_id = by_ids(ids)
        for source, how in {**by_name(dataset), **by_id}.items():
            if source in named:
                continue
            found = self.judge(source)
            if found.answer == "forbidden" and source in by_id:
                yield source, Judgement("forbidden", f"{found.why}; recognised by {how}")
            else:
                yield source, Judgement("unknown", f"so it seems by {how}, but no record says so")

    @property
    def patterns(self) -> list[str]:
        """Every name and pattern in the lists."""
        return [*self.allowed, *self.unclear, *self.forbidden]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as a user's file holds them."""
        return asdict(self)

    def describe(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{self.name}: {self.title}" if self.title else self.name, f"  rule: {self.rule}"]
        for name in LISTS:
            lines += [
                f"  {name}: {source}" + (f" ({why})" if why else "") for source, why in getattr(self, name).items()
            ]
        lines += [f"  all others: {self.others}", f"  {self.told_source}"]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    @property
    def told_source(self) -> str:
        """Where this is written, in a line."""
        return "source: {text}, {address}, as of {date}".format_map(self.source)


def _match(source: str, patterns: Mapping[str, str]) -> str | None:
    """Return why a source is in a list; None if it is not."""
    name = plain_source(source)
    found = (why for pattern, why in patterns.items() if fnmatchcase(name, _plain_pattern(pattern)))
    return next(found, None)


def _plain_pattern(pattern: str) -> str:
    return "*".join(map(plain_source, pattern.split("*")))


# ----------------------------------------------------------------------------------------------------------- reading


@lru_cache(1)
def known_rules() -> dict[str, WeightRules]:
    """Return the rules that the package ships, by name.

    Example:
        >>> list(known_rules())
        ['brats2026-met', 'brats2026-ped', 'brats2026-goat', 'fomo26-methods', 'fomo26-open']
    """
    entries = read_json(TABLE, {"rules": [dict]})["rules"]
    rules = [rules_of(entry, f"{TABLE.name}, entry {number}") for number, entry in enumerate(entries)]
    return {each.name: each for each in rules}


def find_rules(name: str) -> WeightRules:
    """Return rules of the package by their name, or those of a user's JSON file.

    Args:
        name: a name, or the path of a file, which ends in `.json`.

    Raises:
        InputError: there are no such rules, or the file holds none.

    Example:
        >>> find_rules("fomo26-methods").rule
        'pre-training on FOMO300K alone; for fine-tuning nothing but the cases that the challenge gives'
    """
    if name in known_rules():
        return known_rules()[name]
    if not name.lower().endswith(".json"):
        raise InputError(
            f"there are no rules {name!r}: choose one of {', '.join(known_rules())}, or name a file of your own that "
            "ends in .json"
        )
    return rules_of(read_json(name), name)


def rules_of(content: Any, where: str) -> WeightRules:
    """Return checked rules from plain JSON types.

    Args:
        content: one table of rules.
        where: its file, for messages.

    Raises:
        InputError: it has another form, or contradicts itself.
    """
    if fault := fault_of(content, _SHAPE) or _fault_of_names(content) or _fault_of_values(content):
        raise InputError(f"{where} holds no rules on weights ({fault}): {_FORM}")
    lists: dict[str, Any] = {name: dict(_reasons(content.get(name, {}))) for name in LISTS}
    rest = {name: content[name] for name in ("name", "rule", "others", "title") if name in content}
    source = {name: content["source"][name] for name in ("text", "address", "date")}
    return WeightRules(**rest, **lists, source=source, notes=tuple(content.get("notes", ())))


def _reasons(patterns: Any) -> Iterable[tuple[str, str]]:
    return patterns.items() if isinstance(patterns, Mapping) else ((name, "") for name in patterns)


def _fault_of_names(content: Mapping[str, Any]) -> str:
    """Return a fault for a name that means nothing here: of a list that is misspelt, nothing would be forbidden."""
    known = [name.removesuffix("?") for name in _SHAPE]
    wrong = next((name for name in content if name not in known), None)
    return "" if wrong is None else f"it has {wrong!r}, which is none of {', '.join(known)}"


def _fault_of_values(content: Mapping[str, Any]) -> str:
    if content["others"] not in ANSWERS:
        return f"others is {content['others']!r}, expected one of {', '.join(ANSWERS)}"
    if not re.fullmatch(r"[\w.-]+", content["name"]):
        return f"name is {content['name']!r}, expected letters, digits, dots and hyphens"
    source = content["source"]
    try:
        date.fromisoformat(source["date"])
    except ValueError:
        return f"source.date is {source['date']!r}, expected a day such as 2026-04-27"
    if not re.match(r"https?://\S+$", source["address"]):
        return f"source.address is {source['address']!r}, expected one that begins with https://"
    return _fault_of_lists(content)


def _fault_of_lists(content: Mapping[str, Any]) -> str:
    seen: dict[str, str] = {}
    for name in LISTS:
        for pattern, why in _reasons(content.get(name, {})):
            plain = _plain_pattern(pattern)
            if not plain.strip("*") or not (pattern + why).isprintable():
                return f"{name} has {pattern!r}, expected the name of a source, with * for any letters"
            if plain in seen:
                return f"{pattern} is in {seen[plain]} and {name}"
            seen[plain] = name
    texts = [content["rule"], content.get("title", ""), content["source"]["text"], *content.get("notes", ())]
    wrong = next((text for text in texts if not text.isprintable()), None)
    return "" if wrong is None else f"{wrong!r} has characters that cannot be shown"
