"""Several models and folds predict together: one network in memory at a time, averages in a file for each case.

Cases come in small groups. Every member predicts the cases of a group and adds its probabilities to a file of each;
then the segmentations are written, and the files removed. So neither memory nor disk grows with the number of members
or cases, and a run that is stopped loses one group.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nnunetv2.inference import predict_from_raw_data as nnunet

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.scored_regions import target_of_dataset
from bdfm_nnunet.prediction.averaged_probabilities import MeanOnDisk
from bdfm_nnunet.prediction.case_images import find_cases
from bdfm_nnunet.prediction.case_workers import export_case
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.predictor import Predictor
from bdfm_nnunet.prediction.region_volumes import voxels_of

logger = logging.getLogger(__name__)

AVERAGES = ("logits", "probabilities")
CASES_TOGETHER = 4
"""Cases of a group beside an accelerator; on a CPU, where a case takes minutes, it is one."""
_SAME = ("labels", "regions_class_order", "channel_names", "file_ending")


@dataclass(frozen=True)
class Member:
    """What counts as one voice of an ensemble.

    Attributes:
        model: number of the model.
        folds: its folds that speak together, averaged before softmax as nnUNetv2_predict does.
        name: of the model's folder, and the fold where it is one of several.
    """

    model: int
    folds: slice
    name: str


@dataclass(frozen=True)
class EnsembleCase:
    """A case to predict.

    Attributes:
        name: case id.
        files: its images, by channel.
        output: path of the segmentation without ending.
        previous: segmentation of a cascade's stage before.
    """

    name: str
    files: tuple[str, ...]
    output: Path
    previous: str | None = None


@dataclass
class Averaged:
    """The average of a case so far.

    Attributes:
        mean: of the probabilities.
        properties: what the reader tells of the case.
        voxels: of each region, by member.
    """

    mean: MeanOnDisk
    properties: dict[str, Any]
    voxels: list[dict[str, int]] = field(default_factory=list)


class Ensemble:
    """Models that predict together.

    Args:
        folders: of the models.
        folds: of each model.
        make: makes a predictor, without a model.
        checkpoint: name of the file in each fold's folder.
        average: "logits": the folds of a model are averaged before softmax, as nnUNetv2_predict does, and the models'
            probabilities, as nnUNetv2_ensemble does. "probabilities": each fold of each model is a member.

    Raises:
        InputError: a model cannot be used, or they do not fit together.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        folds: Sequence[int | str],
        *,
        make: Callable[[], Predictor],
        checkpoint: str = "checkpoint_final.pth",
        average: str = "logits",
    ) -> None:
        _check_once(folders, folds)
        self.folders, self.folds, self.average = tuple(folders), tuple(folds), average
        self.predictors: list[Predictor] = []
        for folder in folders:
            predictor = make()
            predictor.only_threads = True  # processes would start anew for each member and group
            predictor.initialize_from_trained_model_folder(str(folder), folds, checkpoint)
            if len(folders) > 1:
                predictor.put_away()
            self.predictors.append(predictor)
        self._weights = [predictor.list_of_parameters for predictor in self.predictors]
        self._check_alike()

    @property
    def first(self) -> Predictor:
        """The first model's predictor; models agree in channels, labels, files and their reader."""
        return self.predictors[0]

    @cached_property
    def members(self) -> list[Member]:
        """The members; each counts the same, and as every model has the same folds, each model does."""
        names = [folder.resolve().name for folder in self.folders]
        names = names if len({*names}) == len(names) else [str(folder.resolve()) for folder in self.folders]
        if self.average == "logits":
            return [Member(number, slice(None), name) for number, name in enumerate(names)]
        return [
            Member(number, slice(at, at + 1), f"{name}/fold_{fold}")
            for number, name in enumerate(names)
            for at, fold in enumerate(self.folds)
        ]

    @cached_property
    def regions(self) -> dict[str, tuple[int, ...]]:
        """The regions whose volumes are told, by name their label values; those of dataset.json unless they are set."""
        path = str(self.folders[0] / "dataset.json")
        return target_of_dataset(self.first.dataset_json, name=self.folders[0].name, path=path).regions

    @property
    def overlapping(self) -> bool:
        """Whether the channels of probabilities are regions that overlap rather than classes."""
        return bool(self.first.label_manager.has_regions)

    @property
    def channels(self) -> list[frozenset[int]]:
        """The label values of each channel of probabilities."""
        labels = self.first.label_manager
        found = labels.foreground_regions if self.overlapping else labels.all_labels
        return [frozenset(map(int, each if isinstance(each, (list, tuple)) else [each])) for each in found]

    def _check_alike(self) -> None:
        for folder, other in zip(self.folders[1:], self.predictors[1:], strict=True):
            for key in _SAME:
                if self.first.dataset_json.get(key) != other.dataset_json.get(key):
                    raise InputError(
                        f"{folder / 'dataset.json'} has other {key} than {self.folders[0] / 'dataset.json'}: an "
                        "ensemble takes models of the same channels and labels"
                    )
            readers = [each.plans_manager.image_reader_writer_class.__name__ for each in (self.first, other)]
            if readers[0] != readers[1]:
                raise InputError(
                    f"{folder / 'plans.json'} reads images by {readers[1]} and {self.folders[0] / 'plans.json'} by "
                    f"{readers[0]}: an ensemble takes models with one reader"
                )

    # --- cases --------------------------------------------------------------------------------------------------

    def cases(
        self, images: str | list[list[str]], out: Path, *, previous: Path | None = None, part: int = 0, parts: int = 1
    ) -> list[EnsembleCase]:
        """Return the cases of a folder or a list of files, or one part of them.

        Raises:
            InputError: a case lacks a channel, or a model is of a cascade and there is no stage before.
        """
        self._check_cascade(previous)
        some_suffice = all(predictor.some_suffice for predictor in self.predictors)
        wanted = replace(self.first.images_wanted, some_suffice=some_suffice)
        found = []
        for files in find_cases(images, wanted)[part::parts]:
            name = Path(files[0]).name[: -len(wanted.ending) - len("_0000")]
            before = None if previous is None else str(previous / f"{name}{wanted.ending}")
            found.append(EnsembleCase(name, tuple(files), out / name, before))
        return found

    def _check_cascade(self, previous: Path | None) -> None:
        for folder, predictor in zip(self.folders, self.predictors, strict=True):
            stage = predictor.configuration_manager.previous_stage_name
            if stage is not None and previous is None:
                raise InputError(
                    f"{folder} is the second stage of a cascade: predict {stage} first and name that folder with "
                    "-prev_stage_predictions"
                )

    def check(self, cases: Sequence[EnsembleCase]) -> None:
        """Check the images of cases for every model, before the first is predicted.

        Raises:
            InputError: an image cannot be used.
        """
        seen: list[ImagesWanted] = []
        for predictor in self.predictors:
            wanted = predictor.images_wanted
            if cases and wanted not in seen:
                seen.append(wanted)
                before = cases[0].previous if self._uses_previous(predictor) else None
                previous = None if before is None else str(Path(before).parent)
                files, outputs = [list(case.files) for case in cases], [str(case.output) for case in cases]
                predictor._manage_input_and_output_lists(files, outputs, previous)

    @staticmethod
    def _uses_previous(predictor: Predictor) -> bool:
        return predictor.configuration_manager.previous_stage_name is not None

    # --- prediction ---------------------------------------------------------------------------------------------

    def groups(self, cases: Sequence[EnsembleCase]) -> Iterator[Sequence[EnsembleCase]]:
        """Yield the cases whose averages are on the disk at one time."""
        together = 1 if self.first.device.type == "cpu" else CASES_TOGETHER
        for start in range(0, len(cases), together):
            yield cases[start : start + together]

    def run(
        self,
        cases: Sequence[EnsembleCase],
        folder: Path,
        receive: Callable[[Member], Callable[..., Any]],
        *,
        preprocessing: int = 1,
        export: int = 1,
    ) -> Iterator[tuple[Member, list[Any]]]:
        """Let each member predict a group of cases; its network is gone before that of the next model is built.

        Args:
            cases: the group.
            folder: for files of the group.
            receive: gives for a member the function in the place of `export_case`; its output is `folder` / case id.
            preprocessing: workers.
            export: workers.

        Yields:
            Each member and what its function returned of each case.
        """
        for number, predictor in enumerate(self.predictors):
            members = [member for member in self.members if member.model == number]
            predictor.take_out()
            files, outputs = [list(case.files) for case in cases], [str(folder / case.name) for case in cases]
            previous = [case.previous if self._uses_previous(predictor) else None for case in cases]
            items: Any = predictor._internal_get_data_iterator_from_lists_of_filenames(
                files, previous, outputs, preprocessing
            )
            items = list(items) if len(members) > 1 else items
            for member in members:
                predictor.list_of_parameters = self._weights[number][member.folds]
                predictor.export = receive(member)
                yield member, predictor.predict_from_data_iterator(items, True, export)
            if len(self.predictors) > 1:
                predictor.put_away()
                predictor.list_of_parameters = []

    def averages(self, cases: Sequence[EnsembleCase], folder: Path, **workers: int) -> list[Averaged]:
        """Return the averages of a group of cases; their files lie in a folder."""
        found: list[Averaged] = []
        receive = partial(_adder, regions=self.regions, overlapping=self.overlapping, so_far=found)
        for member, received in self.run(cases, folder, receive, **workers):
            if not found:
                found += [Averaged(mean, properties) for mean, properties, _ in received]
            for average, (_, _, voxels) in zip(found, received, strict=True):
                average.voxels.append(voxels)
                average.mean.members = len(average.voxels)
            logger.debug("%s has predicted %d cases", member.name, len(cases))
        nnunet.empty_cache(self.first.device)
        return found


def _check_once(folders: Sequence[Path], folds: Sequence[int | str]) -> None:
    real = [str(folder.resolve()) for folder in folders]
    for what, values in (("model", real), ("fold", [str(fold) for fold in folds])):
        if twice := [value for value in values if values.count(value) > 1]:
            raise InputError(f"{what} {twice[0]} is named twice, and would count twice: name it once")


def _adder(
    member: Member, *, regions: dict[str, tuple[int, ...]], overlapping: bool, so_far: Sequence[Averaged]
) -> Callable[..., Any]:
    before = so_far[0].mean.members if so_far else 0
    return partial(add_to_mean, before=before, regions=regions, overlapping=overlapping)


def add_to_mean(
    logits: Any,
    properties: dict[str, Any],
    configuration: Any,
    plans: Any,
    dataset: dict[str, Any],
    output: str,
    *ignored: Any,
    before: int,
    regions: dict[str, tuple[int, ...]],
    overlapping: bool,
) -> tuple[MeanOnDisk, dict[str, Any], dict[str, int]]:
    """Add the probabilities of a case to its file; it takes the place of `export_case`.

    Returns:
        The file, the properties of the case, and the voxels of each region in the member's own segmentation.
    """
    labels, probabilities = export_case(logits, properties, configuration, plans, dataset, None, True)
    mean = MeanOnDisk(Path(output), probabilities.shape, regions=overlapping, members=before)
    mean.add(probabilities)
    return mean, properties, voxels_of(labels, regions)
