"""A release in words, for `bdfm releases NAME`."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bdfm_nnunet.dataset_conversion.path_patterns import example_of, path_pattern

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion.release import Release

WIDTH = 110
INDENT = 14


def describe(release: "Release") -> str:
    """Describe layout with an example of every file, labels, regions, grid, terms and notes, as lines of text."""
    lines = [f"{release.name}: {release.title}"]
    for heading, entries in _sections(release):
        for index, entry in enumerate(entries):
            start = f"{heading + ':' if index == 0 else '':<{INDENT}}"
            lines += textwrap.wrap(
                entry, WIDTH, initial_indent=start, subsequent_indent=" " * INDENT, break_long_words=False
            )
    return "\n".join(lines)


def _sections(release: "Release") -> Iterator[tuple[str, list[str]]]:
    yield "data set", [f"DatasetXXX_{release.dataset_name}"]
    yield "channels", [f"{name}: {release.example(name)}{_volume(release, name)}" for name in release.channels]
    yield "on request", [f"{name}: {release.example(name)}" for name in release.extra_channels]
    yield ("brain mask" if release.runs else "label"), _label_files(release)
    yield "confounds", _confounds(release)
    yield "labels", [_label(release, value) for value in release.labels]
    yield "regions", _regions(release.regions, release.regions_class_order)
    yield "scored", _regions(release.scored_regions)
    yield "unlabelled", [f"cases in whose path is {release.unlabelled_part}"] if release.unlabelled_part else []
    yield "grid", [_grid(release)]
    yield "licence", [release.licence]
    yield "from", [release.url]
    yield "cite", [release.citation]
    yield "overlaps", [", ".join(release.overlaps)] if release.overlaps else []
    yield "repairs", [f"{repair.case}: {repair.why}" for repair in release.repairs]
    yield "note", list(release.notes)


def _volume(release: "Release", name: str) -> str:
    volume = release.channels[name].volume
    return "" if volume is None else f" (volume {volume} of a 4-D file)"


def _label_files(release: "Release") -> list[str]:
    roles = [role for role in release.sources() if role not in release.channels]
    files = [f"{role}: {path}" for role in roles for path in release.examples(role)]
    return files or ["taken from the frames" if release.runs else "none was published: use --unlabelled"]


def _confounds(release: "Release") -> list[str]:
    patterns = release.runs.confounds if release.runs else ()
    return [example_of(path_pattern(path, release.case_pattern).pattern) for path in patterns]


def _label(release: "Release", value: int) -> str:
    target = release.target_of(value)
    return f"{value}: {release.labels[value]}" + (f" ({target} for nnU-Net)" if target != value else "")


def _regions(regions: Mapping[str, tuple[int, ...]], order: tuple[int, ...] = ()) -> list[str]:
    lines = [f"{name}: {' or '.join(map(str, values))}" for name, values in regions.items()]
    return [*lines, f"painted as {', then '.join(map(str, order))}"] if order else lines


def _grid(release: "Release") -> str:
    if release.grid is None:
        return "differs between cases"
    voxels = " x ".join(map(str, release.grid)) + " voxels"
    return voxels + (f" of {' x '.join(f'{size:g}' for size in release.spacing)} mm" if release.spacing else "")
