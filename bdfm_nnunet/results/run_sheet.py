"""The page beside a result file, for people: what was run, on what, with what, at what cost, and what to cite."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bdfm_nnunet.results.hashed_files import HashedFiles
from bdfm_nnunet.results.provenance import Provenance
from bdfm_nnunet.results.run_result import RunResult
from bdfm_nnunet.results.sessions import total_energy, total_hours
from bdfm_nnunet.safe_names import printable

_DIGITS = 16
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "\\`*_[]<>|#"})
_DETAILS = {"plans": "configuration", "split": "fold"}
_SHORT = ("str", "int", "float", "bool")


def page_of(result: RunResult, *, name: str) -> str:
    """Return the page of a result that has a provenance, as Markdown.

    Args:
        result: of a run.
        name: of the result file.

    Example:
        >>> print(page_of(RunResult(kind="evaluation", provenance=Provenance(seeds={"intervals": 0})), name="a.json"))
        # Run sheet: evaluation
        <BLANKLINE>
        All of it is in a.json; `bdfm verify a.json` hashes the files again.
        <BLANKLINE>
        ## Seeds
        <BLANKLINE>
        - intervals: 0
        <BLANKLINE>
    """
    provenance = result.provenance or Provenance()
    head = f"# Run sheet: {_text(result.kind)}\n\nAll of it is in {_text(name)}; `bdfm verify {_code(name)}` "
    sections = {
        "Settings": _items(_settings(result)),
        "Scores": _scores(result),
        "Files": _files([*provenance.inputs, *provenance.outputs], len(provenance.inputs)),
        "Data behind the weights": _seen(result.exposure),
        "Seeds": _items(provenance.seeds.items()),
        "Cost": _cost(result, provenance),
        "Versions": _versions(result, provenance.sessions),
        "Licences": _items((source, licence or "not stated") for source, licence in provenance.licences.items()),
        "Please cite": [f"- {_text(text)}" for text in provenance.citations],
    }
    parts = [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items() if lines]
    return "\n\n".join([f"{head}hashes the files again.", *parts]) + "\n"


def _text(value: Any) -> str:
    """Return one line in which nothing is taken for a mark."""
    return printable(str(value)).translate(_SPECIAL)


def _code(value: str) -> str:
    return printable(value).replace("`", "'")


def _items(pairs: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"- {_text(name)}: {_text('unknown' if value is None else value)}" for name, value in pairs]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(map(_text, row)) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *lines] if lines else []


def _settings(result: RunResult) -> Iterator[tuple[str, Any]]:
    if result.trainer:
        yield "trainer", result.trainer
    for name, value in (result.settings or {}).items():
        if type(value).__name__ in _SHORT:
            yield name, value


def _scores(result: RunResult) -> list[str]:
    scores = result.scores or {}
    if "metrics" not in scores:
        return []
    lines = [f"Metric version {_text(scores['metrics'])}: {_text(scores.get('definition') or 'no definition')}"]
    rows = [
        (region, measure, f"{_at(each, 'mean')} [{_at(each, 'low')}, {_at(each, 'high')}]")
        for region, measures in scores.get("summary", {}).items()
        for measure, each in measures.items()
    ]
    return [*lines, "", *_table(("region", "score", "mean and interval"), rows)]


def _at(summary: Mapping[str, Any], name: str) -> str:
    value = summary.get(name)
    return "-" if value is None else f"{value:.4g}"


def _files(files: Sequence[HashedFiles], inputs: int) -> list[str]:
    rows = [
        ("read" if at < inputs else "written", each.role, _place(each), each.count or 1, each.sha256[:_DIGITS])
        for at, each in enumerate(files)
    ]
    return _table(("", "what", "place", "files", f"SHA-256, first {_DIGITS} digits"), rows)


def _place(each: HashedFiles) -> str:
    return f"{each.place}, {_DETAILS.get(each.kind, each.kind)} {each.detail}" if each.detail else each.place


def _seen(exposure: Mapping[str, Any] | None) -> list[str]:
    if exposure is None:
        return []
    lines = []
    for run in exposure.get("runs", ()):
        cases = f"{run.get('train', 'unknown')} training and {run.get('val', 'unknown')} validation cases"
        told = [str(run.get("dataset", "a data set")), cases, *run.get("releases", {}), run.get("trainer", "")]
        lines.append(f"- {_text(', '.join(filter(None, told)))}")
    return [*lines, *([f"- {_text(exposure['note'])}"] if exposure.get("note") else [])] or ["- nothing is recorded"]


def _cost(result: RunResult, provenance: Provenance) -> list[str]:
    sessions = provenance.sessions
    if not sessions:
        return []
    cost = result.cost
    sums = {
        "hours": total_hours(sessions),
        "processors (Wh)": total_energy(sessions, "processors_wh"),
        **({"GPUs (Wh)": total_energy(sessions, "gpus_wh")} if _with_gpus(sessions) else {}),
        **({"epochs": cost.epochs, "steps": cost.steps} if cost and cost.steps else {}),
    }
    rows = [
        (each.get("began") or "unknown", _number(each["hours"]), each.get("count") or 1, _device(each))
        for each in sessions
    ]
    reasons = dict.fromkeys(why for each in sessions for why in (each.get("energy") or {}).get("unknown", ()))
    return [
        *_items(sums.items()),
        *(f"- energy of {_text(why)}" for why in reasons),
        "",
        *_table(("began (UTC)", "hours", "sessions", "device"), rows),
    ]


def _with_gpus(sessions: Sequence[Mapping[str, Any]]) -> bool:
    return any((each.get("device") or "cpu") != "cpu" for each in sessions)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _device(session: Mapping[str, Any]) -> str:
    count = session.get("devices") or 1
    named = f"{count} x {session.get('device')}" if count > 1 else str(session.get("device") or "unknown")
    cores = f"{session['cores']} cores" if session.get("cores") else ""
    return ", ".join(filter(None, (named, session.get("processor"), cores, session.get("system"))))


def _versions(result: RunResult, sessions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return each version that took part once, the oldest first."""
    found: dict[str, dict[str, None]] = {}
    for each in [*(session.get("versions") or {} for session in sessions), result.versions or {}]:
        for name, version in each.items():
            found.setdefault(name, {})[version or "not installed"] = None
    codes = [session.get("code") or {} for session in sessions]
    for title, key in (("commit of bdfm-nnunet", "commit"), ("code of bdfm-nnunet (SHA-256)", "sha256")):
        if told := dict.fromkeys(code.get(key) or "unknown" for code in codes):
            found[title] = told
    return _items((name, ", then ".join(versions)) for name, versions in found.items())
