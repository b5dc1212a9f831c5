"""What each model, fold and mirroring brings to an ensemble, measured on cases with references.

Each member predicts a case once with mirroring and once without; its probabilities lie in a file until the case is
scored: the whole ensemble, each part alone, and the ensemble without it. Of a case stay its scores, some thousand drawn
voxels for the calibration, and the segmentations that are wanted.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.folder_scores import score_case, without_ignored
from bdfm_nnunet.evaluation.scored_regions import Target
from bdfm_nnunet.evaluation.temperature import VoxelSample, draw_voxels
from bdfm_nnunet.evaluation.tuning import objective
from bdfm_nnunet.evaluation.voxelwise import dice
from bdfm_nnunet.files import read_json, sweep, unfinished, write_atomically, write_json
from bdfm_nnunet.prediction.case_workers import export_case, whole_case
from bdfm_nnunet.prediction.ensemble_prediction import Ensemble, EnsembleCase, Member
from bdfm_nnunet.prediction.region_volumes import voxels_of

ALL, NOT_MIRRORED, ALONE, WITHOUT = "all", "all, not mirrored", "alone", "without"
_CASE = {"scores": {str: {str: (float, None)}}, "volumes": {str: [float]}, "fold": (str, None)}
Values = NDArray[np.float32]


@dataclass(frozen=True)
class EnsemblePart:
    """Some members of an ensemble.

    Attributes:
        name: of the part, like "fold_0"; "" for everything.
        kind: `ALL`, `NOT_MIRRORED`, `ALONE` or `WITHOUT`.
        members: their numbers.
    """

    name: str
    kind: str
    members: tuple[int, ...]

    @property
    def title(self) -> str:
        """As it stands in tables."""
        return {ALONE: f"{self.name} alone", WITHOUT: f"without {self.name}"}.get(self.kind, self.kind)


def parts_of(ensemble: Ensemble, *, mirrored: bool) -> list[EnsemblePart]:
    """Return the parts of an ensemble whose members are folds: everything, then each model and each fold.

    Args:
        ensemble: its `average` is "probabilities".
        mirrored: whether mirroring may be left out.
    """
    members = ensemble.members
    everyone = tuple(range(len(members)))
    found = [EnsemblePart("", ALL, everyone)]
    if mirrored:
        found.append(EnsemblePart("", NOT_MIRRORED, everyone))
    groups: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        model, _, fold = member.name.rpartition("/")
        for name, several in ((model, len(ensemble.folders) > 1), (fold, len(ensemble.folds) > 1)):
            if several:
                groups.setdefault(name, []).append(number)
    if min(len(ensemble.folders), len(ensemble.folds)) > 1:
        groups.update({member.name: [number] for number, member in enumerate(members)})
    for name, own in groups.items():
        found.append(EnsemblePart(name, ALONE, tuple(own)))
        found.append(EnsemblePart(name, WITHOUT, tuple(sorted({*everyone} - {*own}))))
    return found


@dataclass(frozen=True, kw_only=True)
class EnsembleTrial:
    """A trial of an ensemble on cases with references; it goes on where it was stopped.

    Attributes:
        folder: of its results, a file for each case.
        target: the regions that are scored.
        metrics: version of the metrics; of "whole" only Dice is computed.
        task: takes the rules of this task for the release's own.
        keep: title of a part -> folder of its segmentations, for the parts that are wanted.
        mirroring: whether what it brings is measured.
    """

    folder: Path
    target: Target
    metrics: str = "whole"
    task: str | None = None
    keep: Mapping[str, Path] = field(default_factory=dict)
    mirroring: bool = True

    def run(
        self, ensemble: Ensemble, cases: Sequence[EnsembleCase], references: Mapping[str, Path], *,
        fold: str | None = None, preprocessing: int = 1, export: int = 1,
    ) -> None:  # fmt: skip
        """Predict and score the cases that are not done yet.

        Args:
            ensemble: every fold is a member.
            cases: of the ensemble.
            references: of each case.
            fold: for the table: the fold that did not learn from these cases.
            preprocessing: workers.
            export: workers.

        Raises:
            InputError: an image or a reference cannot be used, or a file cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        left = [case for case in cases if not self._is_done(case.name, ensemble)]
        ensemble.check(left)
        axes = ensemble.first.allowed_mirroring_axes
        both = self.mirroring and bool(axes) and ensemble.first.use_mirroring
        for group in tqdm(list(ensemble.groups(left)), desc="ensemble", unit="group", disable=None):
            folder = unfinished(self.folder / "members")
            folder.mkdir()
            try:
                found: list[dict[str, Any]] = [{} for _ in group]
                for mirrored in (True, False) if both else (True,):
                    found = _predict(ensemble, group, folder, mirrored, preprocessing, export)
                for case, properties in zip(group, found, strict=True):
                    scored = _Scored(self, ensemble, case, properties, folder / case.name, references[case.name])
                    scored.write(parts_of(ensemble, mirrored=both), fold)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _is_done(self, case: str, ensemble: Ensemble) -> bool:
        ending = ensemble.first.dataset_json["file_ending"]
        kept = [folder / f"{case}{ending}" for folder in self.keep.values()]
        return all(path.is_file() for path in (self.case_file(case), self._voxel_file(case), *kept))

    def case_file(self, case: str) -> Path:
        """Return the file of scores of a case."""
        return self.folder / f"{case}.json"

    def _voxel_file(self, case: str) -> Path:
        return self.folder / f"{case}.npz"

    def scores(self, cases: Sequence[str]) -> list[dict[str, Any]]:
        """Return what is written of cases: "scores" by part and region, "volumes" by region and "fold".

        Raises:
            InputError: a file is missing or damaged.
        """
        return [read_json(self.case_file(case), _CASE) for case in cases]

    def samples(self, cases: Sequence[str]) -> list[VoxelSample]:
        """Return the drawn voxels of cases.

        Raises:
            InputError: a file is missing or damaged.
        """
        return [read_sample(self._voxel_file(case)) for case in cases]


def write_sample(path: Path, sample: VoxelSample) -> None:
    """Write drawn voxels whole or not at all."""
    with write_atomically(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **vars(sample))


def read_sample(path: Path) -> VoxelSample:
    """Read drawn voxels.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return VoxelSample(
                content["probabilities"], content["truth"], content["weights"], content["doubtful"],
                bool(content["regions"]),
            )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}): remove it and run the command again") from None


def _predict(
    ensemble: Ensemble, group: Sequence[EnsembleCase], folder: Path, mirrored: bool, preprocessing: int, export: int
) -> list[dict[str, Any]]:
    """Let every member predict a group into files, and return the properties of each case."""
    before = [predictor.use_mirroring for predictor in ensemble.predictors]
    for predictor in ensemble.predictors:
        predictor.use_mirroring &= mirrored
    found: list[dict[str, Any]] = []
    try:
        receive = partial(_saver, members=ensemble.members, mirrored=mirrored)
        for _, properties in ensemble.run(group, folder, receive, preprocessing=preprocessing, export=export):
            found = properties
    finally:
        for predictor, mirroring in zip(ensemble.predictors, before, strict=True):
            predictor.use_mirroring = mirroring
    return found


def _saver(member: Member, *, members: list[Member], mirrored: bool) -> Callable[..., Any]:
    return partial(save_probabilities, name=_file_of(members.index(member), mirrored))


def _file_of(member: int, mirrored: bool) -> str:
    return f"{member}{'' if mirrored else '_plain'}.npy"


def save_probabilities(
    logits: Any, properties: dict[str, Any], configuration: Any, plans: Any, dataset: dict[str, Any], output: str,
    *ignored: Any, name: str,
) -> dict[str, Any]:  # fmt: skip
    """Save the probabilities of a case under `output`; it takes the place of `export_case`.

    Raises:
        InputError: the file cannot be written.
    """
    _, probabilities = export_case(logits, properties, configuration, plans, dataset, None, True)
    with write_atomically(Path(output) / name) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.asarray(probabilities, dtype=np.float32))
    return properties


@dataclass(frozen=True)
class _Scored:
    """A case whose members lie in files."""

    trial: EnsembleTrial
    ensemble: Ensemble
    case: EnsembleCase
    properties: dict[str, Any]
    files: Path
    reference: Path

    def write(self, parts: Sequence[EnsemblePart], fold: str | None) -> None:
        """Score every part and write what stays of the case."""
        reference = self._read_reference()
        total = self._sum(parts[0].members, mirrored=True)
        scores: dict[str, Any] = {}
        volumes: dict[str, list[float]] = {}
        voxel = float(np.prod(self.properties["spacing"]))
        for part in parts:
            mean = self._mean(part, total, len(parts[0].members))
            labels = self.ensemble.first.label_manager.convert_probabilities_to_segmentation(mean)
            scores[part.title] = self._score(reference, labels)
            if part.title in self.trial.keep:
                self._keep(labels, self.trial.keep[part.title])
            if part.kind == ALL:
                self._draw(mean, reference)
                kinds = [voxels_of(values, self.trial.target.regions)
                         for values in without_ignored(reference, labels, self.trial.target.ignore)]  # fmt: skip
                volumes = {name: [each[name] * voxel for each in kinds] for name in self.trial.target.regions}
        write_json(self.trial.case_file(self.case.name), {"scores": scores, "volumes": volumes, "fold": fold})

    def _mean(self, part: EnsemblePart, total: Values, members: int) -> Values:
        if part.kind == ALL:
            return total / np.float32(members)
        if part.kind == NOT_MIRRORED:
            return self._sum(part.members, mirrored=False) / np.float32(members)
        return self._sum(part.members, mirrored=True) / np.float32(len(part.members))

    def _sum(self, members: Sequence[int], *, mirrored: bool) -> Values:
        total: Values | None = None
        for member in members:
            own = np.load(self.files / _file_of(member, mirrored), allow_pickle=False)
            total = own if total is None else total + own
        assert total is not None
        return total

    def _read_reference(self) -> NDArray[Any]:
        """Return the reference (Z, Y, X) as the model's reader gives it."""
        reader = self.ensemble.first.plans_manager.image_reader_writer_class()
        try:
            values = reader.read_seg(str(self.reference))[0][0]
        except Exception as error:  # readers of any format
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"{self.reference} cannot be read ({reason}): copy it anew") from error
        wanted = tuple(self.properties["shape_before_cropping"])
        back = self.ensemble.first.plans_manager.transpose_backward
        if tuple(values.shape) != tuple(wanted[axis] for axis in back):
            raise InputError(
                f"{self.reference} has {values.shape} voxels and its image {wanted}: give the reference of that image"
            )
        target = self.trial.target
        known = {0, *(value for values in target.regions.values() for value in values)}
        known |= set() if target.ignore is None else {target.ignore}
        strange = [value for value in np.unique(values).tolist() if value not in known]
        if strange:
            raise InputError(
                f"{self.reference} holds the label {strange[0]:g} where the models know {sorted(known)}: give "
                "references with the labels of the models"
            )
        return np.asarray(values, dtype=np.int32)

    def _score(self, reference: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
        target, metrics = self.trial.target, self.trial.metrics
        first, second = without_ignored(reference, labels, target.ignore)
        if metrics == "whole":
            return {name: dice(np.isin(first, values), np.isin(second, values))
                    for name, values in target.regions.items()}  # fmt: skip
        spacing = self.properties["spacing"][::-1]
        found = score_case(first.transpose(2, 1, 0), second.transpose(2, 1, 0), spacing=spacing, regions=target.regions,
                           release=target.name, metrics=metrics, task=self.trial.task)  # fmt: skip
        return {name: scores[objective(metrics)] for name, scores in found.items()}

    def _draw(self, mean: Values, reference: NDArray[Any]) -> None:
        """Draw voxels for the calibration."""
        labels = self.ensemble.first.label_manager
        channels = labels.foreground_regions if labels.has_regions else labels.all_labels
        truth = np.stack([np.isin(reference, channel) for channel in channels])
        known = np.ones(reference.shape, dtype=bool)
        if self.trial.target.ignore is not None:
            known = reference != self.trial.target.ignore
        seed = sum(self.case.name.encode())
        sample = draw_voxels(mean, truth, known, regions=labels.has_regions, seed=seed)
        write_sample(self.trial._voxel_file(self.case.name), sample)

    def _keep(self, labels: NDArray[Any], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        model = self.ensemble.first
        kind = np.uint8 if labels.max() < 256 else np.uint16
        with whole_case(folder / self.case.name, model.plans_manager, model.dataset_json) as temporary:
            writer = model.plans_manager.image_reader_writer_class()
            writer.write_seg(labels.astype(kind), f"{temporary}{model.dataset_json['file_ending']}", self.properties)


def scores_by_part(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[float]]]:
    """Yield the title of each part and its mean over regions of each case, NaN where it has none.

    Args:
        rows: of `EnsembleTrial.scores`; where they have folds, each fold's cases are a part too.
    """
    titles = list(dict.fromkeys(title for row in rows for title in row["scores"]))
    for title in titles:
        yield title, [_mean_score(row["scores"].get(title)) for row in rows]
    folds = sorted({row["fold"] for row in rows if row["fold"] is not None})
    for fold in folds:
        yield f"cases of {fold}", [_mean_score(row["scores"][ALL]) if row["fold"] == fold else np.nan for row in rows]


def _mean_score(regions: Mapping[str, float | None] | None) -> float:
    values = np.array([*(regions or {}).values()], dtype=np.float64)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
