"""`bdfm report`: one page of runs, in one file that opens without internet and without a server.

Everything is inside: pictures, volumes, the viewer. The page states a policy that lets it load nothing else, and runs
its own script alone, whatever a result says.
"""

import base64
import gzip
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.reports.case_comparison import Comparison, compare_cases, worst_and_best
from bdfm_nnunet.reports.case_pictures import (
    DISAGREEMENT,
    DISAGREEMENT_COLOURS,
    CaseImages,
    colour_of,
    read_case,
)
from bdfm_nnunet.reports.case_sections import ShownCases, as_script, case_section, score_section, viewer_section
from bdfm_nnunet.reports.markup import Markup, joined, tag
from bdfm_nnunet.reports.reported_runs import ReportedRun
from bdfm_nnunet.reports.run_sections import data_uri, run_section, shown_path
from bdfm_nnunet.reports.viewer_script import HOW, ViewerScript

logger = logging.getLogger(__name__)

PAGE = "report.html"
_SOURCES = Path(__file__).parent
_MEGABYTE = 1 << 20
_MOST_LABELS = 255
HOW_TO_NAME = "Name the folders of the cases with --images, --reference and --predictions"
"""What to do where the files of cases are not found."""


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """What a page holds. The defaults give a file of some 10 MB.

    Attributes:
        title: heading; by default the names of the runs.
        notice: a sentence below it.
        measure: the score that sorts; by default Dice.
        channel: number of the image that is shown.
        rows: most cases of the table.
        pictures: most cases with small pictures.
        viewed: most cases of the viewer.
        voxels: most voxels of a case in the viewer.
        megabytes: most that the volumes of the viewer may take.
    """

    title: str = ""
    notice: str = ""
    measure: str | None = None
    channel: int = 0
    rows: int = 1000
    pictures: int = 40
    viewed: int = 6
    voxels: int = 1_200_000
    megabytes: float = 32.0


def write_page(
    out: Path, runs: Sequence[ReportedRun], settings: PageSettings | None = None, *, viewer: ViewerScript | None = None
) -> Path:
    """Write the page of some runs into a folder and return its file.

    Args:
        out: the folder.
        runs: at least one; if several have scores, the others are compared with the first of them.
        settings: what the page holds.
        viewer: None writes a page without the viewer, which says how to get it.

    Raises:
        InputError: runs cannot be compared, or the page cannot be written.
    """
    settings = settings or PageSettings()
    found = comparison_of(runs, settings.measure)
    shown = _embedded(found, runs, settings) if found else None
    text = page_text(runs, settings, found, shown, viewer)
    with write_atomically(out / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return out / PAGE


def comparison_of(runs: Sequence[ReportedRun], measure: str | None) -> Comparison | None:
    """Return the cases of the runs with scores side by side; None where no run has scores."""
    results = {run.name: scores for run in runs if (scores := run.scores)}
    return compare_cases(results, measure=measure) if results else None


def scored(runs: Sequence[ReportedRun], found: Comparison) -> list[ReportedRun]:
    """Return the runs of a comparison."""
    return [run for run in runs if run.name in found.runs]


def label_names(runs: Sequence[ReportedRun]) -> dict[int, str]:
    """Return names of label values, as the regions of the first scores tell them."""
    regions = next((scores for run in runs if (scores := run.scores)), {}).get("regions")
    if regions is None or fault_of(regions, {str: [int]}):
        return {}
    alone = {values[0]: name for name, values in regions.items() if len(values) == 1}
    values = sorted({value for each in regions.values() for value in each if 0 < value < _MOST_LABELS})
    return {value: alone.get(value, f"label {value}") for value in values}


# -------------------------------------------------------------------------------------------- what is embedded


def _embedded(found: Comparison, runs: Sequence[ReportedRun], settings: PageSettings) -> ShownCases:
    """Return the cases with the pictures and volumes that go into the file."""
    with_scores = scored(runs, found)
    viewed = worst_and_best(found.cases, settings.viewed)
    wanted = worst_and_best(found.cases, settings.pictures)
    pictures: dict[str, Any] = {}
    volumes: dict[str, CaseImages] = {}
    for case in tqdm([case for case in found.cases if case in {*wanted, *viewed}], desc="pictures", disable=None):
        try:
            images = read_case(case, with_scores, channel=settings.channel)
        except InputError as error:
            pictures[case] = str(error)
            continue
        pictures[case] = pictures_of(images, found)
        if case in viewed:
            volumes[case] = images.smaller(settings.voxels)
    unread = [text for text in pictures.values() if isinstance(text, str)]
    if unread:
        logger.warning("%d of %d cases have no picture: %s", len(unread), len(pictures), unread[0])
    if len(unread) == len(pictures):  # one sentence in the place of a column
        notes = [*_notes(found, settings, 0), f"There are no pictures: {unread[0]}. {HOW_TO_NAME}."]
        return ShownCases(worst_and_best(found.cases, settings.rows), notes=notes)
    entries, left = _volumes(found, volumes, settings.megabytes)
    notes = [*_notes(found, settings, len(pictures)), *_viewer_notes(found, entries, left, settings)]
    notes += folders_told(with_scores)
    rows = worst_and_best(found.cases, settings.rows)
    return ShownCases(rows, pictures, entries, notes, label_names(runs))


def pictures_of(images: CaseImages, found: Comparison) -> list[tuple[str, str]]:
    """Return address and description of the pictures of a case: its reference, and a picture a run."""
    drawn = [(run, *images.picture(run)) for run in (None, *found.runs)]
    return [(data_uri(content, "image/png"), f"{run}: {told}" if run else told) for run, content, told in drawn]


def _volumes(
    found: Comparison, cases: Mapping[str, CaseImages], megabytes: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the cases of the viewer with their volumes, and the names of those that the file has no room for."""
    entries: list[dict[str, Any]] = []
    left, used = [], 0
    for case, images in cases.items():
        packed = {kind: images.volume(kind) for kind in ("image", "reference")}
        for number, run in enumerate(found.runs):
            packed |= {f"{kind}-{number}": images.volume(kind, run) for kind in ("prediction", "disagreement")}
        size = sum(map(len, packed.values()))
        if used + size > megabytes * _MEGABYTE:
            left.append(case)
            continue
        used += size
        text = {place: base64.b64encode(content).decode() for place, content in packed.items()}
        told = "; ".join(filter(None, (place_told(found, case, found.cases.index(case)), images.told)))
        entries.append({"case": case, "told": told, "volumes": text})
    return entries, left


def place_told(found: Comparison, case: str, at: int) -> str:
    """Return the place of a case, counted from 0 at the worst, and its mean scores, in words."""
    means = (found.mean(run, case) for run in found.runs)
    scores = ", ".join(f"{mean:.3f}{f' {run}' if len(found.runs) > 1 else ''}" for run, mean in zip(found.runs, means))
    return f"{at + 1} of {len(found.cases)} from the worst; mean {found.measure} {scores}"


def _notes(found: Comparison, settings: PageSettings, pictured: int) -> list[str]:
    """Return what the table leaves out, in sentences."""
    notes = []
    if found.left_out:
        notes.append(f"{found.left_out} cases are left out, as not all runs have them.")
    count = len(found.cases)
    if count > settings.rows:
        notes.append(f"The table has the worst and best {settings.rows} of {count} cases; all are in the results.")
    if 0 < pictured < min(count, settings.rows):
        notes.append(f"The worst and best {pictured} of {count} cases have pictures; bdfm report --serve shows all.")
    return notes


def _viewer_notes(found: Comparison, entries: Sequence[Any], left: Sequence[str], settings: PageSettings) -> list[str]:
    count = len(found.cases)
    notes = [f"The viewer has the worst and best {len(entries)} of {count} cases."] if len(entries) < count else []
    if left:
        room = f"the file has room for {settings.megabytes:g} MB of volumes"
        notes.append(f"{', '.join(left)} left out of the viewer: {room}.")
    return notes


def folders_told(runs: Sequence[ReportedRun]) -> list[str]:
    """Return where images and references are from, in sentences."""
    first = runs[0].folders
    return [f"Images are from {shown_path(first.images)}, references from {shown_path(first.reference)}."]


# ------------------------------------------------------------------------------------------------------ the page


def page_text(
    runs: Sequence[ReportedRun],
    settings: PageSettings,
    found: Comparison | None,
    shown: ShownCases | None,
    viewer: ViewerScript | None,
    *,
    served: bool = False,
) -> str:
    """Return the page as HTML.

    Args:
        runs: at least one.
        settings: its title, notice and limits.
        found: the cases side by side; None where no run has scores.
        shown: what is shown of them.
        viewer: None where it is not installed.
        served: whether `bdfm report --serve` gives pictures and volumes, rather than the file.
    """
    title = settings.title or " and ".join(run.name for run in runs)
    viewed = bool(shown and shown.viewed)
    sections: list[tuple[str, str, Markup]] = []
    if found and shown:
        results = {run.name: scores for run in runs if (scores := run.scores)}
        sections.append(("scores", "Scores", score_section(found, results)))
        if viewed:
            sections.append(("viewer", "Viewer", viewer_section(found, shown, how=None if viewer else HOW)))
        sections.append(("cases", "Cases", case_section(found, shown)))
    sections += [(f"run-{number}", run.name, run_section(run, number)) for number, run in enumerate(runs)]
    links = [tag("li", tag("a", name, href=f"#{place}")) for place, name, _ in sections]
    script = (_SOURCES / "page.js").read_text(encoding="utf-8")
    body = joined(
        tag("a", "To the content", href="#content", class_="skip"),
        tag("header", tag("h1", title), tag("p", settings.notice) if settings.notice else None,
            tag("nav", tag("ul", *links), aria_label="Sections"), tag("button", "Light or dark", id="theme")),
        tag("main", *(section for _, _, section in sections), id="content"),
        _footer(viewer if viewed else None),
        _data(found, shown, viewer) if viewed and viewer else None,
        Markup(f"<script>{script}</script>"),
    )  # fmt: skip
    return f'<!DOCTYPE html>\n<html lang="en">{_head(title, script, served)}{tag("body", body)}</html>\n'


def policy(script: str, *, served: bool) -> str:
    """Return the content security policy: this script and the viewer run, and nothing is loaded from elsewhere.

    Args:
        script: the page's own script.
        served: whether the page may ask the server that it is from.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = " 'self'" if served else ""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob: 'wasm-unsafe-eval'; style-src 'unsafe-inline'; "
        f"img-src data: blob:{own}; connect-src data: blob:{own}; worker-src blob:; base-uri 'none'; form-action 'none'"
    )


def _head(title: str, script: str, served: bool) -> Markup:
    style = (_SOURCES / "page.css").read_text(encoding="utf-8")
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy(script, served=served)),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),  # or browsers ask for one
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )


def _footer(viewer: ViewerScript | None) -> Markup:
    told = tag("p", "Written by bdfm report. Not a medical device: nothing here is for the care of patients.")
    if viewer is None:
        return tag("footer", told)
    about = f"The viewer is {viewer.version}, https://github.com/niivue/niivue, BSD 2-Clause licence."
    licence = tag("details", tag("summary", "Licence of the viewer"), *_lines(viewer.licence))
    return tag("footer", told, tag("p", about), licence if viewer.licence else None)


def _lines(text: str) -> list[Markup]:
    return [tag("p", paragraph.replace("\n", " ")) for paragraph in text.split("\n\n") if paragraph.strip()]


def _data(found: Comparison | None, shown: ShownCases | None, viewer: ViewerScript) -> Markup:
    """Return what the page's script reads: names, colours, the viewer, and the volumes of each case."""
    assert found is not None and shown is not None
    content = {
        "runs": list(found.runs),
        "cases": [{"name": e["case"], "told": e["told"], "address": e.get("address")} for e in shown.viewed],
        "labels": [_rgb(colour_of(value)) for value in range(1, max(shown.labels, default=8) + 1)],
        "disagreement": [_rgb(DISAGREEMENT_COLOURS[kind]) for kind in (1, *DISAGREEMENT)],
    }
    source = base64.b64encode(gzip.compress(viewer.source.encode("utf-8"), 9, mtime=0)).decode()
    volumes = (as_script(e["volumes"], f"volumes-{n}") for n, e in enumerate(shown.viewed) if "volumes" in e)
    return joined(as_script(content, "page-data"), as_script(source, "viewer-source"), *volumes)


def _rgb(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
