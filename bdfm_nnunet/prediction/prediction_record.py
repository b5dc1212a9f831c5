"""The run sheet of a folder of predictions: which images, which models, what was written, on what, for how long."""

import logging
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints import Checkpoint, read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.exposure.subject_exposure import joined
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.prediction.ensemble_command import ALL_FOLDS, CHECKPOINT, named_model
from bdfm_nnunet.results import (
    Cost,
    Provenance,
    RunResult,
    Session,
    citations_of_data,
    cited_once,
    licences_of,
    read_result,
    versions_of,
    write_result,
)
from bdfm_nnunet.results.hashed_files import HashedFiles, hashed_file, hashed_files
from bdfm_nnunet.results.hashed_files import joined as joined_files
from bdfm_nnunet.results.places import place_of
from bdfm_nnunet.results.run_result import SOFTWARE
from bdfm_nnunet.results.sessions import total_hours
from bdfm_nnunet.used_devices import device_of_prediction

logger = logging.getLogger(__name__)

SUMMARY = "prediction_summary.json"
KIND = "prediction"
_LOCK = ".prediction_summary.lock.txt"  # with an ending that no command takes for a case
_LOCK_SECONDS = 600.0
_NOT_RESULTS = {SUMMARY, "prediction_summary.md", "predict_from_raw_data_args.json"}
_State = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PredictionRun:
    """What a prediction is made with.

    Attributes:
        images: folder of the images.
        out: folder of the results.
        models: folders of the models; empty where nnU-Net's arguments name one.
        named: these arguments ("m", or "d", "c", "tr" and "p").
        device: "cuda", "cpu" or "mps".
        files: further files that are read, by their role.
        parts: processes that write into the folder at the same time.
        settings: further settings, in plain types; "folds" and "checkpoint" may be None for nnU-Net's defaults.
    """

    images: Path
    out: Path
    models: Sequence[Path]
    named: Mapping[str, str | None]
    device: str
    files: Mapping[str, Path]
    parts: int = 1
    settings: Mapping[str, Any]

    @property
    def checkpoints(self) -> list[Path]:
        """The files of all models and folds."""
        models = self.models or [named_model(Namespace(**self.named))]
        folds, name = self.settings["folds"] or ALL_FOLDS, self.settings["checkpoint"] or CHECKPOINT
        return [model / f"fold_{fold}" / name for model in models for fold in folds]


@contextmanager
def recorded(run: PredictionRun) -> Iterator[None]:
    """Write the run sheet of what is predicted in this block, also where it ends early; a fault is a warning.

    A prediction that goes on, or predicts another part of the cases with the same models and settings, adds its session
    and its files to the sheet that is there.

    Args:
        run: what it is made with.
    """
    before, session = _states(run.out), Session([device_of_prediction(run.device)], versions=versions_of(*SOFTWARE))
    try:
        yield
    finally:
        written = [run.out / name for name, state in _states(run.out).items() if before.get(name) != state]
        if written:
            try:
                with _alone(run):
                    _write(run, written, session)
            except (InputError, OSError) as error:
                logger.warning("the predictions are whole, but %s is not: %s", SUMMARY, error)


def _alone(run: PredictionRun) -> AbstractContextManager[None]:
    if run.parts == 1:
        return nullcontext()
    return hold_lock(run.out / _LOCK, otherwise=f"another process writes {SUMMARY}", wait=_LOCK_SECONDS)


def _states(folder: Path) -> dict[str, _State]:
    """Return name -> size and time of change of the results in a folder."""
    found: dict[str, _State] = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file() and entry.name not in _NOT_RESULTS and not entry.name.startswith("."):
                    found[entry.name] = entry.stat().st_size, entry.stat().st_mtime_ns
    return found


def _write(run: PredictionRun, written: Sequence[Path], session: Session) -> None:
    files = run.checkpoints
    read = [replace(read_checkpoint(path), weights={}) for path in files]  # one of them in memory at a time
    settings = {
        **run.settings,
        "images": place_of(run.images, beside=run.out),
        "models": list(dict.fromkeys(place_of(path.parents[1], beside=run.out) for path in files)),
        "device": run.device,
    }
    models = [hashed_file("model", each.path, beside=run.out, sha256=each.sha256) for each in read]
    others = [hashed_file(role, path, beside=run.out) for role, path in run.files.items()]
    earlier = _earlier(run.out / SUMMARY, settings, [*models, *others])
    before = {each.role: each for each in (*earlier.inputs, *earlier.outputs)}
    images = _with(before.get("images"), "images", run.images, _images(run.images, written, files[0]), run.out)
    results = _with(before.get("results"), "results", run.out, written, run.out)
    exposure = joined(Exposure.of_checkpoint(each) for each in read).counted()
    sessions = (*earlier.sessions, session.as_dict())
    provenance = Provenance(
        inputs=[*models, *others, images],
        outputs=[results],
        sessions=sessions,
        licences={**licences_of(exposure), **_licences_of_models(read)},
        citations=cited_once(*(each.citations for each in read), citations_of_data(exposure)),
    )
    hours = total_hours(sessions).value
    result = RunResult(
        kind=KIND,
        trainer=read[0].trainer,
        settings=settings,
        exposure=exposure,
        cost=Cost(seconds=None if hours is None else 3600 * hours),
        versions=versions_of(*SOFTWARE),
        provenance=provenance,
    )
    write_result(run.out / SUMMARY, result)


def _earlier(path: Path, settings: Mapping[str, Any], made_with: Sequence[HashedFiles]) -> Provenance:
    """Return what an earlier prediction with the same models and settings has told; empty without one."""
    if not path.is_file():
        return Provenance()
    try:
        found = read_result(path, kind=KIND)
    except InputError as error:
        logger.warning("earlier predictions in this folder are not on its sheet any more: %s", error)
        return Provenance()
    known = found.provenance or Provenance()
    same = {each.sha256 for each in known.inputs if each.kind == "file"} == {each.sha256 for each in made_with}
    return known if same and found.settings == settings else Provenance()


def _with(before: HashedFiles | None, role: str, folder: Path, files: Sequence[Path], beside: Path) -> HashedFiles:
    """Return files and those that were hashed before, of which only changed ones are read again."""
    known = before.files if before else None
    return joined_files(hashed_files(role, folder, files, beside=beside, known=known), before)


def _images(folder: Path, written: Sequence[Path], checkpoint: Path) -> list[Path]:
    """Return the images of the cases that were written."""
    ending = read_dataset_json(checkpoint.parents[1] / "dataset.json")["file_ending"]
    cases = {path.name.removesuffix(ending) for path in written if path.name.endswith(ending)}
    names = {path: re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", path.name) for path in folder.iterdir()}
    return [path for path, match in names.items() if match and match[1] in cases]


def _licences_of_models(read: Sequence[Checkpoint]) -> dict[str, str | None]:
    return {f"model {each.path.parent.parent.name}": each.licence or None for each in read}
