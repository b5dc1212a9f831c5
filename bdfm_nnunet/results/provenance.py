"""Where a result comes from: files, seeds, sessions of work, licences and what to cite."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bdfm_nnunet.results import hashed_files, sessions
from bdfm_nnunet.results.hashed_files import HashedFiles

SHAPE = {
    "inputs": [hashed_files.SHAPE],
    "outputs": [hashed_files.SHAPE],
    "seeds": {str: (int, None)},
    "sessions": [sessions.SHAPE],
    "licences": {str: (str, None)},
    "citations": [str],
    "seal?": (str, None),
}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a result comes from.

    Attributes:
        inputs: what the run has read.
        outputs: what it has written beside the result file.
        seeds: by what they are for.
        sessions: stretches of work, the oldest first, see `sessions`.
        licences: data set, weights or software -> its licence; None where none is stated.
        citations: to print beside the result.

    Example:
        >>> found = Provenance(seeds={"training": 0}, licences=licences_of({"runs": [{"releases": {
        ...     "ixi": {"licence": "CC BY-SA 3.0"}}}]}))
        >>> found.licences
        {'ixi': 'CC BY-SA 3.0'}
        >>> Provenance.from_dict(found.as_dict()) == found
        True
    """

    inputs: Sequence[HashedFiles] = ()
    outputs: Sequence[HashedFiles] = ()
    seeds: Mapping[str, int | None] = field(default_factory=dict)
    sessions: Sequence[Mapping[str, Any]] = ()
    licences: Mapping[str, str | None] = field(default_factory=dict)
    citations: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "inputs": [each.as_dict() for each in self.inputs],
            "outputs": [each.as_dict() for each in self.outputs],
            "seeds": dict(self.seeds),
            "sessions": [dict(each) for each in self.sessions],
            "licences": dict(self.licences),
            "citations": list(self.citations),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Provenance":
        """Read an entry of `SHAPE`."""
        parts: Any = {name: tuple(map(HashedFiles.from_dict, content[name])) for name in ("inputs", "outputs")}
        rest: Any = {name: content[name] for name in ("seeds", "licences")}
        told: Any = {name: tuple(content[name]) for name in ("sessions", "citations")}
        return cls(**parts, **rest, **told)


def combined(*parts: Provenance | None) -> Provenance:
    """Return sessions, licences and citations of the parts of a run as one; each part has files and seeds of its own.

    Example:
        >>> parts = [Provenance(sessions=[{"hours": 1.0}], citations=[text]) for text in ("a", "b")]
        >>> found = combined(*parts, None)
        >>> found.sessions, found.citations
        (({'hours': 2.0, 'count': 2},), ('a', 'b'))
    """
    known = [part for part in parts if part is not None]
    return Provenance(
        sessions=tuple(sessions.merged(each for part in known for each in part.sessions)),
        licences={source: licence for part in known for source, licence in part.licences.items()},
        citations=cited_once(*(part.citations for part in known)),
    )


def licences_of(exposure: Mapping[str, Any] | None) -> dict[str, str | None]:
    """Return the licences of the data behind weights, by release, from a record of what they have seen.

    Example:
        >>> licences_of({"runs": [{"releases": {"ixi": {"licence": "CC BY-SA 3.0"}, "mine": {}}}]})
        {'ixi': 'CC BY-SA 3.0', 'mine': None}
    """
    runs = (exposure or {}).get("runs") or ()
    named = [(name, entry) for run in runs for name, entry in (run.get("releases") or {}).items()]
    return {name: str(entry.get("licence") or "") or None for name, entry in named}


def citations_of_data(exposure: Mapping[str, Any] | None) -> list[str]:
    """Return what to cite for the data behind weights, from a record of what they have seen.

    Example:
        >>> citations_of_data({"runs": [{"releases": {"ixi": {"citation": "brain-development.org"}, "mine": {}}}]})
        ['brain-development.org']
    """
    runs = (exposure or {}).get("runs") or ()
    return [
        entry["citation"] for run in runs for entry in (run.get("releases") or {}).values() if entry.get("citation")
    ]


def cited_once(*lists: Iterable[str]) -> tuple[str, ...]:
    """Return texts to cite, each once, in their order.

    Example:
        >>> cited_once(["a", "b"], ["b", ""])
        ('a', 'b')
    """
    return tuple(dict.fromkeys(text for texts in lists for text in texts if text))
