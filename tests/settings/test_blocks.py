import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import (
    ALLOWED,
    FinetuningSettings,
    PretrainingSettings,
    TrainingSettings,
    check_blocks,
    pretrainer_of,
    pretraining_settings,
    read_block,
)


def test_missing_blocks_are_the_defaults() -> None:
    assert read_block({}, "training") == TrainingSettings()
    assert read_block({"pretraining": None}, "pretraining") == PretrainingSettings()
    assert read_block({}, "finetuning") == FinetuningSettings()


def test_block_goes_before_the_defaults_of_who_asks() -> None:
    block = {"pretraining": {"decoder": "pyramid"}}
    settings = read_block(block, "pretraining", **PRESETS["simmim"].settings)
    assert (settings.mask_token, settings.frequency_decoder, settings.decoder) == ("learned", "none", "pyramid")


def test_legacy_is_the_published_model_and_single_settings_go_before_it() -> None:
    settings = read_block({"pretraining": {"legacy": True, "mask_ratio": 0.5}}, "pretraining")
    assert settings == PretrainingSettings.published(mask_ratio=0.5)
    assert settings.frequency_padding == "zero" and settings.legacy_frequency_loss
    assert read_block({"pretraining": {"legacy": False}}, "pretraining") == PretrainingSettings()


@pytest.mark.parametrize(
    ("block", "key", "near"),
    [
        ("training", "epoch", "training.epochs"),
        ("pretraining", "maskratio", "mask_ratio"),
        ("finetuning", "wieghts", "weights"),
    ],
)
def test_misspelt_names_are_errors_that_name_the_right_one(block: str, key: str, near: str) -> None:
    with pytest.raises(InputError, match=near):
        check_blocks({block: {key: 1}})


def test_unlike_any_name() -> None:
    with pytest.raises(InputError, match="the names are epochs"):
        check_blocks({"training": {"zzzz": 1}})


@pytest.mark.parametrize(
    ("block", "key", "value", "expected"),
    [
        ("training", "epochs", "ten", "a whole number"),
        ("training", "epochs", 2.5, "a whole number"),
        ("training", "epochs", True, "a whole number"),
        ("training", "epochs", 0, "above 0"),
        ("training", "precision", "fp8", "'auto', 'fp32', 'bf16', 'fp16'"),
        ("training", "oversample_foreground", 1.5, "between 0 and 1"),
        ("pretraining", "mask_ratio", 1.0, "between 0 and 1"),
        ("pretraining", "patch_size", "4", "a list of a whole number values or a whole number"),
        ("pretraining", "legacy", "yes", "true or false"),
        ("finetuning", "encoder_lr_factor", -1, "0 or more"),
    ],
)
def test_wrong_values_are_errors_that_name_what_was_expected(
    block: str, key: str, value: object, expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        check_blocks({block: {key: value}})


def test_json_values_take_the_declared_type() -> None:
    assert read_block({"training": {"initial_lr": 1}}, "training").initial_lr == 1.0
    assert read_block({"pretraining": {"block_size": [2, 4, 4]}}, "pretraining").block_size == (2, 4, 4)
    assert read_block({"pretraining": {"block_size": 2}}, "pretraining").block_size == 2


def test_allowed_names_every_field_and_preset() -> None:
    assert set(ALLOWED) == {"training", "pretraining", "finetuning"}
    assert "legacy" in ALLOWED["pretraining"] and "mask_ratio" in ALLOWED["pretraining"]


def test_a_preset_stays_what_it_is_in_its_published_form() -> None:
    """The SimMIM baseline with legacy=true would otherwise be BDFM, compared with itself."""
    settings = read_block({"pretraining": {"legacy": True}}, "pretraining", **PRESETS["simmim"].settings)
    assert {name: getattr(settings, name) for name in PRESETS["simmim"].settings} == PRESETS["simmim"].settings
    assert settings.decoder_channels == PretrainingSettings.published().decoder_channels
    block = {"legacy": True, "mask_token": "zero"}
    assert read_block({"pretraining": block}, "pretraining", **PRESETS["simmim"].settings).mask_token == "zero"


def _mixture(*entries: object, **crops: object) -> dict[str, object]:
    return {"pretraining": {"objectives": list(entries), **crops}}


def test_mixtures_are_read_with_their_own_settings_and_common_crops() -> None:
    block = _mixture(
        {"name": "masked", "mask_ratio": 0.5, "weight": 2}, {"name": "masked", "preset": "simmim"}, channels="all"
    )
    first, second = pretraining_settings(block, None).objectives  # type: ignore[attr-defined]
    assert (first.weight, first.settings.mask_ratio, first.settings.channels) == (2.0, 0.5, "all")
    assert (second.weight, second.settings.mask_token, second.settings.channels) == (1.0, "learned", "all")
    check_blocks(block)


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (_mixture(), "expected a list of tables"),
        (_mixture("masked"), "expected a list of tables"),
        (_mixture({"weight": 1.0}), r"objectives\[0\]\.name is None, expected one of masked"),
        (_mixture({"name": "masked", "weight": 0}), "weight is 0.0, expected a number above 0"),
        (_mixture({"name": "masked"}, {"name": "masked", "mask_ratios": 0.5}), r"did you mean .*\[1\]\.mask_ratio\?"),
        (_mixture({"name": "masked", "preset": "simclr!"}), "preset is 'simclr!', expected one of bdfm"),
        (_mixture({"name": "masked", "channels": "all"}), "belongs to all objectives of a mixture"),
        (_mixture({"name": "masked"}, mask_ratio=0.5), "mask_ratio of masked"),
        (_mixture({"name": "masked", "mask_ratio": 2}), "mask_ratio is 2"),
    ],
)
def test_mixtures_that_no_trainer_would_take(block: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        check_blocks(block)


def test_a_list_of_objectives_is_not_for_the_trainer_of_one() -> None:
    with pytest.raises(InputError, match="use -tr nnUNetTrainerPretrain"):
        pretraining_settings(_mixture({"name": "masked"}), "bdfm")
    with pytest.raises(InputError, match=r"pretraining\.objectives is None, expected a list"):
        pretraining_settings({}, None)


@pytest.mark.parametrize(
    ("block", "trainer"),
    [
        ({}, "nnUNetTrainerBDFMPretrain"),
        ({"pretraining": {"channels": "all"}}, "nnUNetTrainerBDFMPretrain"),
        ({"pretraining": {"queue": 64}}, "nnUNetTrainerSimCLR"),
        ({"pretraining": {"adversarial": 0.1}}, "nnUNetTrainerFrepa"),
        (_mixture({"name": "masked"}), "nnUNetTrainerPretrain"),
        ({"patch_size": [8, 8, 8, 4]}, "nnUNetTrainerNeuroSTORM"),
        ({"patch_size": [8, 8, 8, 4], "pretraining": {"p_noise": 0.1}}, "nnUNetTrainerNeuroSTORM"),
        ({"patch_size": [8, 8, 8], "pretraining": {"p_noise": 0.1}}, "nnUNetTrainerSimCLR"),
        ({"patch_size": [8, 8, 8, 4], "pretraining": {"queue": 64}}, "nnUNetTrainerSimCLR"),
    ],
)
def test_the_trainer_that_a_block_is_for(block: dict[str, object], trainer: str) -> None:
    assert pretrainer_of(block) == trainer
