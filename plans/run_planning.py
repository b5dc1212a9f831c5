"""From a data set of 4-D runs to a plans file and preprocessed data; nnU-Net, which knows no runs, takes no part."""

import logging
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write, read_regular, sweep, write_json
from bdfm_nnunet.images.sequence_files import PREPROCESSED
from bdfm_nnunet.nnunet_files import channels_of, outputs_of, read_dataset_json
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.plans.likeness import read_likeness
from bdfm_nnunet.plans.matching_runs import layout_like, network_of_weights
from bdfm_nnunet.plans.memory_targets import configuration_costs
from bdfm_nnunet.plans.network_names import RUN_NETWORKS
from bdfm_nnunet.plans.neurostorm_planner import choose_network
from bdfm_nnunet.plans.planning_request import PlanningRequest
from bdfm_nnunet.plans.plans_lookup import RUN_CONFIGURATION, plans_path, raw_folder
from bdfm_nnunet.plans.plans_writing import note_costs, write_plans
from bdfm_nnunet.plans.prepared_files import (
    FINGERPRINT_FILE,
    RECORD_FILE,
    copy_file,
    copy_manifest,
    digest,
    read_record,
    state_of,
)
from bdfm_nnunet.plans.pretrained_plans import read_pretrained_plans
from bdfm_nnunet.plans.run_data import place_runs
from bdfm_nnunet.plans.run_fingerprint import RunFingerprint, find_runs, read_fingerprint
from bdfm_nnunet.split_files import SPLITS, SPLITS_TABLE, read_splits

logger = logging.getLogger(__name__)


def plan_runs(request: PlanningRequest) -> Path:
    """Plan a network for the runs of a data set, and put them where trainers look for preprocessed data.

    Raises:
        InputError: a file is missing or damaged, the runs do not fit each other or the checkpoint, or the memory is too
            little.
    """
    _check_options(request)
    raw, path = raw_folder(request.dataset_id), plans_path(request.dataset_id, request.plans_name)
    folder = path.parent
    logger.info("planning %s", raw.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    sweep(folder)
    runs = find_runs(raw)
    fingerprint, dataset = read_fingerprint(runs), read_dataset_json(raw / "dataset.json")
    chosen = _chosen(fingerprint, dataset, request)
    plans = run_plans(fingerprint, dataset, request.gpu_memory, chosen, names=(raw.name, request.plans_name))
    state = _state(raw, runs)
    if read_record(folder).get("raw") != state:
        write_json(folder / RECORD_FILE, {"raw": state, "data": {}})
    fingerprint.write(folder / FINGERPRINT_FILE)
    _copy_beside(raw, folder)
    copy_manifest(request.dataset_id)
    write_plans(path, plans)
    if request.preprocess:
        place_runs(runs, folder, state, workers=request.workers)
    return path


def _check_options(request: PlanningRequest) -> None:
    """Refuse what is for images."""
    if request.network is not None and request.network not in RUN_NETWORKS:
        raise InputError(
            f"--network {request.network} reads 3-D images, but data set {request.dataset_id} holds 4-D runs: choose "
            f"one of {', '.join(RUN_NETWORKS)}, or leave --network out"
        )
    if request.spacing is not None:
        raise InputError(
            f"--spacing is for images, but data set {request.dataset_id} holds 4-D runs, whose voxels are those of "
            "their conversion: give --spacing to `bdfm convert`"
        )


def _chosen(runs: RunFingerprint, dataset: dict[str, Any], request: PlanningRequest) -> dict[str, Any]:
    """Return patch, batch and architecture, of the data set alone or by a checkpoint."""
    if request.weights is not None:
        source = read_pretrained_plans(request.weights, request.network, **request.reading)
        return network_of_weights(runs, dataset, request.gpu_memory, source)
    if request.like is not None:
        layout, frames = layout_like(runs, read_likeness(request.like, axes=4))
        return choose_network(runs, dataset, request.gpu_memory, layout=layout, most_frames=frames)
    return choose_network(runs, dataset, request.gpu_memory)


def run_plans(
    runs: RunFingerprint,
    dataset: dict[str, Any],
    gpu_memory: float,
    chosen: dict[str, Any],
    *,
    names: tuple[str, str],
) -> dict[str, Any]:
    """Return the content of a plans file with the configuration `4d`.

    Args:
        runs: of the data set.
        dataset: content of its dataset.json.
        gpu_memory: GB of GPU memory that training may take.
        chosen: patch, batch and architecture.
        names: of the data set and of the plans.
    """
    channels = channels_of(dataset)
    configuration = {
        "data_identifier": PREPROCESSED,
        "preprocessor_name": "DefaultPreprocessor",
        **chosen,
        "median_image_size_in_voxels": [*runs.shape, runs.median],
        "spacing": [*runs.spacing, runs.repetition_time],
        "standardised": runs.standardised,
        "normalization_schemes": ["NoNormalization"] * len(channels),
        "use_mask_for_norm": [False] * len(channels),
        **{f"resampling_fn_{what}": "no_resampling_hack" for what in ("data", "seg", "probabilities")},
        **{f"resampling_fn_{what}_kwargs": {} for what in ("data", "seg", "probabilities")},
        "batch_dice": False,
    }
    costs = configuration_costs(configuration, channels=len(channels), classes=outputs_of(dataset), flops=True)
    note_costs(configuration, costs, gpu_memory)
    return _NNUNET | _names(runs, names) | {"configurations": {RUN_CONFIGURATION: configuration}}


_NNUNET: dict[str, Any] = {
    "image_reader_writer": "NibabelIO",
    "transpose_forward": [0, 1, 2, 3],
    "transpose_backward": [0, 1, 2, 3],
    "experiment_planner_used": "bdfm_nnunet.plans.neurostorm_planner",
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {},
}
"""Entries that nnU-Net expects in plans; runs are read by this package."""


def _names(runs: RunFingerprint, names: tuple[str, str]) -> dict[str, Any]:
    return {
        "dataset_name": names[0],
        "plans_name": names[1],
        "original_median_spacing_after_transp": [*runs.spacing, runs.repetition_time],
        "original_median_shape_after_transp": [*runs.shape, runs.median],
    }


def _state(raw: Path, runs: dict[str, list[Path]]) -> str:
    """Return a digest of dataset.json and of name, size and time of every file of the runs."""
    described = read_regular(raw / "dataset.json").decode("utf-8", errors="replace")
    files = [state_of(path, raw, case) for case, paths in sorted(runs.items()) for path in paths]
    return digest([described, *files])


def _copy_beside(raw: Path, folder: Path) -> None:
    """Copy what describes the data set and its folds, as nnU-Net's planners do.

    Raises:
        InputError: the folds there are others, or a file cannot be written.
    """
    copy_file(raw / "dataset.json", folder / "dataset.json")
    if not (raw / SPLITS).is_file():
        return
    if (folder / SPLITS).is_file() and read_splits(folder / SPLITS) != read_splits(raw / SPLITS):
        raise InputError(
            f"splits_final.json of {raw.name} in {nnunet_folder('nnUNet_raw')} disagrees with the one in "
            f"{folder}: remove the latter if the raw one is newer",
            entry="splits-disagree",
        )
    for name in (SPLITS, SPLITS_TABLE):
        if (raw / name).is_file():
            copy_file(raw / name, folder / name)
