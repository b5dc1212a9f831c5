"""Where the results of a training come from, over all sessions of a training that was interrupted."""

from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import MANIFEST
from bdfm_nnunet.results import (
    Provenance,
    Session,
    citations_of_data,
    cited_once,
    licences_of,
    read_result,
    versions_of,
)
from bdfm_nnunet.results.hashed_files import HashedFiles, hashed_data, hashed_file, hashed_plans, hashed_split
from bdfm_nnunet.results.run_result import SOFTWARE
from bdfm_nnunet.results.sessions import UNKNOWN
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.used_devices import used_device

_WRITTEN = ("checkpoint_final.pth", "checkpoint_best.pth", "validation/summary.json")
_WEIGHTS = "weights"


class RunProvenance:
    """The provenance of a training; its session begins when this is made, which all processes do.

    Args:
        trainer: whose training it is.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        devices = trainer.processes.gather(used_device(trainer.device))
        self._session = Session(devices, versions=versions_of(*SOFTWARE))

    def so_far(self) -> Provenance:
        """Return it as it is now; files that the training has read are hashed once."""
        trainer, origin = self._trainer, self._trainer.origin
        exposure = trainer.data.exposure.counted()
        earlier = self._earlier or Provenance()
        licences = {**licences_of(exposure), **earlier.licences, **_licences_of_software("bdfm-nnunet", "nnunetv2")}
        if origin.started_from:
            licences.setdefault(origin.started_from["name"], origin.licence or None)
        return Provenance(
            inputs=self._inputs,
            outputs=tuple(self._hashed(self._outputs())),
            seeds={"training": trainer.training.seed},
            sessions=(*self._sessions_before, self._session.as_dict()),
            licences=licences,
            citations=cited_once(
                trainer.task.citations, origin.citations, citations_of_data(exposure), earlier.citations
            ),
        )

    @cached_property
    def _earlier(self) -> Provenance | None:
        """What the run had told before it was interrupted; None for a new one, or if it is not known."""
        path = self._folder / self._trainer.task.summary_file
        if not self._trainer.resumed or not path.is_file():
            return None
        try:
            return read_result(path).provenance
        except InputError as error:
            self._trainer.print_to_log_file(f"WARNING: earlier sessions of this training are unknown: {error}")
            return None

    @cached_property
    def _sessions_before(self) -> tuple[Any, ...]:
        if self._earlier is not None:
            return tuple(self._earlier.sessions)
        return (dict(UNKNOWN),) if self._trainer.resumed else ()

    @property
    def _folder(self) -> Path:
        return Path(self._trainer.output_folder)

    # --- files ------------------------------------------------------------------------------------------------------

    @cached_property
    def _inputs(self) -> tuple[HashedFiles, ...]:
        return tuple(self._hashed(self._read()))

    def _hashed(self, each: Iterator[Callable[[], HashedFiles]]) -> Iterator[HashedFiles]:
        """Yield what can be hashed; a file that cannot is told, and left out."""
        for make in each:
            try:
                yield make()
            except (InputError, OSError) as error:
                self._trainer.print_to_log_file(f"WARNING: a file has no hash in the run's record: {error}")

    def _read(self) -> Iterator[Callable[[], HashedFiles]]:
        trainer, beside = self._trainer, self._folder
        preprocessed, model = Path(trainer.preprocessed_dataset_folder_base), self._folder.parent
        plans = trainer.plans_manager.plans
        yield lambda: hashed_plans(model / "plans.json", trainer.configuration_name, plans, beside=beside)
        yield lambda: hashed_file("dataset.json", model / "dataset.json", beside=beside)
        if trainer.fold != "all" and (preprocessed / SPLITS).is_file():
            train, val = trainer.data.split
            yield lambda: hashed_split(preprocessed / SPLITS, trainer.fold, train, val, beside=beside)
        if (preprocessed / MANIFEST).is_file():
            yield lambda: hashed_file("cases and their origin", preprocessed / MANIFEST, beside=beside)
        yield lambda: hashed_data(Path(trainer.preprocessed_dataset_folder), beside=beside)
        yield from self._weights()

    def _weights(self) -> Iterator[Callable[[], HashedFiles]]:
        origin = self._trainer.origin
        if origin.file is not None:
            digest = origin.started_from.get("sha256")
            yield lambda: hashed_file(_WEIGHTS, origin.file, beside=self._folder, sha256=digest)
            return
        for known in self._earlier.inputs if self._earlier else ():
            if known.role == _WEIGHTS:
                yield lambda known=known: known  # type: ignore[misc]

    def _outputs(self) -> Iterator[Callable[[], HashedFiles]]:
        if self._trainer.current_epoch < self._trainer.num_epochs:
            return
        for path in (self._folder / name for name in _WRITTEN):
            if path.is_file():
                yield lambda path=path: hashed_file("result", path, beside=self._folder)  # type: ignore[misc]


def _licences_of_software(*packages: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            told: Any = metadata(package)
        except PackageNotFoundError:
            continue
        licence = (told.get("License-Expression") or told.get("License") or "").strip()
        found[f"{package} (software)"] = licence.splitlines()[0][:80] if licence else None
    return found
