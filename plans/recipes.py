"""Recipes: named sets of settings that a variant of the plans gets as a whole."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder
from bdfm_nnunet.plans.plans_lookup import CONFIGURATION, DEFAULT_PLANS, read_plans
from bdfm_nnunet.plans.variants import add_variant
from bdfm_nnunet.split_files import SPLITS, read_splits

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a fine-tuning, and what they need.

    Attributes:
        settings: as in `add_variant`.
        regions: whether the labels of the data set must be regions.
        folds: number of folds that are trained, and that the split must have.
        trainer: that of the folds.
    """

    settings: Mapping[str, Any]
    regions: bool = False
    folds: int = 5
    trainer: str = "nnUNetTrainerBDFM"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "brats": Recipe(
            settings=MappingProxyType({"batch_dice": True, "training.epochs": 1500, "finetuning.augment": "strong"}),
            regions=True,
        ),
    }
)
"""Name -> recipe; docs/finetuning.md says why."""


def add_recipe(
    dataset_id: int,
    *,
    recipe: str,
    plans_name: str = DEFAULT_PLANS,
    variant: str | None = None,
    base: str = CONFIGURATION,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Add a recipe's configuration to a plans file, and log the commands that train and ensemble its folds.

    Args:
        dataset_id: number of the data set.
        recipe: name in `RECIPES`.
        plans_name: the plans file.
        variant: name of the configuration; by default the recipe's.
        base: the configuration it derives from.
        settings: changes to the recipe, as in `add_variant`.

    Returns:
        The plans file.

    Raises:
        InputError: there is no such recipe, or the data set lacks what it needs. Nothing is written then.
    """
    if recipe not in RECIPES:
        raise InputError(f"--recipe {recipe} does not exist: the recipes are {', '.join(RECIPES)}")
    chosen, name = RECIPES[recipe], variant or recipe
    read_plans(dataset_id, plans_name)  # which says what to do where the data set is not planned yet
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset_id)
    regions = _regions(read_dataset_json(folder / "dataset.json"))
    if chosen.regions and not regions:
        raise InputError(
            f"{folder / 'dataset.json'} has labels but no regions, which --recipe {recipe} trains: convert a BraTS "
            "release with `bdfm convert`, or write labels as lists of values with a regions_class_order"
        )
    _check_folds(folder, dataset_id, chosen.folds)
    values = {**chosen.settings, **(settings or {})}
    path = add_variant(dataset_id, plans_name=plans_name, variant=name, base=base, settings=values)
    _tell(dataset_id, plans_name, name, chosen, values, regions)
    return path


def _regions(dataset: Mapping[str, Any]) -> dict[str, list[int]]:
    labels = dataset["labels"].items()
    return {name: list(value) for name, value in labels if isinstance(value, (list, tuple)) and len(value) > 1}


def _check_folds(folder: Path, dataset_id: int, folds: int) -> None:
    """Refuse a split of fewer folds; where there is none yet, the trainer makes one of five."""
    path = folder / SPLITS
    if path.is_file() and (found := len(read_splits(path))) < folds:
        raise InputError(
            f"{path} has {found} folds, the recipe trains {folds}: make them with `bdfm splits -d {dataset_id} "
            f"--folds {folds} --overwrite`"
        )


def _tell(
    dataset_id: int, plans: str, name: str, recipe: Recipe, values: Mapping[str, Any], regions: Mapping[str, list[int]]
) -> None:
    logger.info("settings: %s", ", ".join(f"{key}={json.dumps(value)}" for key, value in values.items()))
    if regions:
        logger.info("regions: %s", ", ".join(f"{key} {value}" for key, value in regions.items()))
    folds, options = " ".join(map(str, range(recipe.folds))), f"-tr {recipe.trainer} -p {plans}"
    logger.info("train: for fold in %s; do bdfm train %s %s $fold %s; done", folds, dataset_id, name, options)
    logger.info(
        "predict with all: bdfm predict -i IMAGES -o OUT -d %s -c %s -f %s %s", dataset_id, name, folds, options
    )
