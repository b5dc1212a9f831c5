import json
import logging
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans import add_recipe
from bdfm_nnunet.plans.recipes import RECIPES
from tests.plans.test_variants import configurations, plans_file

__all__ = ["plans_file"]

REGIONS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
FOLD = {"train": ["a"], "val": ["b"]}


def _describe(plans: Path, labels: dict[str, Any] = REGIONS, folds: int = 5) -> None:
    content = {
        "channel_names": {"0": "T1"},
        "labels": labels,
        "file_ending": ".nii.gz",
        "regions_class_order": [2, 1, 3],
    }
    (plans.parent / "dataset.json").write_text(json.dumps(content))
    (plans.parent / "splits_final.json").write_text(json.dumps([FOLD] * folds))


def test_a_recipe_is_a_variant_that_settings_change(plans_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    _describe(plans_file)
    with caplog.at_level(logging.INFO):
        add_recipe(501, recipe="brats", settings={"training.epochs": 30})
    found = configurations(plans_file)["brats"]
    assert found["inherits_from"] == "3d_fullres" and found["batch_dice"] is True
    assert found["training"] == {"epochs": 30, "initial_lr": 0.001}
    assert found["finetuning"] == {"augment": "strong"}
    assert "whole_tumor [1, 2, 3]" in caplog.text
    assert (
        "for fold in 0 1 2 3 4; do bdfm train 501 brats $fold -tr nnUNetTrainerBDFM -p BDFMPlans; done" in caplog.text
    )
    add_recipe(501, recipe="brats", variant="mine", base="brats")
    assert (
        configurations(plans_file)["mine"]["training"]["epochs"] == RECIPES["brats"].settings["training.epochs"] > 1000
    )


def test_what_a_recipe_needs_must_be_there(plans_file: Path) -> None:
    before = plans_file.read_bytes()
    with pytest.raises(InputError, match=r"--recipe brat does not exist: the recipes are brats"):
        add_recipe(501, recipe="brat")
    _describe(plans_file, {"background": 0, "tumour": 1})
    with pytest.raises(InputError, match=r"dataset\.json has labels but no regions"):
        add_recipe(501, recipe="brats")
    _describe(plans_file, folds=3)
    with pytest.raises(InputError, match=r"splits_final\.json has 3 folds, the recipe trains 5: .*`bdfm splits"):
        add_recipe(501, recipe="brats")
    _describe(plans_file)
    with pytest.raises(InputError, match="batch_dice is 1, expected true or false"):
        add_recipe(501, recipe="brats", settings={"batch_dice": 1})
    assert plans_file.read_bytes() == before
