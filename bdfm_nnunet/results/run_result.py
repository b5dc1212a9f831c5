"""The JSON file with the result of a run: of a training, an evaluation or the demonstration.

The file is one table. The names of the schema stand beside the entries of `scores` and `extra`, which keep the names
that they had before there was a schema, so that programs which read them go on working. Whatever is unknown, or is no
part of a kind of run, is null.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bdfm_nnunet import __version__
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import as_json, read_json, write_atomically, write_json
from bdfm_nnunet.json_shapes import Anything, fault_of
from bdfm_nnunet.results import provenance as origins
from bdfm_nnunet.results.hashed_files import sha256_of_json
from bdfm_nnunet.results.provenance import Provenance

SCHEMA = 1
"""Version of the schema. It rises when an entry changes its meaning, not when one is added."""

SOFTWARE = ("nnunetv2", "torch", "numpy")
"""Packages whose versions trainings and predictions tell, beside Python and this one."""

SCORE_ENTRIES = ("release", "metrics", "definition", "parameters", "regions", "interval", "seed", "missing",
                 "not_scored", "summary", "leaderboards", "cases")  # fmt: skip
"""Entries that make up `RunResult.scores`."""

_NUMBER = (float, None)
_SHAPE = {
    "schema?": int,
    "kind?": str,
    "trainer?": (str, None),
    "settings?": ({str: Anything}, None),
    "curves?": ({str: [_NUMBER]}, None),
    "exposure?": ({str: Anything}, None),
    "cost?": ({"seconds?": _NUMBER, "epochs?": (int, None), "steps?": (int, None), "parameters?": (int, None)}, None),
    "versions?": ({str: (str, None)}, None),
    "provenance?": (origins.SHAPE, None),
}
_APART = {"schema", "kind", "cost", "provenance"}
_SUMMARY = {"mean": _NUMBER, "low": _NUMBER, "high": _NUMBER}
_SCORES_SHAPE = {
    "metrics": str,
    "summary": {str: {str: _SUMMARY}},
    "cases": [{"case": str, "regions": {str: {str: _NUMBER}}}],
}
_OLD_MARKS = {
    "evaluation": {"metrics", "summary", "cases"},
    "pretraining": {"trainer", "epochs_done", "curves"},
    "demo": {"notice", "pretraining", "segmentation"},
}
"""Entries by which a file from before the schema is recognised."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Time and size of a run; None where they were not measured.

    Attributes:
        seconds: of a training, of all its epochs together; of the demonstration, of everything.
        epochs: that were finished.
        steps: optimiser steps in them.
        parameters: trainable numbers of the network.

    Example:
        >>> Cost(seconds=7200.0, epochs=2, steps=500)
        Cost(seconds=7200.0, epochs=2, steps=500, parameters=None)
    """

    seconds: float | None = None
    epochs: int | None = None
    steps: int | None = None
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run and its results; None for what is unknown or no part of its kind.

    Attributes:
        kind: "evaluation", "demo", or the task of a training ("pretraining", "segmentation").
        trainer: class name of the trainer.
        settings: how the run was set. Of a training: data set, plans, configuration, fold, starting weights, device,
            and the blocks of its plans with all defaults filled in.
        curves: name to one value an epoch.
        scores: per case and region, in the form of `bdfm_nnunet.evaluation.evaluate_folders`: version of the metric,
            "summary" by region and measure, "cases". Entries of `SCORE_ENTRIES`.
        exposure: the trainings behind the weights, the oldest first, each with the numbers of its cases.
        cost: time and size.
        versions: of the software, by name.
        provenance: files, seeds, sessions of work, licences and citations behind the result.
        extra: entries that runs of this kind alone have.
        schema: of the file that was read; 0 for one from before the schema.

    Example:
        >>> result = RunResult(kind="segmentation", curves={"train_losses": [0.9, 0.4]}, cost=Cost(epochs=2))
        >>> result.as_dict()["cost"]["epochs"]
        2
    """

    kind: str
    trainer: str | None = None
    settings: Mapping[str, Any] | None = None
    curves: Mapping[str, Sequence[float | None]] | None = None
    scores: Mapping[str, Any] | None = None
    exposure: Mapping[str, Any] | None = None
    cost: Cost | None = None
    versions: Mapping[str, str | None] | None = None
    provenance: Provenance | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        scores = self.scores or {}
        assert not set(scores) - set(SCORE_ENTRIES), f"{sorted(scores)} are not all entries of scores"
        taken = {"schema", *(name.removesuffix("?") for name in _SHAPE), *scores}
        assert not taken & set(self.extra), f"{sorted(taken & set(self.extra))} have a place in the schema"

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the file, in plain JSON types; with a provenance it is sealed by the hash of it."""
        content: dict[str, Any] = {
            "schema": self.schema,
            "kind": self.kind,
            "trainer": self.trainer,
            **self.extra,
            "settings": self.settings,
            **(self.scores or {}),
            "curves": self.curves,
            "exposure": self.exposure,
            "cost": None if self.cost is None else asdict(self.cost),
            "versions": self.versions,
            "provenance": None if self.provenance is None else self.provenance.as_dict(),
        }
        if self.provenance is not None:
            content["provenance"]["seal"] = _seal(content)
        return content


def versions_of(*packages: str) -> dict[str, str | None]:
    """Return the versions of Python, of this package and of those named; None for one that is not installed.

    Example:
        >>> sorted(versions_of("numpy")), versions_of("no-such-package")["no-such-package"]
        (['bdfm-nnunet', 'numpy', 'python'], None)
    """
    found: dict[str, str | None] = {"python": platform.python_version(), "bdfm-nnunet": __version__}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def write_result(path: Path, result: RunResult, *, page: bool = True) -> None:
    """Write a result as JSON, whole or not at all; numbers that JSON does not know (NaN) become null.

    Args:
        path: the file.
        result: of a run.
        page: whether a result with a provenance gets a page to read beside it (.md).

    Raises:
        InputError: it cannot be written.

    Example:
        >>> write_result(Path("training_summary.json"), RunResult(kind="segmentation", trainer="nnUNetTrainerBDFM"))
        >>> print(Path("training_summary.json").read_text()[:43])
        {
          "schema": 1,
          "kind": "segmentation",
    """
    write_json(path, result.as_dict())
    if page and result.provenance is not None:
        from bdfm_nnunet.results.run_sheet import page_of

        with write_atomically(path.with_suffix(".md")) as temporary:
            temporary.write_text(page_of(result, name=path.name), encoding="utf-8", errors="backslashreplace")


def is_sealed(path: Path) -> bool:
    """Return whether a result file is as it was written.

    Raises:
        InputError: it is no result.

    Example:
        >>> write_result(Path("result.json"), RunResult(kind="study", provenance=Provenance()))
        >>> is_sealed(Path("result.json"))
        True
        >>> _ = Path("result.json").write_text(Path("result.json").read_text().replace("study", "demo"))
        >>> is_sealed(Path("result.json"))
        False
    """
    content = read_json(path, _SHAPE)
    seal = (content.get("provenance") or {}).pop("seal", None)
    return bool(seal == _seal(content))


def _seal(content: Mapping[str, Any]) -> str:
    return sha256_of_json(json.loads(json.dumps(as_json(content))))


def read_result(path: Path, *, kind: str | None = None) -> RunResult:
    """Read a result, or a file that a version before the schema has written.

    Args:
        path: pretraining_summary.json, training_summary.json, the JSON file of `bdfm evaluate` or the demonstration's
            summary.json.
        kind: the kind it must be; by default any.

    Raises:
        InputError: it is missing, no result, one of another kind, or one of a newer schema.

    Example:
        >>> write_result(Path("result.json"), RunResult(kind="pretraining", curves={"psnr": [20.5, 21.0]}))
        >>> read_result(Path("result.json"), kind="pretraining").curves
        {'psnr': [20.5, 21.0]}
    """
    content = read_json(path, _SHAPE)
    schema = content.get("schema", 0)
    if schema > SCHEMA:
        raise InputError(f"{path} has schema {schema}, this version reads up to {SCHEMA}: install a newer bdfm-nnunet")
    found = _kind_of(content)
    if found is None or kind not in (None, found):
        told = "no result of a run" if found is None else f"the result of kind {found!r}"
        raise InputError(f"{path} is {told}, expected one of {_expected(kind)}: name another file")
    names = {name.removesuffix("?") for name in _SHAPE} - _APART
    scores = _scores_of(path, content, found)
    cost, provenance = content.get("cost"), content.get("provenance")
    return RunResult(
        kind=found,
        **{name: content.get(name) for name in names},
        scores=scores,
        cost=None if cost is None else Cost(**{name: cost.get(name) for name in Cost.__dataclass_fields__}),
        provenance=None if provenance is None else Provenance.from_dict(provenance),
        extra={k: v for k, v in content.items() if k not in {*names, *(scores or {}), *_APART}},
        schema=schema,
    )


def _expected(kind: str | None) -> str:
    return "a training, an evaluation or the demonstration" if kind is None else f"kind {kind!r}"


def _kind_of(content: Mapping[str, Any]) -> str | None:
    """Return the kind that a file names or, from before the schema, shows by its entries."""
    if "schema" in content:
        return content.get("kind")
    return next((kind for kind, marks in _OLD_MARKS.items() if marks <= set(content)), None)


def _scores_of(path: Path, content: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    if "cases" not in content and kind != "evaluation":
        return None
    scores = {name: content[name] for name in SCORE_ENTRIES if name in content}
    if fault := fault_of(scores, _SCORES_SHAPE) or _missing_score(scores):
        raise InputError(f"{path} is not as expected ({fault}): restore it or write it anew")
    return scores


def _missing_score(scores: Mapping[str, Any]) -> str:
    """Say what a case lacks that the summary names; empty where all is there."""
    if not scores["cases"]:
        return "cases is empty"
    for at, case in enumerate(scores["cases"]):
        for region, measures in scores["summary"].items():
            for measure in measures:
                if measure not in case["regions"].get(region, {}):
                    return f"cases[{at}].regions.{region}.{measure} is missing"
    return ""
