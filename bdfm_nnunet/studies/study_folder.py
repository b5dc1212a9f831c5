"""The folder of a study: its settings and parts, and its own view of the preprocessed data, made once.

DIR/settings.json                 settings, parts of the data set, weights
DIR/preprocessed/DatasetXXX_NAME  plans and splits of this study; data and labels are links
DIR/tasks/NAME                    result.json of a finished task, and what it needs while it runs
DIR/study.json, study.md, result.json, figures/
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.label_subsets import Parts, divide
from bdfm_nnunet.dataset_conversion.splits import cases_of_splits
from bdfm_nnunet.dataset_conversion.target_strata import TargetStrata
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, sha256_of, write_atomically, write_json
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.nnunet_files import read_dataset_json, read_plans_file
from bdfm_nnunet.nnunet_folders import VARIABLES, dataset_folders, dataset_name, nnunet_folder
from bdfm_nnunet.plans.plans_lookup import read_plans
from bdfm_nnunet.plans.variants import derive
from bdfm_nnunet.presets import SUBJECT_TYPES
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.studies.study_settings import Arm, StudySettings
from bdfm_nnunet.targets import TARGETS_TYPES, Targets, copy_targets, read_targets
from bdfm_nnunet.targets.target_choice import chosen_targets

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
_SIDES = {"test": [str], "validation": [str], "train": [str]}
_PARTS = {**_SIDES, "subsets": [[[str]]], "patients": {str: str}, "turns?": [_SIDES]}
_SHAPE = {"settings": {str: object}, "parts": _PARTS, "weights": {str: {"path": str, "sha256": str}}}
_MAY_GROW = ("arms", "seeds")
_WAIT = 600.0


@dataclass(frozen=True)
class StudyFolder:
    """A study that is prepared.

    Attributes:
        path: its folder.
        settings: of the study.
        parts: cases of the data set.
        weights: as the arms name them -> path and SHA-256 of the file.
    """

    path: Path
    settings: StudySettings
    parts: Parts
    weights: Mapping[str, Mapping[str, str]]

    @classmethod
    def open(cls, path: Path) -> "StudyFolder":
        """Read a study that is prepared.

        Raises:
            InputError: the folder holds none.
        """
        if not (path / SETTINGS).is_file():
            raise InputError(
                f"{path} holds no study ({SETTINGS} is missing): start one with `bdfm study FILE.toml -o DIR`"
            )
        content = read_json(path / SETTINGS, _SHAPE)
        settings = StudySettings.from_dict(content["settings"])
        return cls(path.absolute(), settings, Parts.from_dict(content["parts"]), content["weights"])

    @property
    def preprocessed(self) -> Path:
        """The study's own nnUNet_preprocessed."""
        return self.path / "preprocessed"

    @cached_property
    def dataset(self) -> str:
        """Name of the data set whose labels are learnt."""
        return dataset_in(self.preprocessed, self.settings.dataset)

    def pretraining_dataset(self, arm: Arm) -> str:
        """Return the name of the data set on which an arm, complete, is pre-trained."""
        return self.dataset if arm.pretrain_on is None else dataset_in(self.preprocessed, arm.pretrain_on)

    def plans(self, dataset: str, name: str) -> dict[str, Any]:
        """Return plans as they were when the study began."""
        return read_plans_file(self.preprocessed / dataset / f"{name}.json")

    def dataset_json(self, dataset: str) -> dict[str, Any]:
        """Return dataset.json of a data set."""
        return read_dataset_json(self.preprocessed / dataset / "dataset.json")

    @cached_property
    def targets(self) -> Targets:
        """The targets of the data set, as they were when the study began.

        Raises:
            InputError: they cannot be read.
        """
        return read_targets(self.preprocessed / self.dataset)

    @cached_property
    def target_names(self) -> list[str]:
        """The targets that are learnt and scored; none where the arms segment."""
        return _target_names(self.settings, self.targets) if self.settings.subject_trainer else []

    def fold(self, fraction: float, seed: int) -> int:
        """Return the fold with the label fraction of a seed."""
        count = len(self.settings.fractions) + self.settings.rotate
        return 1 + seed * count + self.settings.fractions.index(fraction)

    def pretraining_fold(self, seed: int) -> int:
        """Return the fold with all training cases of a seed."""
        return seed * (len(self.settings.fractions) + 1) if self.settings.rotate else 0


def dataset_in(folder: Path, number: int) -> str:
    """Return the name of a data set in a folder that holds it."""
    return next(path.name for path in folder.glob(f"Dataset{number:03d}_*"))


def prepare(settings: StudySettings, path: Path) -> StudyFolder:
    """Prepare the folder of a study, or find that it is; arms and seeds may have been added since.

    Args:
        settings: of the study.
        path: the folder.

    Raises:
        InputError: the folder holds another study or something else, or the data set is not planned.
    """
    with hold_lock(path / ".study.lock", otherwise=f"another process prepares {path}: try again", wait=_WAIT):
        there = StudyFolder.open(path) if (path / SETTINGS).exists() else None
        if there is not None:
            _check_same(settings, there.settings, path)
            if there.settings == settings:
                return there
        elif others := [each.name for each in path.iterdir() if each.name not in (".study.lock", "preprocessed")]:
            raise InputError(f"{path} holds {others[0]}, and is no folder of a study: name an empty or a new folder")
        if there is None:  # what a refused study has left is not of the plans of today
            shutil.rmtree(path / "preprocessed", ignore_errors=True)
        _snapshot(settings, path / "preprocessed")
        _check_arms(settings, path / "preprocessed")
        parts = _parts(settings, path / "preprocessed")
        if there is not None:
            _check_parts(parts, there.parts, path)
        weights: dict[str, Mapping[str, str]] = {
            arm.weights: _found(arm.weights) for arm in settings.arms if arm.weights != "none"
        }
        if there is not None:
            weights |= {name: there.weights[name] for name in weights if name in there.weights}
        _write_splits(settings, parts, path / "preprocessed")
        content = {"settings": settings.as_dict(), "parts": asdict(parts), "weights": weights}
        write_json(path / SETTINGS, content)
    return StudyFolder.open(path)


def _check_same(new: StudySettings, old: StudySettings, path: Path) -> None:
    """Refuse another study in the same folder; arms may be added, and seeds."""
    first, second = old.as_dict(), new.as_dict()
    for name in first:
        if first[name] != second[name] and name not in _MAY_GROW:
            raise InputError(
                f"{path} holds a study with {name} = {first[name]}, this one has {second[name]}: name a new folder, or "
                "give the settings of that study"
            )
    changed = [name for name, arm in first["arms"].items() if second["arms"].get(name) != arm]
    if changed or new.seeds < old.seeds:
        what = f"another arm {changed[0]}" if changed else f"{old.seeds} seeds instead of {new.seeds}"
        raise InputError(f"{path} holds a study with {what}: name a new folder; arms and seeds may only be added")


def _check_parts(new: Parts, old: Parts, path: Path) -> None:
    ours, theirs = asdict(new), asdict(old)
    for name in ("subsets", "turns"):
        ours[name] = ours[name][: len(old.subsets)]
    if ours != theirs:
        raise InputError(f"the cases of the data set have changed since the study in {path} began: name a new folder")


def _parts(settings: StudySettings, preprocessed: Path) -> Parts:
    folders = dataset_folders(settings.dataset)
    labels = read_dataset_json(nnunet_folder("nnUNet_preprocessed") / folders[-1].name / "dataset.json")["labels"]
    cases = cases_of_splits(folders, None)
    by_target = None
    if settings.subject_trainer:
        targets = read_targets(preprocessed / folders[-1].name)
        names = _target_names(settings, targets)
        by_target = TargetStrata.of(targets, names, [row["case"] for row in cases.of_part("train")])
    return divide(
        cases,
        labels,
        hold_out=settings.hold_out / 100,
        validation=settings.validation / 100,
        fractions=[fraction / 100 for fraction in settings.fractions],
        seeds=settings.seeds,
        seed=settings.split_seed,
        rotate=settings.rotate,
        by_target=by_target,
    )


def _target_names(settings: StudySettings, targets: Targets) -> list[str]:
    trainer = settings.subject_trainer
    about: Any = {"types": SUBJECT_TYPES[trainer], "trainer": trainer, "dataset": dataset_name(settings.dataset)}
    return chosen_targets(targets, settings.targets, **about)


def _found(weights: str) -> dict[str, str]:
    from bdfm_nnunet.checkpoints.last_training import named_checkpoint  # torch, for seconds

    named, notes = named_checkpoint(os.path.expanduser(weights))
    for note in notes:
        logger.info("%s", note)
    path = named.absolute()
    if not path.exists():
        raise InputError(f"weights {weights} of an arm do not exist: give the path of a checkpoint")
    return {"path": str(path), "sha256": _digest(path)}


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a folder of a model hub, that of all of its files."""
    if path.is_file():
        return sha256_of(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    told = "".join(f"{each.relative_to(path)} {sha256_of(each)}\n" for each in files)
    return hashlib.sha256(told.encode()).hexdigest()


def _check_arms(settings: StudySettings, preprocessed: Path) -> None:
    """Check that plans take the settings of every arm, before hours of work for the others."""
    for arm in map(settings.complete, settings.arms):
        pretrained = arm.pretrain_on or settings.dataset
        wanted = [(settings.dataset, {**arm.set, **trial}) for trial in settings.trials(arm)]
        for number, values in [*wanted, *([(pretrained, arm.pretrain_set)] if arm.pretrain else [])]:
            plans = read_plans_file(preprocessed / dataset_in(preprocessed, number) / f"{arm.plans}.json")
            try:
                derive(plans, arm.configuration, values)
            except InputError as error:
                raise InputError(f"arm {arm.name}: {error}") from None


# ------------------------------------------------------------------------------------------------ preprocessed data


def _snapshot(settings: StudySettings, target: Path) -> None:
    """Copy plans and the like of the data sets into the study's folder, and link the data; what is there stays."""
    for variable in VARIABLES[:2]:
        nnunet_folder(variable)
    complete = [settings.complete(arm) for arm in settings.arms]
    wanted = [(settings.dataset, arm.plans) for arm in complete]
    wanted += [(arm.pretrain_on, arm.plans) for arm in complete if arm.pretrain_on is not None]
    for number, plans in dict.fromkeys(wanted):
        read_plans(number, plans)  # its error names the command that plans
        source = nnunet_folder("nnUNet_preprocessed") / dataset_name(number)
        own = number == settings.dataset
        for path in sorted(source.iterdir()):
            if not path.name.startswith(".") and not (own and path.name == SPLITS):
                _bring(path, target / source.name / path.name)
    if settings.subject_trainer:
        _bring_targets(dataset_folders(settings.dataset), target / dataset_name(settings.dataset))


def _bring_targets(sources: Sequence[Path], target: Path) -> None:
    """Copy targets that lie beside the raw data alone."""
    if not (target / TARGETS_TYPES).is_file():
        for source in sources:
            copy_targets(source, target)


def _bring(source: Path, target: Path) -> None:
    if os.path.lexists(target):
        return
    if source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source.absolute(), target_is_directory=True)
        return
    with write_atomically(target) as temporary:
        shutil.copyfile(source, temporary)


def _write_splits(settings: StudySettings, parts: Parts, preprocessed: Path) -> None:
    """Write a fold with all training cases, and one for each seed and fraction.

    A fold without validation cases has its training cases in their place, for nnU-Net's curves.
    """
    folds = []
    for seed, subsets in enumerate(parts.subsets):
        sides = parts.sides(seed)
        whole = [sides.train] if settings.rotate or seed == 0 else []
        folds += [{"train": train, "val": sides.validation or train} for train in [*whole, *subsets]]
    write_json(preprocessed / dataset_in(preprocessed, settings.dataset) / SPLITS, folds)
