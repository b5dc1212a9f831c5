"""The files that an ensemble leaves for each case: segmentation, probabilities, maps of uncertainty, volumes."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_pickle
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.ensemble_calibration import EnsembleCalibration
from bdfm_nnunet.evaluation.postprocessing import RuleSet
from bdfm_nnunet.files import read_json, sweep, unfinished, write_json
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.nnunet_files import labels_of
from bdfm_nnunet.prediction.averaged_probabilities import Slab
from bdfm_nnunet.prediction.case_quality import ExpectedDice
from bdfm_nnunet.prediction.case_workers import whole_case
from bdfm_nnunet.prediction.ensemble_prediction import Averaged, Ensemble, EnsembleCase
from bdfm_nnunet.prediction.region_volumes import RegionVolume, VolumeTable, region_probabilities, voxels_of
from bdfm_nnunet.prediction.saliency_maps import write_map

MAPS = ("entropy", "disagreement")
MAPS_FOLDER, TABLE, RECORD = "uncertainty", "volumes.csv", "ensemble.json"
_RECORD_SHAPE = {"members": [str], "checkpoint": str, "average": str}


@dataclass(frozen=True, kw_only=True)
class EnsembleOutputs:
    """What is written of each case, and where.

    Attributes:
        ensemble: the models.
        folder: of the segmentations.
        probabilities: whether to write them as nnU-Net does (.npz, .pkl).
        maps: whether to write `uncertainty/CASE_entropy.nii.gz` and `CASE_disagreement.nii.gz`.
        volumes: whether to write `volumes.csv`.
        rules: are applied to each segmentation before it takes its name.
        calibration: its temperature changes probabilities and maps, its intervals those of the volumes.
    """

    ensemble: Ensemble
    folder: Path
    probabilities: bool = False
    maps: bool = False
    volumes: bool = False
    rules: RuleSet | None = None
    calibration: EnsembleCalibration | None = None

    @property
    def ending(self) -> str:
        """Of the files of segmentations."""
        return str(self.ensemble.first.dataset_json["file_ending"])

    @cached_property
    def table(self) -> VolumeTable:
        """The table of volumes."""
        return VolumeTable(self.folder / TABLE)

    def prepare(self, checkpoint: str, *, go_on: bool) -> None:
        """Write what nnU-Net's ensembling leaves beside the segmentations, and who the members are.

        Args:
            checkpoint: name of the members' files.
            go_on: whether segmentations of an earlier run stay.

        Raises:
            InputError: the members of the earlier run were others, or maps are asked for of images that are no NIfTI.
        """
        if self.maps and self.ending not in NIFTI:
            raise InputError(f"--uncertainty writes NIfTI files, the models write {self.ending}: leave it out")
        ensemble = self.ensemble
        self._take_regions()
        record = {
            "members": [f"{folder.resolve()}/fold_{fold}" for folder in ensemble.folders for fold in ensemble.folds],
            "checkpoint": checkpoint,
            "average": ensemble.average,
        }
        path = self.folder / RECORD
        if go_on and path.is_file() and read_json(path, _RECORD_SHAPE) != record:
            raise InputError(
                f"{path} names other members than this command: name those, or another folder with -o, or leave out "
                "--continue_prediction"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder)
        write_json(self.folder / "dataset.json", ensemble.first.dataset_json)
        write_json(self.folder / "plans.json", ensemble.first.plans_manager.plans)
        write_json(path, record)

    def _take_regions(self) -> None:
        """Tell the volumes of the regions that were calibrated."""
        if self.calibration is None:
            return
        values = {value for region in self.calibration.regions.values() for value in region}
        if strange := values - labels_of(self.ensemble.first.dataset_json):
            raise InputError(
                f"--calibration is of other labels than the models have (it has {min(strange)}): make one with `bdfm "
                "ensemble` for these models"
            )
        self.ensemble.regions = {name: tuple(region) for name, region in self.calibration.regions.items()}

    def left(self, cases: Sequence[EnsembleCase]) -> list[EnsembleCase]:
        """Return the cases of which a file or a row is missing."""
        with_volumes = self.table.cases() if self.volumes else set()
        return [
            case for case in cases
            if not all(path.is_file() for path in self._files(case)) or (self.volumes and case.name not in with_volumes)
        ]  # fmt: skip

    def _files(self, case: EnsembleCase) -> list[Path]:
        endings = (self.ending, *((".npz", ".pkl") if self.probabilities else ()))
        maps = [self._map(case, name) for name in MAPS if self.maps]
        return [*(Path(f"{case.output}{ending}") for ending in endings), *maps]

    def _map(self, case: EnsembleCase, name: str) -> Path:
        return self.folder / MAPS_FOLDER / f"{case.name}_{name}.nii.gz"

    # --- one case -----------------------------------------------------------------------------------------------

    def write(self, case: EnsembleCase, average: Averaged) -> None:
        """Write the files of a case; the segmentation is the last but for the row of volumes.

        Raises:
            InputError: they cannot be written.
        """
        model, shape = self.ensemble.first, average.mean.shape
        kind = np.uint8 if max(labels_of(model.dataset_json)) < 256 else np.uint16
        labels = np.zeros(shape[1:], dtype=kind)
        maps = {name: np.zeros(shape[1:], dtype=np.float32) for name in MAPS if self.maps}
        probabilities = np.zeros(shape, dtype=np.float32) if self.probabilities else None
        sums: dict[str, float] = {}
        expected = ExpectedDice()
        for slab in average.mean.slabs(1.0 if self.calibration is None else self.calibration.temperature):
            labels[slab.where] = model.label_manager.convert_probabilities_to_segmentation(slab.mean)
            for name, values in maps.items():
                values[slab.where] = getattr(slab, name)
            if probabilities is not None:
                probabilities[:, slab.where] = slab.probabilities
            self._add_sums(sums, slab)
            expected.add(slab.mean, regions=slab.regions)
        for name, values in maps.items():
            by_nibabel = model.plans_manager.plans.get("image_reader_writer") != "SimpleITKIO"
            write_map(
                self._map(case, name), values, average.properties, like=Path(case.files[0]), by_nibabel=by_nibabel
            )
        self._write_segmentation(case, labels, probabilities, average.properties)
        signs = expected.signs(float(np.prod(average.properties["spacing"])))
        model.quality.judge(case.output, signs, inputs=model.inputs.status(case.name))
        if self.volumes:
            self.table.put(case.name, self._volumes(case, labels, average, sums))

    def _add_sums(self, sums: dict[str, float], slab: Slab) -> None:
        if self.volumes:
            maps = region_probabilities(slab.probabilities, self.ensemble.regions, self.ensemble.channels)
            for name, values in maps.items():
                sums[name] = sums.get(name, 0.0) + float(values.sum(dtype=np.float64))

    def _write_segmentation(
        self, case: EnsembleCase, labels: NDArray[Any], probabilities: NDArray[np.float32] | None, properties: Any
    ) -> None:
        model = self.ensemble.first
        with whole_case(case.output, model.plans_manager, model.dataset_json, rules=self.rules) as temporary:
            if probabilities is not None:
                np.savez_compressed(f"{temporary}.npz", probabilities=probabilities)
                save_pickle(properties, f"{temporary}.pkl")
            writer = model.plans_manager.image_reader_writer_class()
            writer.write_seg(labels, f"{temporary}{self.ending}", properties)

    def _volumes(
        self, case: EnsembleCase, labels: NDArray[Any], average: Averaged, sums: dict[str, float]
    ) -> list[RegionVolume]:
        regions, model = self.ensemble.regions, self.ensemble.first
        if self.rules is not None and self.rules.rules:  # they have changed the file
            written = model.plans_manager.image_reader_writer_class().read_seg(f"{case.output}{self.ending}")[0]
            labels = written.astype(labels.dtype)
        voxel = float(np.prod(average.properties["spacing"]))
        found = voxels_of(labels, regions)
        return [
            RegionVolume(name, found[name] * voxel, sums[name] * voxel if name in sums else None,
                         [each[name] * voxel for each in average.voxels],
                         self._interval(name, found[name] * voxel, most=labels.size * voxel))
            for name in regions
        ]  # fmt: skip

    def _interval(self, region: str, volume: float, *, most: float) -> tuple[float, float, str] | None:
        """Return the calibrated interval, which ends at the volume of the image."""
        found = None if self.calibration is None else self.calibration.interval(region, volume)
        return found and (found[0], min(found[1], most), found[2])


def predict_cases(
    outputs: EnsembleOutputs, cases: Sequence[EnsembleCase], *, preprocessing: int = 1, export: int = 1
) -> None:
    """Predict cases and write what is wanted of them, group by group.

    Args:
        outputs: what is wanted.
        cases: of the ensemble.
        preprocessing: workers.
        export: workers.

    Raises:
        InputError: an image cannot be used, and then nothing is predicted; or files cannot be written.
    """
    ensemble = outputs.ensemble
    ensemble.check(cases)
    groups = ensemble.groups(cases)
    for group in tqdm(list(groups), desc="ensemble", unit="group", disable=None):
        folder = unfinished(outputs.folder / "averages")
        folder.mkdir()
        try:
            averages = ensemble.averages(group, folder, preprocessing=preprocessing, export=export)
            for case, average in zip(group, averages, strict=True):
                outputs.write(case, average)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
