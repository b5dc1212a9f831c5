"""A trained model under the name of a stock trainer, which nnU-Net's own commands use without `nnUNet_extTrainer`."""

import logging
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints.adaptation_plan import CITATIONS
from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
from bdfm_nnunet.checkpoints.checkpoint_writing import write_checkpoint
from bdfm_nnunet.checkpoints.exact_weights import check_weights
from bdfm_nnunet.checkpoints.readers.nnunet_reader import CHANNEL_DROPOUT, EXPOSURE
from bdfm_nnunet.checkpoints.safe_loading import load_as_data
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import new_folder, write_json
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_costs import build_on
from bdfm_nnunet.nnunet_files import inputs_of, outputs_of, read_dataset_json, read_plans_file, resolve_configuration
from bdfm_nnunet.presets import PRETRAINERS
from bdfm_nnunet.sharing.hub_export import without_files, without_paths
from bdfm_nnunet.training_costs import FINETUNINGS

logger = logging.getLogger(__name__)

STOCK = "nnUNetTrainer"
CHECKPOINT = "checkpoint_final.pth"
_OWN = "bdfm_nnunet.networks."


def export_model(path: str | Path, out: str | Path) -> Path:
    """Write a model folder that `nnUNetv2_predict_from_modelfolder` takes as one of nnUNetTrainer.

    The segmentations are the same: the network is that of the plans, with its weights, and the axes for mirroring. What
    only a training needs is left out.

    Args:
        path: the folder of a model, with plans.json, dataset.json and fold_*/checkpoint_final.pth, all folds of which
            are written; or one checkpoint in a fold's folder, which alone is written.
        out: the folder; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        InputError: this is no such model, or its trainer has another network than the plans say; or the folder exists
            or cannot be written.
    """
    path, out = Path(path), Path(out)
    model, files = _found(path)
    plans, dataset = read_plans_file(model / "plans.json"), read_dataset_json(model / "dataset.json")
    plans, dataset = without_paths(plans), without_files(dataset)
    with new_folder(out) as folder:
        for file in files:
            content = stock_content(file, plans, dataset)
            write_checkpoint(content, folder / file.parent.name / CHECKPOINT)
        write_json(folder / "plans.json", plans)
        write_json(folder / "dataset.json", dataset)
        from bdfm_nnunet.inputs.input_fingerprint import copy_fingerprint  # SimpleITK

        copy_fingerprint(model, folder)
    _tell(out, plans, content["init_args"]["configuration"], len(files))
    return out


def _found(path: Path) -> tuple[Path, list[Path]]:
    """Return the folder of the model, and the checkpoints of the folds asked for."""
    model = path if path.is_dir() else path.parent.parent
    files = sorted(path.glob(f"fold_*/{CHECKPOINT}")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path} has no fold_*/{CHECKPOINT}: name the folder of a finished training, or a checkpoint")
    if not path.is_dir() and not path.parent.name.startswith("fold_"):
        raise InputError(
            f"{path} does not lie in the folder of a fold (fold_0, say), beside which plans.json and dataset.json are: "
            "name a checkpoint there, or export it without --as"
        )
    return model, files


def stock_content(file: Path, plans: dict[str, Any], dataset: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with what nnU-Net's prediction reads, once network and weights are known to fit.

    Args:
        file: the checkpoint.
        plans: of the model.
        dataset: content of its dataset.json.

    Raises:
        InputError: its trainer has another network, or the weights do not fit the plans.
    """
    content = load_as_data(file)
    checkpoint = checkpoint_of(file, content)
    name = _configuration_of(file, checkpoint.trainer, checkpoint.configuration, plans)
    settings = resolve_configuration(plans, name)
    sizes: Any = {"inputs": inputs_of(dataset, settings), "outputs": outputs_of(dataset), "deep_supervision": False}
    check_weights(build_on(lambda: build_network(settings, **sizes, initialise=False, name=str(file))), checkpoint)
    kept = {key: content[key] for key in (EXPOSURE, CITATIONS, CHANNEL_DROPOUT) if key in content}
    fold = file.parent.name.removeprefix("fold_")
    return {
        "network_weights": checkpoint.weights,
        "init_args": {
            "plans": plans,
            "configuration": name,
            "fold": int(fold) if fold.isdecimal() else fold,
            "dataset_json": dataset,
        },
        "trainer_name": STOCK,
        "inference_allowed_mirroring_axes": content.get("inference_allowed_mirroring_axes"),
        **kept,
    }


def _configuration_of(file: Path, trainer: str | None, configuration: str | None, plans: dict[str, Any]) -> str:
    if trainer in PRETRAINERS:
        raise InputError(f"{file} is of a pre-training ({trainer}), which segments nothing: export it without --as")
    if trainer not in (STOCK, *FINETUNINGS):
        raise InputError(
            f"{file} is of {trainer or 'no named trainer'}, whose network may differ from the one in the plans: only "
            f"models of {', '.join((*FINETUNINGS, STOCK))} are exported as {STOCK}"
        )
    if configuration is None or configuration not in plans["configurations"]:
        raise InputError(
            f"{file} is of the configuration {configuration!r}, which plans.json does not have: take both from one "
            "training"
        )
    return configuration


def _tell(out: Path, plans: dict[str, Any], configuration: str, folds: int) -> None:
    kind = resolve_configuration(plans, configuration).get("architecture", {}).get("network_class_name", "")
    needs = (
        f"its network is {kind}, so bdfm_nnunet must be installed where it is used; nnUNet_extTrainer need not be set"
        if kind.startswith(_OWN)
        else "nothing of bdfm_nnunet is needed to use it"
    )
    logger.info("wrote a model of %s with %d fold%s to %s; %s", STOCK, folds, "s" * (folds > 1), out, needs)
