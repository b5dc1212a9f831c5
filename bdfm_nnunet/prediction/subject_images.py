"""Where the images of a subject-level prediction come from: files, or the preprocessed cases of a data set."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from numpy.typing import NDArray

from bdfm_nnunet.data.checked_cases import checked, reading
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json, read_plans_file, resolve_configuration
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.prediction.case_images import check_cases, find_cases
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.known_inputs import KnownInputs
from bdfm_nnunet.prediction.missing_channels import tell_missing, without_missing

Preprocessed = tuple[NDArray[np.float32], dict[str, Any]]
"""Images (C, *spatial) as the network takes them, and what nnU-Net's preprocessing tells of the case."""
_PREPROCESSING = ("spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name")


class SubjectImages(Protocol):
    """The images of some cases."""

    @property
    def names(self) -> Sequence[str]:
        """Ids of the cases."""

    @property
    def by_nibabel(self) -> bool:
        """Whether their reader takes what SimpleITK refuses."""

    def check(self, *, workers: int, with_maps: bool, inputs: KnownInputs) -> None:
        """Raise InputError if one cannot be used or is refused, or maps cannot be written on its grid."""

    def read(self, case: str) -> Preprocessed:
        """Return a case as the network takes it."""

    def image(self, case: str) -> Path:
        """Return the image whose grid maps of a case are written on."""


class ImageFiles:
    """Cases as image files, preprocessed by the plans of a model.

    Args:
        plans: nnU-Net's view of the model's plans.
        configuration: nnU-Net's view of its configuration.
        dataset: content of its dataset.json.
        files: case to its channels, or a folder of CASE_0000.nii.gz and further channels.
        some_suffice: whether cases in a folder may lack channels, as the model has learnt to do without.

    Raises:
        InputError: the folder does not exist or holds no images, or a case lacks a channel.
    """

    def __init__(
        self,
        plans: Any,
        configuration: Any,
        dataset: dict[str, Any],
        files: Path | Mapping[str, Sequence[str]],
        *,
        some_suffice: bool = False,
    ) -> None:
        self.plans, self.configuration, self.dataset = plans, configuration, dataset
        self.wanted = ImagesWanted.of(plans, configuration, dataset, some_suffice=some_suffice)
        if isinstance(files, Path):
            number = len(f"_0000{self.wanted.ending}")
            files = {Path(each[0]).name[:-number]: each for each in find_cases(str(files), self.wanted)}
        self.files, self.names, self.by_nibabel = files, [*files], self.wanted.by_nibabel

    def check(self, *, workers: int, with_maps: bool, inputs: KnownInputs) -> None:
        """Read all images, and tell which do not look like those of the training.

        Raises:
            InputError: one cannot be used, departs from the training cases where that is refused, or is no NIfTI and
                maps are wanted.
        """
        cases = list(self.files.values())
        count, is_nifti = len(self.wanted.channels), self.wanted.ending in NIFTI
        if wrong := [case for case, files in self.files.items() if is_nifti and len(files) != count]:
            raise InputError(
                f"case {wrong[0]} has {len(self.files[wrong[0]])} images, the model needs {count} "
                f"({', '.join(self.wanted.channels)}): give the images with -i, or convert the data set again"
            )
        tell_missing(cases, self.wanted)
        if with_maps and not is_nifti:
            raise InputError(
                f"--saliency writes NIfTI, the images of this model end in {self.wanted.ending}: leave it out"
            )
        nothing = [None] * len(cases)
        found = check_cases(cases, nothing, self.wanted, workers=workers, fingerprint=inputs.fingerprint)
        inputs.tell(dict(zip(self.files, found, strict=True)))

    def read(self, case: str) -> Preprocessed:
        """Return a case as the network takes it; channels that it lacks are 0."""
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        files = list(self.files[case])
        images, _, properties = preprocessor.run_case(files, None, self.plans, self.configuration, self.dataset)
        return without_missing(images, files, self.wanted.ending), properties

    def image(self, case: str) -> Path:
        """Return the first channel that a case has."""
        return Path(self.files[case][0])


class PreprocessedCases:
    """Cases in nnUNet_preprocessed, where the raw images are not on this machine.

    Args:
        folder: of the data set in nnUNet_preprocessed.
        plans: content of the model's plans.json.
        configuration: name of its configuration.
        cases: ids.

    Raises:
        InputError: the cases were preprocessed in another way, or one is not there.
    """

    by_nibabel = False

    def __init__(self, folder: Path, plans: Mapping[str, Any], configuration: str, cases: Sequence[str]) -> None:
        own = folder / f"{plans['plans_name']}.json"
        settings = resolve_configuration(plans, configuration)
        if _preprocessing(read_plans_file(own), configuration, str(own)) != _preprocessing(plans, configuration, ""):
            raise InputError(
                f"{own} preprocesses {configuration} otherwise than the model was trained: give the images with -i, or "
                "set nnUNet_raw"
            )
        self.folder, self.names = folder / settings["data_identifier"], list(cases)
        try:
            kind = checked(infer_dataset_class(str(self.folder)))
        except (OSError, AssertionError, KeyError, IndexError):
            raise InputError(
                f"{self.folder} holds no preprocessed cases: run `bdfm plan`, or give the images with -i"
            ) from None
        self.dataset = kind(str(self.folder), list(cases))

    def check(self, *, workers: int, with_maps: bool, inputs: KnownInputs) -> None:
        """Raise InputError if maps are wanted, or a comparison with the training cases: both need the raw images."""
        if with_maps:
            raise InputError(f"--saliency writes on grids of raw images, and {self.folder} has none: set nnUNet_raw")
        inputs.set_aside(f"{self.folder} holds no raw images, set nnUNet_raw")
        inputs.tell({})

    def read(self, case: str) -> Preprocessed:
        """Return a case as it was preprocessed."""
        images, *_, properties = self.dataset.load_case(case)
        with reading(self.dataset, case):
            return np.asarray(images[...], dtype=np.float32), properties

    def image(self, case: str) -> Path:
        """There are no images."""
        raise AssertionError("checked before")


def _preprocessing(plans: Mapping[str, Any], configuration: str, name: str) -> list[Any]:
    """Return what decides how images are preprocessed."""
    if configuration not in plans["configurations"]:
        raise InputError(f"{name} has no configuration {configuration}: give the images with -i, or set nnUNet_raw")
    settings = resolve_configuration(plans, configuration)
    names = [key for key in sorted(settings) if key in _PREPROCESSING or key.startswith("resampling_fn_data")]
    whole = ("transpose_forward", "foreground_intensity_properties_per_channel")
    return [*(settings[key] for key in names), *(plans.get(key) for key in whole)]


def files_of_dataset(raw: Path, cases: Sequence[str]) -> dict[str, list[str]]:
    """Return case -> its images in a data set in nnUNet_raw, as nnU-Net finds them.

    Args:
        raw: folder of the data set, whose dataset.json may point at images elsewhere.
        cases: ids of training cases.

    Raises:
        InputError: dataset.json cannot be read, or an image is missing.
    """
    dataset = read_dataset_json(raw / "dataset.json")
    named: Mapping[str, Any] = dataset.get("dataset", {})
    ending, count = dataset["file_ending"], len(channels_of(dataset))
    found = {}
    for case in cases:
        own = [f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(count)]
        found[case] = [str(raw / image) for image in named.get(case, {}).get("images", own)]
        for path in found[case]:
            if not Path(path).is_file():
                raise InputError(f"{path} of case {case} does not exist: convert the data set again, or use -i")
    return found


def images_of_cases(model: Any, dataset: str, cases: Sequence[str]) -> ImageFiles | PreprocessedCases:
    """Return the images of training cases of a data set: from nnUNet_raw, else as they were preprocessed.

    Args:
        model: a `SubjectModel`.
        dataset: name of the data set.
        cases: ids.

    Raises:
        InputError: they are not there or cannot be used.
    """
    raw = Path(os.environ.get("nnUNet_raw", "").strip() or "/nowhere") / dataset
    if (raw / "dataset.json").is_file():
        return ImageFiles(model.plans, model.configuration, model.dataset, files_of_dataset(raw, cases))
    folder = nnunet_folder("nnUNet_preprocessed") / dataset
    return PreprocessedCases(folder, model.plans.plans, model.configuration_name, cases)
