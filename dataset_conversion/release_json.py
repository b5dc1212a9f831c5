"""Table entries by users: read from JSON and checked."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from bdfm_nnunet.dataset_conversion.path_patterns import CASE, path_pattern
from bdfm_nnunet.dataset_conversion.release import LABEL, MASK, Release, Repair, RunRules, Source, Table
from bdfm_nnunet.errors import InputError

Part = TypeVar("Part", Release, Source, Repair, Table, RunRules)


def entry_from_dict(content: Any) -> Release:
    """Return the entry that `Release.as_dict` wrote, also as the only one of a list, perhaps changed by hand.

    Raises:
        InputError: names that an entry does not have, values of another kind, or what `check_entry` refuses.
    """
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    release = _build(Release, content, "the entry")
    check_entry(release)
    return release


# ------------------------------------------------------------------------------------------------- plain JSON types


def _build(kind: type[Part], content: Any, where: str) -> Part:
    """Build a part of an entry from its table of names and values."""
    if not isinstance(content, Mapping):
        raise InputError(f"{where} must be a table of names and values: see `bdfm releases NAME --json` for examples")
    known = {field.name: field for field in fields(kind)}
    for name in content:
        if name not in known:
            raise InputError(f"{where} has {name!r}, which is none of its names: use {', '.join(known)}")
    missing = [
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING and name not in content
    ]
    if missing:
        raise InputError(f"{where} lacks {' and '.join(missing)}: add what `bdfm releases NAME --json` shows there")
    return kind(**{name: _value(name, value, f"{name} of {where}") for name, value in content.items()})


def _value(name: str, value: Any, where: str) -> Any:
    try:
        return _READERS.get(name, _text)(value, where)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{where} cannot be {value!r}: see `bdfm releases NAME --json` for its form") from None


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    if isinstance(value, (bool, float)):
        raise TypeError
    return int(value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str):
        raise TypeError
    return tuple(_text(item, where) for item in value)


def _table_of(key: Callable[[Any], Any], item: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: {key(name): item(content, f"{name} in {where}") for name, content in value.items()}


def _several(kind: type[Any]) -> Callable[[Any, str], Any]:
    return lambda value, where: tuple(_build(kind, item, f"an item of {where}") for item in value)


def _numbers(kind: Callable[[Any], Any], *, count: int | None = None) -> Callable[[Any, str], Any]:
    def read(value: Any, where: str) -> Any:
        if value is None and count is not None:
            return None
        numbers = tuple(kind(item) for item in value)
        if count not in (None, len(numbers)):
            raise ValueError
        return numbers

    return read


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _source(value: Any, where: str) -> Source:
    return _build(Source, value, where)


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "channels": _table_of(str, _source),
    "extra_channels": _table_of(str, _source),
    "masks": _table_of(str, _source),
    "label": _several(Source),
    "labels": _table_of(int, _text),
    "label_map": _table_of(int, lambda value, where: _whole(value)),
    "regions": _table_of(str, _numbers(_whole)),
    "scored_regions": _table_of(str, _numbers(_whole)),
    "regions_class_order": _numbers(_whole),
    "grid": _numbers(_whole, count=3),
    "spacing": _numbers(float, count=3),
    "origin": _numbers(float, count=3),
    "repairs": _several(Repair),
    "tables": _several(Table),
    "aliases": lambda value, where: (
        _table_of(str, _text)(value, where) if isinstance(value, Mapping) else _texts(value, where)
    ),
    "overlaps": _texts,
    "notes": _texts,
    "volume": lambda value, where: None if value is None else _whole(value),
    "files": _table_of(str, _text),
    "values": _table_of(int, lambda value, where: _whole(value)),
    "missing": _texts,
    "plain": _truth,
    "by_entities": _truth,
    "id": _texts,
    "site": _texts,
    "family": _texts,
    "runs": lambda value, where: None if value is None else _build(RunRules, value, where),
    "confounds": _texts,
    "template": _truth,
}


# ------------------------------------------------------------------------------------------------------------ sense


def check_entry(release: Release) -> None:
    """Refuse an entry that cannot work.

    Raises:
        InputError: a bad expression, a path that does not tell the case, no channel, a label map that is not
            one-to-one or leaves gaps, or regions that nnU-Net could not train on or paint.
    """
    for problem in (*_problems_of_paths(release), *_problems_of_labels(release), *_problems_of_regions(release)):
        raise InputError(f"the entry {release.name} cannot be used: {problem}")


def _problems_of_paths(release: Release) -> Iterator[str]:
    if not release.channels:
        yield "it has no channels; name one or more"
    if release.runs and len(release.channels) > 1:
        yield "a release of 4-D runs has one channel; put further ones into extra_channels"
    for name in (*release.channels, *release.extra_channels):
        if name == LABEL or name.startswith(MASK):
            yield f"a channel cannot be called {name}; choose another name"
        if not name.strip() or name != name.strip() or not name.isprintable():
            yield f"a channel cannot be called {name!r}; use letters, digits, hyphens and underscores"
    needed = set(re.findall(r"\{(\w+)\}", release.case_name))
    for path in _paths(release):
        groups = set(path_pattern(path, release.case_pattern).groupindex)
        if not groups & needed:
            yield f"the path {path!r} does not tell the case; put {CASE} (or the groups of case_name) into it"
    for pattern in _expressions(release):
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{pattern!r} is no regular expression ({error}); correct it"
            return
    if not re.compile(release.patient_pattern).groups:
        yield "patient_pattern has no group; put the part that names the patient in parentheses"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", release.dataset_name):
        yield f"dataset_name {release.dataset_name!r} is no good for a folder of nnU-Net; use letters and digits"


def _paths(release: Release) -> list[str]:
    alternatives = [*release.sources().values(), tuple(release.extra_channels.values())]
    own = [source.path for sources in alternatives for source in sources]
    own += release.runs.confounds if release.runs else ()
    return [*own, *(path for repair in release.repairs for path in repair.files.values())]


def _expressions(release: Release) -> list[str]:
    single = [release.patient_pattern, release.session_pattern, release.site_pattern, release.unlabelled_part]
    repairs = [repair.case for repair in release.repairs]
    tables = [pattern for table in release.tables for pattern in (table.path, table.alias_pattern)]
    tasks = [release.runs.task_pattern] if release.runs else []
    return [*single, release.replacements, *repairs, *tables, *tasks]


def _problems_of_labels(release: Release) -> Iterator[str]:
    if release.label and release.masks:
        yield "it has a label and masks; leave out one of them"
    if release.label and not release.labels:
        yield "it has a label file but no labels; name the values and their meaning"
    for value in release.label_map:
        if value not in release.labels:
            yield f"label_map maps {value}, which is none of its labels {sorted(release.labels)}"
    targets = sorted(release.target_of(value) for value in release.labels)
    if len(set(targets)) < len(targets):
        yield f"label_map is not one-to-one: the labels become {targets}"
    elif targets != list(range(1, len(targets) + 1)):
        yield f"the labels become {targets}, but nnU-Net wants 1, 2, 3 ... without gaps; say so in label_map"
    roles = {LABEL, *release.channels, *release.extra_channels, *(MASK + name for name in release.masks)}
    for repair in release.repairs:
        for role in (*repair.files, *repair.missing):
            if role not in roles:
                yield f"a repair names {role!r}, which is none of {', '.join(sorted(roles))}"


def _problems_of_regions(release: Release) -> Iterator[str]:
    known = values_of(release)
    if release.has_labels and not release.regions:
        yield "it has labels but no regions; name one for each label"
    for name, values in (*release.regions.items(), *release.scored_regions.items()):
        if not values or not set(values) <= known:
            yield f"region {name} has values {list(values)}, but those for nnU-Net are {sorted(known)}"
    order = release.regions_class_order
    if not order:
        for name, values in release.regions.items():
            if len(values) != 1:
                yield f"region {name} has several values; give regions_class_order, so that they can be painted"
    elif len(order) != len(release.regions) or not set(order) <= known:
        yield f"regions_class_order {list(order)} must have one of {sorted(known)} for each of the regions"
    for value in known if release.labels else ():
        if painted(release, value) != value:
            yield f"value {value} would be painted as {painted(release, value)}; change regions or regions_class_order"


def values_of(release: Release) -> set[int]:
    """Return the values that nnU-Net sees, without background."""
    if release.masks:
        return set(range(1, 2 ** len(release.masks)))
    return {release.target_of(value) for value in release.labels}


def painted(release: Release, value: int) -> int:
    """Return what nnU-Net paints where it finds exactly the regions that hold `value`."""
    order = release.regions_class_order or tuple(values[0] for values in release.regions.values() if values)
    result = 0
    for values, colour in zip(release.regions.values(), order, strict=False):
        result = colour if value in values else result
    return result
