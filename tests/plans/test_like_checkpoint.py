"""Plans with the axes, spacing, normalisation and patch of a checkpoint, for any network."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans import image_planning, plan_dataset
from bdfm_nnunet.plans.likeness import read_likeness
from tests.networks import zoo
from tests.sharing.made_checkpoints import pretrained

PATCH = [32, 48, 64]
CLASSES = {"swin": "SwinUNet", "resenc": "ResidualEncoderUNet", "plain": "PlainConvUNet", "resnet18": "ResNet18UNet",
           "primus-s": "PrimusNet"}  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a pre-training at 3 x 1 x 2 mm in the order of plans that put the last axis first."""
    path = tmp_path / "a.pth"
    content = pretrained(path)
    plans = content["init_args"]["plans"] | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    plans["configurations"]["3d_fullres"] |= {
        "spacing": [3.0, 1.0, 2.0], "patch_size": PATCH, "normalization_schemes": ["RescaleTo01Normalization"],
        "use_mask_for_norm": [False],
    }  # fmt: skip
    content["init_args"]["plans"] = plans
    torch.save(content, path)
    return path


@pytest.fixture
def plan(skeleton: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Plans a data set of images of 60 x 70 x 80 voxels of 1 x 1.5 x 1 mm; the plans and 3d_fullres."""
    monkeypatch.setattr(image_planning, "prepare_fingerprint", lambda *_, **__: None)
    skeleton((60, 70, 80), (1.0, 1.5, 1.0), channels=2)

    def make(**settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        plans = json.loads(plan_dataset(501, preprocess=False, **settings).read_text())
        return plans, plans["configurations"]["3d_fullres"]

    return make


@pytest.mark.parametrize("network", CLASSES)
def test_any_network_gets_the_geometry_and_starts_from_nothing(
    network: str, plan: Callable[..., Any], checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = {"swin": 0.3, "primus-s": 2}.get(network, 8)
    plans, settings = plan(network=network, like=checkpoint, gpu_memory=memory)
    assert settings["architecture"]["network_class_name"].endswith(f".{CLASSES[network]}")
    assert plans["transpose_forward"] == [2, 0, 1] and plans["transpose_backward"] == [1, 2, 0]
    assert settings["spacing"] == [3.0, 1.0, 2.0]
    assert settings["normalization_schemes"] == ["RescaleTo01Normalization"] * 2
    assert settings["use_mask_for_norm"] == [False] * 2
    assert all(size <= limit for size, limit in zip(settings["patch_size"], PATCH))
    if network in ("resenc", "plain", "resnet18"):  # tokens and windows need not divide it
        assert settings["patch_size"] == PATCH
    assert (settings["patch_size"] != PATCH) == (f"that of {checkpoint} 32 x 48 x 64" in caplog.text)
    assert settings["data_identifier"] == "BDFMPlans_3d_fullres"
    assert "finetuning" not in settings
    # resampled to 1 x 2 x 3 mm in the images' order of axes
    assert [round(size) for size in settings["median_image_size_in_voxels"]] == [27, 60, 52]


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("like_pretrained", [3.0, 1.0, 2.0]), ("default", [1.0, 1.0, 1.5]), ((0.5, 0.75, 2), [2.0, 0.5, 0.75])],
)
def test_other_spacings(spacing: Any, expected: list[float], plan: Callable[..., Any], checkpoint: Path) -> None:
    _, settings = plan(like=checkpoint, spacing=spacing, network="resnet18", gpu_memory=2)
    assert settings["spacing"] == expected
    assert settings["resampling_fn_data"] == "resample_data_or_seg_to_shape"


def test_no_resampling(plan: Callable[..., Any], checkpoint: Path) -> None:
    _, settings = plan(like=checkpoint, spacing="no_resample", network="plain", gpu_memory=2)
    for what in ("data", "seg", "probabilities"):
        assert settings[f"resampling_fn_{what}"] == "no_resampling_hack"
        assert settings[f"resampling_fn_{what}_kwargs"] == {}
    assert settings["spacing"] == [1.0, 1.0, 1.5]  # that of a median image, for augmentation
    assert settings["patch_size"] == PATCH


def test_a_patch_that_the_memory_does_not_hold_is_smaller(
    plan: Callable[..., Any], checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        _, settings = plan(like=checkpoint, gpu_memory=0.05)
    assert settings["patch_size"] < PATCH and "give more --gpu-memory" in caplog.text


def test_a_checkpoint_of_any_spacing_is_not_resampled(
    plan: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("conv3d_transpose_1.weight", "encoder.patch_embed.proj.weight")
    torch.save({"state_dict": dict.fromkeys(names, torch.ones(1))}, tmp_path / "public.pth")
    assert read_likeness(tmp_path / "public.pth").patch is None
    plans, settings = plan(like=tmp_path / "public.pth", network="plain", gpu_memory=2)
    assert plans["transpose_forward"] == [0, 2, 1]
    assert settings["resampling_fn_data"] == "no_resampling_hack"
    assert settings["normalization_schemes"] == ["RescaleTo01Normalization"] * 2
    with pytest.raises(InputError, match="images of any spacing"):
        plan(like=tmp_path / "public.pth", spacing="like_pretrained")


@pytest.mark.parametrize(("spacing", "mode"), [([1, 1, 1], "like_pretrained"), (None, "no_resample")])
def test_weights_of_nnssl(spacing: Any, mode: str, plan: Callable[..., Any], tmp_path: Path) -> None:
    """1 mm or no resampling, z-score, and the patch that nnssl recommends."""
    configuration = {
        "spacing": spacing, "patch_size": [64, 64, 64], "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
    }  # fmt: skip
    entry = {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": None, "arch_kwargs_requiring_import": None},
        "pretrain_plan": {"configurations": {"onemmiso": configuration}, "transpose_forward": [0, 1, 2]},
        "pretrain_num_input_channels": 1, "recommended_downstream_patchsize": [64, 64, 64],
        "key_to_encoder": "encoder.stages", "key_to_stem": "encoder.stem",
        "keys_to_in_proj": ["encoder.stem.convs.0.conv"], "key_to_lpe": None,
    }  # fmt: skip
    weights = zoo.network("resenc", 1).state_dict()
    torch.save({"network_weights": weights, "nnssl_adaptation_plan": entry, "citations": []}, tmp_path / "a.pth")
    assert read_likeness(tmp_path / "a.pth").spacing == mode
    plans, settings = plan(network="plain", like=tmp_path / "a.pth", gpu_memory=4)
    assert plans["transpose_forward"] == [0, 1, 2] and settings["patch_size"] == [64, 64, 64]
    assert settings["normalization_schemes"] == ["ZScoreNormalization"] * 2
    assert settings["spacing"] == ([1.0] * 3 if spacing else [1.0, 1.5, 1.0])
    assert (settings["resampling_fn_data"] == "no_resampling_hack") == (spacing is None)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"weights": "b.pth"}, "--weights and --like were given"),
        ({"like": None, "spacing": "default"}, "--spacing needs --like"),
        ({"spacing": "median"}, "--spacing median does not exist"),
        ({"spacing": [1.0, 2.0]}, "expected three numbers"),
        ({"spacing": [0.0, 1.0, 1.0]}, "expected three numbers"),
        ({"spacing": [float("nan"), 1.0, 1.0]}, "expected three numbers"),
    ],
)
def test_contradictions_are_refused(
    settings: dict[str, Any], sentence: str, plan: Callable[..., Any], checkpoint: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        plan(**({"like": checkpoint} | settings))


def test_weights_that_tell_nothing_of_their_images_are_refused(plan: Callable[..., Any], tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="does not say what images"):
        plan(like=tmp_path / "a.pth")
