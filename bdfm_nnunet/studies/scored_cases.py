"""The cases that a study is tested on: held-out ones of its data set, or those of another one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.folder_scores import evaluate_folders
from bdfm_nnunet.evaluation.scored_regions import target_of_dataset
from bdfm_nnunet.exposure import Exposure, compare
from bdfm_nnunet.locks import hold_lock
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import OPEN_RELEASES, groups, read_cases
from bdfm_nnunet.plans.plans_lookup import raw_folder
from bdfm_nnunet.plans.training_files import find_training_files
from bdfm_nnunet.studies.arm_training import preprocess_test_cases
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_settings import Arm
from bdfm_nnunet.targets import TargetColumn, Targets, read_targets

_WAIT = 24 * 3600.0


@dataclass(frozen=True)
class CaseSet:
    """Cases that are predicted and scored.

    Attributes:
        cases: their ids.
        data: folder with the preprocessed cases.
        reference: folder with their label maps.
    """

    cases: list[str]
    data: Path
    reference: Path


def validation_set(study: StudyFolder, arm: Arm, seed: int) -> CaseSet:
    """Return the cases by which the settings of an arm are chosen."""
    return _own(study, arm, study.parts.sides(seed).validation)


def held_out_set(study: StudyFolder, arm: Arm, seed: int) -> CaseSet:
    """Return the cases that a seed is tested on, those of another data set preprocessed once.

    Raises:
        InputError: the other data set does not fit.
    """
    if study.settings.test is None:
        return _own(study, arm, study.parts.sides(seed).test)
    raw = raw_folder(study.settings.test)
    _check_fits(study, raw)
    own = study.settings.test == study.settings.dataset
    files = _files_of_test_part(study, raw) if own else find_training_files(raw)
    if study.settings.subject_trainer:
        files = {case: files[case] for case in _with_value(study, raw, sorted(files))}
    plans = PlansManager(study.plans(study.dataset, arm.plans))
    configuration = plans.get_configuration(arm.configuration)
    out = study.path / "test" / f"{arm.plans}_{arm.configuration}"
    dataset = study.dataset_json(study.dataset)
    with hold_lock(out.with_name(".lock"), otherwise=f"another process preprocesses {raw}: try again", wait=_WAIT):
        preprocess_test_cases(files, plans=plans, configuration=configuration, dataset_json=dataset, out=out)
    return CaseSet(sorted(files), out, raw / ("labelsTs" if own else "labelsTr"))


def _files_of_test_part(study: StudyFolder, raw: Path) -> dict[str, Any]:
    """Return images and label of the test cases that a data set has beside its training cases."""
    ending = str(study.dataset_json(study.dataset)["file_ending"])
    labels = sorted((raw / "labelsTs").glob(f"*{ending}"))
    if not labels:
        raise InputError(
            f"{raw} has no labelled test cases in imagesTs and labelsTs, and its training cases cannot test: name "
            "another data set with --test, or hold some out with --hold-out 20"
        )
    channels = range(len(channels_of(study.dataset_json(study.dataset))))
    names = {label.name.removesuffix(ending): label for label in labels}
    return {
        case: {"images": [raw / "imagesTs" / f"{case}_{channel:04d}{ending}" for channel in channels], "label": label}
        for case, label in names.items()
    }


def targets_of(study: StudyFolder) -> Targets:
    """Return the targets of the test cases.

    Raises:
        InputError: those of the other data set cannot be read, or are not the same.
    """
    other = study.settings.test
    if other is None or other == study.settings.dataset:
        return study.targets
    found = read_targets(*dataset_folders(other))
    for name in study.target_names:
        ours, theirs = study.targets.columns[name], found.columns.get(name)
        if ours != theirs:
            has = "none of this name" if theirs is None else f"one of {theirs.type} with {_described(theirs)}"
            raise InputError(
                f"{study.dataset} has the target {name} of {ours.type} with {_described(ours)}, the test data set "
                f"{other} has {has}: install the same with `bdfm targets`"
            )
    return found


def _described(column: TargetColumn) -> str:
    return f"the classes {', '.join(column.classes)}" if column.classes else f"the unit {column.unit or 'none'}"


def _with_value(study: StudyFolder, raw: Path, cases: list[str]) -> list[str]:
    """Return the cases of which a target is known."""
    targets = targets_of(study)
    known = {case for name in study.target_names for case in targets.known(name)}
    if not known & set(cases):
        names = " or ".join(study.target_names)
        raise InputError(f"no test case in {raw} has a value of {names}: install them with `bdfm targets`")
    return [case for case in cases if case in known]


def _own(study: StudyFolder, arm: Arm, cases: list[str]) -> CaseSet:
    folder = study.preprocessed / study.dataset
    plans = PlansManager(study.plans(study.dataset, arm.plans))
    data = folder / plans.get_configuration(arm.configuration).data_identifier
    return CaseSet(cases, data, folder / "gt_segmentations")


def _check_fits(study: StudyFolder, raw: Path) -> None:
    ours, theirs = study.dataset_json(study.dataset), read_dataset_json(raw / "dataset.json")
    for what, first, second in (
        ("channels", channels_of(ours), channels_of(theirs)),
        ("labels", ours["labels"], theirs["labels"]),
        ("file_ending", ours["file_ending"], theirs["file_ending"]),
    ):
        if first != second:
            raise InputError(f"{raw} has the {what} {second}, {study.dataset} has {first}: test on a data set like it")


def score(study: StudyFolder, cases: CaseSet, predictions: Path, out: Path | None = None) -> dict[str, Any]:
    """Return the scores of predicted cases, in the form of `evaluate_folders`, which can write them to a file too."""
    path = study.preprocessed / study.dataset / "dataset.json"
    dataset = study.dataset_json(study.dataset)
    release = dataset.get("release")
    name = release if isinstance(release, str) and release not in OPEN_RELEASES else study.dataset
    target = target_of_dataset(dataset, name=name, path=str(path))
    return evaluate_folders(
        cases.reference,
        predictions,
        regions=target.regions,
        release=target.name,
        ignore=target.ignore,
        only_predicted=True,
        progress=False,
        out=out,
    )


def mean_dice(scores: dict[str, Any]) -> float:
    """Return the mean Dice over cases and regions.

    Example:
        >>> mean_dice({"cases": [{"regions": {"a": {"dice": 0.5}, "b": {"dice": None}}}]})
        0.5
    """
    found = [region["dice"] for case in scores["cases"] for region in case["regions"].values()]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if known else 0.0


def patients_of(study: StudyFolder) -> dict[str, str]:
    """Return the patient of each test case."""
    if study.settings.test is None:
        return {case: study.parts.patients[case] for case in study.parts.test}
    cases = read_cases(raw_folder(study.settings.test))
    return groups(cases.rows, cases.scope)


def cases_seen(study: StudyFolder, checkpoint: Path, cases: CaseSet) -> str:
    """Return a sentence on the test cases that the weights have seen in any training; empty where there are none."""
    own = study.settings.test is None
    listed = read_cases(study.preprocessed / study.dataset) if own else read_cases(cases.reference.parent)
    exposure = Exposure.of_checkpoint(read_checkpoint(checkpoint))
    return compare(exposure, listed, dict.fromkeys(cases.cases, "test"), checkpoint=checkpoint.name).warning()
