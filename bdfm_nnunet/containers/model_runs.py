"""The model of a container, run on one staged case at a time: a segmentation, a number, or an embedding as bytes."""

import io
import logging
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bdfm_nnunet.containers.container_settings import MODEL, RULES, ContainerSettings
from bdfm_nnunet.containers.staged_case import StagedCase
from bdfm_nnunet.dataset_conversion.submission import source_values
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.postprocessing import read_rules
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.inputs.input_faults import find_faults

logger = logging.getLogger(__name__)


class ModelRun(ABC):
    """A model in memory."""

    @abstractmethod
    def result(self, case: StagedCase, work: Path) -> bytes:
        """Return the content of a case's file.

        Args:
            case: its images.
            work: an empty folder to work in.

        Raises:
            InputError: the images do not suit the model.
        """


def load_model(folder: Path, settings: ContainerSettings) -> ModelRun:
    """Load the model of a container's folder.

    Raises:
        InputError: something in it cannot be used.
    """
    kinds: dict[str, type[_Segmentation] | type[_Subject] | type[_Embedding]] = {
        "segmentation": _Segmentation, "probability": _Subject, "value": _Subject, "embedding": _Embedding
    }  # fmt: skip
    return kinds[settings.form.result](folder, settings)


def device() -> str:
    """Return where models run: the graphics card where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class _Segmentation(ModelRun):
    def __init__(self, folder: Path, settings: ContainerSettings) -> None:
        from bdfm_nnunet.prediction.images_wanted import ImagesWanted
        from bdfm_nnunet.prediction.predictor import Options, Predictor

        rules = read_rules(folder / RULES) if (folder / RULES).is_file() else None
        self.settings = settings
        self.predictor = Predictor(
            device=torch.device(device()), use_mirroring=settings.mirroring, allow_tqdm=False, verbose=False,
            perform_everything_on_device=device() != "cpu", options=Options(rules=rules),
        )  # fmt: skip
        self.predictor.only_threads = True  # no further process: neither imports nor shared memory are paid twice
        folds = [int(fold) if fold.isdecimal() else fold for fold in settings.folds]
        self.predictor.initialize_from_trained_model_folder(str(folder / MODEL), folds, settings.checkpoint)
        known = self.predictor
        self.wanted = ImagesWanted.of(known.plans_manager, known.configuration_manager, known.dataset_json)

    def result(self, case: StagedCase, work: Path) -> bytes:
        from bdfm_nnunet.prediction.case_workers import preprocess_case
        from bdfm_nnunet.prediction.resampled_sizes import check_resampled_size

        grid, name = case.first.grid, work / "result"
        self._tell_departures(case)
        check_resampled_size(case.first.name, grid.size[::-1], grid.spacing[::-1], self.wanted)
        known = self.predictor
        model: Any = (known.plans_manager, known.configuration_manager, known.dataset_json, False)
        item = preprocess_case([str(file) for file in case.files], None, str(name), *model)
        known.predict_from_data_iterator([{**item, "data": torch.from_numpy(item["data"])}], False, 1)
        path = Path(f"{name}{known.dataset_json['file_ending']}")
        volume = read_volume(path, path.name, by_nibabel=self.wanted.by_nibabel)
        return case.packed(source_values(volume, self.settings.inverse, "the challenge"))

    def _tell_departures(self, case: StagedCase) -> None:
        """Warn where the case does not look like the training cases; it is predicted all the same."""
        fingerprint = self.predictor.inputs.fingerprint
        if fingerprint is None or len({*case.files}) != len(fingerprint.channels):
            return
        volumes = [read_volume(Path(file), Path(file).name, by_nibabel=self.wanted.by_nibabel) for file in case.files]
        for fault in find_faults(fingerprint, volumes):
            logger.warning("%s", fault.sentence)


class _Subject(ModelRun):
    def __init__(self, folder: Path, settings: ContainerSettings) -> None:
        from bdfm_nnunet.prediction.subject_predictor import SubjectModel

        self.target = settings.target
        self.model = SubjectModel.read(folder / MODEL, settings.folds, settings.checkpoint)

    def result(self, case: StagedCase, work: Path) -> bytes:
        from bdfm_nnunet.prediction.subject_images import ImageFiles
        from bdfm_nnunet.prediction.subject_predictor import predict_subjects

        known, files = self.model, {"case": [str(file) for file in case.files]}
        images = ImageFiles(known.plans, known.configuration, known.dataset, files)
        found = predict_subjects(known, images, device=device()).columns[self.target]
        return f"{float(found[0]):.6f}\n".encode()


class _Embedding(ModelRun):
    def __init__(self, folder: Path, settings: ContainerSettings) -> None:
        from bdfm_nnunet.probes.subject_features import FeatureSettings
        from bdfm_nnunet.studies.image_features import frozen_encoder

        (fold,) = settings.folds
        self.features = FeatureSettings(device=device())
        self.encoder = frozen_encoder(folder / MODEL / f"fold_{fold}" / settings.checkpoint)

    def result(self, case: StagedCase, work: Path) -> bytes:
        from bdfm_nnunet.probes.subject_features import FileSource

        files = list(case.files) * self.encoder.view.in_channels
        source = FileSource({"case": files}, self.encoder)
        _, *shown = next(iter(source.shown(["case"])))
        vector = source.vectors(self.encoder, self.features)(*shown)[0]
        if not np.isfinite(vector).all():
            raise InputError("the encoder gives numbers that are not finite for this image: check its intensities")
        stream = io.BytesIO()
        np.save(stream, vector.astype(np.float32))
        return stream.getvalue()
