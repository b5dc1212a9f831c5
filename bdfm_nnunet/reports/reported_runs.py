"""What a page is of: results of runs, and where their images lie."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.score_summary import none_for_nan, summaries_of
from bdfm_nnunet.results import RunResult, read_result
from bdfm_nnunet.safe_names import fault_of_name

RESULTS = ("training_summary.json", "pretraining_summary.json", "result.json", "summary.json")
"""Files of a result in a folder of a run, by preference."""
CURVES = "progress.png"
"""The picture of the curves that a training draws."""
_DRAWN = "*/epoch_*.png"
_MOST_PICTURES = 4
_FOLD = re.compile(r"fold_(\d+|all)")
_ENDINGS = (".nii.gz", ".nii")
_IMAGES_OF = {"labelsTr": "imagesTr", "labelsTs": "imagesTs", "labels": "images"}


@dataclass(frozen=True)
class RunPart:
    """One result: that of a run, or of a fold of it.

    Attributes:
        name: "fold 0", or empty for a run of one part.
        path: the result's file.
        result: its content.
    """

    name: str
    path: Path
    result: RunResult

    @property
    def pictures(self) -> list[Path]:
        """The newest picture of each kind that a training drew, or those of a probe of reconstruction."""
        if self.result.kind == "pretraining":
            folders = sorted({path.parent for path in self.path.parent.glob(_DRAWN)})
            return [path for folder in folders[:_MOST_PICTURES] if (path := last_picture(folder.parent, folder.name))]
        if self.result.kind == "reconstruction":
            named = (self.path.with_name(f"{self.path.stem}_{which}.png") for which in ("worst", "median"))
            return [path for path in named if path.is_file()]
        return []


def last_picture(folder: Path, kind: str = "*") -> Path | None:
    """Return the newest picture of reconstructions that a training drew.

    Args:
        folder: of the fold.
        kind: name of the folder of pictures inside; by default any.
    """
    found = [path for path in folder.glob(_DRAWN) if path.match(f"{kind}/*") and path.is_file()]
    return max(found, key=lambda path: (path.stat().st_mtime, path.name), default=None)


@dataclass(frozen=True)
class ImageFolders:
    """Folders with the files of cases, named as nnU-Net does; an empty tuple or None where unknown.

    Attributes:
        images: of `CASE_0000.nii.gz`.
        reference: of `CASE.nii.gz`.
        predictions: the same; a case is in one of them.
    """

    images: Path | None = None
    reference: Path | None = None
    predictions: tuple[Path, ...] = ()

    def image(self, case: str, channel: int) -> Path | None:
        """Return the file of one image of a case, None where there is none."""
        return _file_of([self.images], f"{case}_{channel:04d}")

    def labels(self, case: str) -> Path | None:
        """Return the file of a case's reference."""
        return _file_of([self.reference], case)

    def predicted(self, case: str) -> Path | None:
        """Return the file of a case's prediction."""
        return _file_of(self.predictions, case)


def _file_of(folders: Sequence[Path | None], name: str) -> Path | None:
    """Return the file of a name, which comes from a result and is checked before it becomes part of a path."""
    if fault_of_name(name):
        return None
    paths = (folder / f"{name}{ending}" for folder in folders if folder for ending in _ENDINGS)
    return next((path for path in paths if path.is_file()), None)


@dataclass(frozen=True)
class ReportedRun:
    """A run as a page shows it.

    Attributes:
        name: unique on the page.
        parts: its results: one, or one a fold.
        folders: where the images of its cases lie.
    """

    name: str
    parts: tuple[RunPart, ...]
    folders: ImageFolders

    @property
    def ignored(self) -> int | None:
        """Label value of reference voxels that were not scored."""
        found = (self.parts[0].result.settings or {}).get("ignore")
        return found if isinstance(found, int) else None

    @property
    def scores(self) -> dict[str, Any] | None:
        """Scores of all parts together, in the form of `RunResult.scores`; None where there are none."""
        found = [part.result.scores for part in self.parts if part.result.scores]
        if not found:
            return None
        if len(found) == 1:
            return dict(found[0])
        rows = [row for scores in found for row in scores["cases"]]
        numbers = [{**row, "regions": _with_nan(row["regions"])} for row in rows]
        summary = none_for_nan(summaries_of(numbers, found[0]["summary"], found[0].get("seed", 0)))
        return {**found[0], "cases": rows, "summary": summary}


def _with_nan(regions: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    return {name: {m: float("nan") if v is None else v for m, v in scores.items()} for name, scores in regions.items()}


def read_runs(
    texts: Sequence[str],
    *,
    images: Path | None = None,
    reference: Path | None = None,
    predictions: Mapping[str, Path] | None = None,
) -> list[ReportedRun]:
    """Read the results that a command line names, each as a path or `NAME=PATH`.

    A path is the JSON file of a result, the folder of a run or a fold that holds one, or a folder of `fold_N`, whose
    folds are one run. Where images lie is what the results say, unless it is given.

    Args:
        texts: the runs, at least one.
        images: folder of the images.
        reference: folder of the reference segmentations.
        predictions: name of a run -> folder of its predictions.

    Raises:
        InputError: a path holds no result, two runs have one name, or a name of `predictions` is that of no run.
    """
    named = [_named(text) for text in texts]
    names = _names([name for name, _ in named], [path for _, path in named])
    given = dict(predictions or {})
    if unknown := set(given) - set(names):
        raise InputError(f"--predictions names {sorted(unknown)[0]!r}, but the runs are {', '.join(names)}: name one")
    runs = []
    for name, (_, path) in zip(names, named):
        parts = tuple(_parts(path))
        found = _recorded(parts)
        found = replace(found, images=images or found.images, reference=reference or found.reference)
        found = replace(found, predictions=(given[name],)) if name in given else found
        runs.append(ReportedRun(name, parts, _with_images(found)))
    return runs


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and name and not Path(text).exists() else ("", Path(text))


def _names(given: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Return a name for each run: the one given, or the shortest end of the path that tells it from the others."""
    parts = [path.absolute().with_suffix("" if path.suffix == ".json" else path.suffix).parts[1:] for path in paths]
    names = list(given)
    for at, own in enumerate(parts):
        others = [other for place, other in enumerate(parts) if place != at]
        length = next((n for n in range(1, len(own)) if all(own[-n:] != other[-n:] for other in others)), len(own))
        names[at] = names[at] or "/".join(own[-length:]) or "run"
    if again := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two runs are called {sorted(again)[0]!r}: tell them apart as NAME=PATH")
    return names


def _parts(path: Path) -> Iterator[RunPart]:
    """Yield the results at a path."""
    if path.is_file():
        yield RunPart("", path, read_result(path))
        return
    if not path.is_dir():
        raise InputError(f"{path} does not exist: name the JSON file of a result or the folder of a run")
    if found := _result_in(path):
        yield RunPart("", found, read_result(found))
        return
    folds = [(entry, found) for entry in sorted(path.iterdir()) if _FOLD.fullmatch(entry.name)
             and (found := _result_in(entry))]  # fmt: skip
    if not folds:
        names = ", ".join(RESULTS)
        raise InputError(f"{path} holds no result ({names}) and no folds: name a JSON file or another folder")
    for entry, found in folds:
        yield RunPart(entry.name.replace("_", " "), found, read_result(found))


def _result_in(folder: Path) -> Path | None:
    return next((folder / name for name in RESULTS if (folder / name).is_file()), None)


# ------------------------------------------------------------------------------------------------ where images lie


def _recorded(parts: Sequence[RunPart]) -> ImageFolders:
    """Return the folders that results of one run tell."""
    settings = parts[0].result.settings or {}
    if parts[0].result.kind == "evaluation":
        predictions = tuple(filter(None, (_folder((part.result.settings or {}).get("prediction")) for part in parts)))
        return ImageFolders(None, _folder(settings.get("reference")), predictions)
    predictions = tuple(folder for part in parts if (folder := part.path.parent / "validation").is_dir())
    raw, dataset = os.environ.get("nnUNet_raw", "").strip(), settings.get("dataset")
    if not (predictions and raw) or fault_of_name(dataset):
        return ImageFolders(predictions=predictions)
    return ImageFolders(None, _folder(str(Path(raw) / str(dataset) / "labelsTr")), predictions)


def _folder(text: Any) -> Path | None:
    return Path(text) if isinstance(text, str) and text and "\0" not in text and Path(text).is_dir() else None


def _with_images(folders: ImageFolders) -> ImageFolders:
    """Add the folder of images that lies beside that of the references in nnU-Net's layout."""
    reference = folders.reference
    if folders.images or reference is None or reference.name not in _IMAGES_OF:
        return folders
    return replace(folders, images=_folder(str(reference.parent / _IMAGES_OF[reference.name])))
