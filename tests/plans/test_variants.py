import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of
from bdfm_nnunet.plans import add_variant, variants
from bdfm_nnunet.plans.variants import derive, renew_variants

SWIN = {
    "network_class_name": "bdfm_nnunet.networks.swin_unet.SwinUNet",
    "arch_kwargs": {"strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "window_size": [4, 4, 4]},
    "_kw_requires_import": [],
}
CONVOLUTIONS = {
    "network_class_name": "x.PlainConvUNet",
    "arch_kwargs": {"strides": [1, 2, 2]},
    "_kw_requires_import": [],
}


@pytest.fixture
def plans_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    path = tmp_path / "nnUNet_preprocessed" / "Dataset501_X" / "BDFMPlans.json"
    path.parent.mkdir(parents=True)
    base = {
        "batch_size": 2,
        "patch_size": [32, 32, 32],
        "architecture": SWIN,
        "training": {"epochs": 100, "initial_lr": 0.001},
        "data_identifier": "BDFMPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        **dict.fromkeys(("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"), "resample"),
    }
    general = {"dataset_name": "Dataset501_X", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2]}
    path.write_text(json.dumps({"plans_name": "BDFMPlans", **general, "configurations": {"3d_fullres": base}}))
    return path


def configurations(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())["configurations"]
    return found


def test_blocks_are_merged_and_the_base_stays(plans_file: Path) -> None:
    before = configurations(plans_file)["3d_fullres"]
    settings = {"training.epochs": 2, "pretraining.mask_ratio": 0.6, "batch_size": 3}
    assert add_variant(501, variant="short", settings=settings) == plans_file
    after = configurations(plans_file)
    assert after["3d_fullres"] == before
    assert after["short"] == {
        "inherits_from": "3d_fullres",
        "variant_settings": settings,
        "training": {"epochs": 2, "initial_lr": 0.001},
        "pretraining": {"mask_ratio": 0.6},
        "batch_size": 3,
    }


def test_variants_added_at_the_same_time_are_all_there(plans_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*arguments: Any) -> dict[str, Any]:
        time.sleep(0.01)
        return derive(*arguments)

    monkeypatch.setattr(variants, "derive", slowly)
    names = [f"seed{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: add_variant(501, variant=name, settings={"training.epochs": 3}), names))
    assert set(configurations(plans_file)) == {"3d_fullres", *names}


def test_stock_nnunet_resolves_a_variant_of_a_variant(plans_file: Path) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    add_variant(501, variant="short", settings={"training.epochs": 2})
    add_variant(501, variant="shorter", base="short", settings={"training.iterations_per_epoch": 4})
    resolved = PlansManager(str(plans_file)).get_configuration("shorter").configuration
    assert resolved["training"] == {"epochs": 2, "initial_lr": 0.001, "iterations_per_epoch": 4}
    assert resolved["patch_size"] == [32, 32, 32]


def test_replacing_a_variant_is_logged(plans_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    add_variant(501, variant="short", settings={"training.epochs": 2})
    add_variant(501, variant="short", settings={"training.initial_lr": 0.1})
    assert configurations(plans_file)["short"]["training"] == {"epochs": 100, "initial_lr": 0.1}
    assert "added configuration short" in caplog.messages[0]
    assert "replaced configuration short" in caplog.messages[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training.epoch": 2}, r"training\.epoch is not a setting: did you mean training\.epochs\?"),
        ({"trainin.epochs": 2}, r"trainin\.epochs is not a setting: did you mean training\.epochs\?"),
        ({"batchsize": 2}, "did you mean batch_size"),
        ({"spacing": [1, 1, 1]}, "spacing is not a setting"),
        ({"training": {"epochs": 2}}, "training is not a setting"),
        ({"training.epochs": "two"}, "expected a whole number"),
        ({"training.epochs": 0}, "expected a number above 0"),
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": True}, "at least 1"),
        ({"patch_size": [32, 32]}, "expected 3 whole numbers"),
        ({"patch_size": 32}, "expected a list of 3 whole numbers"),
        ({"patch_size": [32, 40, 32]}, r"does not fit the network on axis 1: take 32 or 64 there"),
        ({"finetuning.weights": "nowhere.pth"}, "nowhere.pth does not exist"),
        ({"pretraining.atlas": "nowhere.nii.gz"}, "nowhere.nii.gz does not exist: give the path of a label map"),
    ],
)
def test_what_cannot_be_set_is_refused_and_nothing_is_written(
    plans_file: Path, settings: dict[str, Any], message: str
) -> None:
    before = plans_file.read_bytes()
    with pytest.raises(InputError, match=message):
        add_variant(501, variant="short", settings=settings)
    assert plans_file.read_bytes() == before
    assert list(plans_file.parent.iterdir()) == [plans_file]


def test_patch_sizes_on_the_grid_are_taken(plans_file: Path) -> None:
    add_variant(501, variant="large", settings={"patch_size": [64, 32, 16]})
    assert configurations(plans_file)["large"]["patch_size"] == [64, 32, 16]


def test_convolutional_networks_need_multiples_of_their_strides(plans_file: Path) -> None:
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = CONVOLUTIONS
    plans_file.write_text(json.dumps(plans))
    add_variant(501, variant="odd", settings={"patch_size": [36, 36, 36]})
    with pytest.raises(InputError, match="axis 2: take 32 or 36 there"):
        add_variant(501, variant="odd", settings={"patch_size": [36, 36, 34]})


def test_weights_are_named_with_their_digest(plans_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    add_variant(501, variant="tuned", settings={"finetuning.weights": "weights.pth", "finetuning.min_match": 0.9})
    block = configurations(plans_file)["tuned"]["finetuning"]
    assert block == {"weights": str(weights), "weights_sha256": sha256_of(weights), "min_match": 0.9}


def test_an_atlas_is_named_for_trainings_that_start_elsewhere(
    plans_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atlas = tmp_path / "atlas.nii.gz"
    atlas.write_bytes(b"atlas")
    monkeypatch.chdir(tmp_path)
    add_variant(501, variant="regions", settings={"pretraining.atlas": "atlas.nii.gz"})
    assert configurations(plans_file)["regions"]["pretraining"] == {"atlas": str(atlas)}


@pytest.mark.parametrize("name", ["3d_fullres", "2d", ""])
def test_planned_configurations_cannot_be_overwritten(plans_file: Path, name: str) -> None:
    with pytest.raises(InputError, match="give the variant another name"):
        add_variant(501, variant=name, settings={"batch_size": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_id": 7}, "no data set Dataset007_"),
        ({"plans_name": "Other"}, r"Other\.json does not exist: run `bdfm plan -d 501 -p Other`"),
        ({"plans_name": "../x"}, "is not a plans name"),
        ({"base": "3d_lowres"}, "no configuration '3d_lowres': choose one of 3d_fullres"),
    ],
)
def test_missing_things_are_named(plans_file: Path, arguments: dict[str, Any], message: str) -> None:
    wanted: dict[str, Any] = {"dataset_id": 501, "variant": "v", "settings": {"batch_size": 3}, **arguments}
    with pytest.raises(InputError, match=message):
        add_variant(wanted.pop("dataset_id"), **wanted)


def test_two_data_sets_of_one_number_are_refused(plans_file: Path) -> None:
    (plans_file.parents[1] / "Dataset501_Y").mkdir()
    with pytest.raises(InputError, match="taken by Dataset501_X and Dataset501_Y"):
        add_variant(501, variant="v", settings={"batch_size": 3})


def test_unset_variable_is_named(plans_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(InputError, match="nnUNet_preprocessed is not set"):
        add_variant(501, variant="v", settings={"batch_size": 3})


def test_variants_follow_new_plans(plans_file: Path) -> None:
    add_variant(501, variant="short", settings={"training.epochs": 2})
    add_variant(501, variant="large", base="short", settings={"patch_size": [64, 64, 64]})
    old = json.loads(plans_file.read_text())
    old["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 9}
    old["configurations"]["2d"] = {"batch_size": 12}
    new: dict[str, Any] = {
        "configurations": {"3d_fullres": old["configurations"]["3d_fullres"] | {"training": {"initial_lr": 0.5}}}
    }
    assert sorted(renew_variants(new, old)) == ["large", "mine", "short"]
    found = new["configurations"]
    assert found["short"]["training"] == {"epochs": 2, "initial_lr": 0.5}
    assert found["large"]["patch_size"] == [64, 64, 64]
    assert found["mine"] == {"inherits_from": "3d_fullres", "batch_size": 9}
    assert "2d" not in found


def test_variants_that_no_longer_fit_stop_the_planning(plans_file: Path) -> None:
    add_variant(501, variant="large", settings={"patch_size": [64, 64, 64]})
    old = json.loads(plans_file.read_text())
    other = {**SWIN, "arch_kwargs": {**SWIN["arch_kwargs"], "window_size": [5, 5, 5]}}  # type: ignore[dict-item]
    new = {"configurations": {"3d_fullres": {**old["configurations"]["3d_fullres"], "architecture": other}}}
    with pytest.raises(InputError, match="variant large does not fit the new plans"):
        renew_variants(new, old)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pretraining.patch_size": 5}, "no whole number of such patches"),
        ({"pretraining.patch_size": 2}, "whole tokens"),
        ({"pretraining.patch_size": [4, 4]}, "one per axis"),
        ({"pretraining.patch_size": 0}, "above 0"),
        ({"pretraining.patch_size": []}, "above 0"),
        ({"pretraining.patch_size": [4, 0, 4]}, "above 0"),
        ({"pretraining.block_size": 0}, "above 0"),
        ({"pretraining.block_size": -1}, "above 0"),
        ({"pretraining.block_size": 8}, "a single block"),
        ({"training.accumulate": 3}, "cannot be shared"),
        ({"training.initial_lr": float("inf")}, "above 0"),
        ({"training.weight_decay": float("inf")}, "0 or more"),
        ({"pretraining.alpha": float("nan")}, "0 or more"),
        ({"finetuning.weights": "~nobody_of_that_name/a.pth"}, "does not exist"),
    ],
)
def test_what_a_training_would_refuse_is_refused(plans_file: Path, settings: dict[str, Any], sentence: str) -> None:
    before = plans_file.read_bytes()
    with pytest.raises(InputError, match=sentence):
        add_variant(501, variant="bad", settings=settings)
    assert plans_file.read_bytes() == before


@pytest.mark.parametrize("kwargs", [{}, {"strides": []}, {"strides": [[1, 1, 1], [0, 2, 2]]}, {"strides": "x"}])
def test_strides_of_strangers_plans_are_a_sentence(plans_file: Path, kwargs: dict[str, Any]) -> None:
    plans = json.loads(plans_file.read_text())
    plans["configurations"]["3d_fullres"]["architecture"] = {**SWIN, "arch_kwargs": kwargs}
    plans_file.write_text(json.dumps(plans))
    before = plans_file.read_bytes()
    with pytest.raises(InputError, match="strides"):
        add_variant(501, variant="v", settings={"batch_size": 3})
    assert plans_file.read_bytes() == before
