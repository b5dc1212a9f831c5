import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of
from bdfm_nnunet.plans import image_planning, plan_dataset
from bdfm_nnunet.plans.pretrained_plans import read_pretrained_plans

PRETRAINING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "spacing": [3.0, 1.0, 2.0],
    "patch_size": [16, 32, 32],
    "batch_size": 7,
    "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [True],
    "architecture": {
        "network_class_name": "bdfm_nnunet.networks.swin_unet.SwinUNet",
        "arch_kwargs": {
            "strides": [[1, 1, 1], [2, 4, 4], [2, 2, 2]],
            "features_per_stage": [4, 8, 16],
            "depths": [2, 2],
            "num_heads": [1, 2],
            "window_size": [8, 8, 8],
        },
        "_kw_requires_import": [],
    },
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkpoint as nnU-Net does, with plans whose configuration is changed as asked."""

    def write(**changes: Any) -> Path:
        plans = {
            "transpose_forward": [2, 0, 1],
            "transpose_backward": [1, 2, 0],
            "configurations": {
                "3d_fullres": PRETRAINING | changes,
                "short": {"inherits_from": "3d_fullres", "training": {"epochs": 1}},
            },
        }
        path = tmp_path / "checkpoint_final.pth"
        content = {
            "network_weights": {"encoder.norm.weight": torch.zeros(16)},
            "init_args": {"plans": plans, "configuration": "short"},
            "trainer_name": "nnUNetTrainerBDFMPretrain",
        }
        torch.save(content, path)
        return path

    return write


@pytest.fixture
def without_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_planning, "prepare_fingerprint", lambda *_, **__: None)


def planned(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    plans = json.loads(path.read_text())
    return plans, plans["configurations"]["3d_fullres"]


@pytest.mark.usefixtures("without_images")
def test_plans_match_the_checkpoint(skeleton: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    skeleton((60, 70, 80), (1.0, 1.5, 1.0), channels=4)
    weights = checkpoint()
    plans, configuration = planned(plan_dataset(501, weights=weights, preprocess=False, gpu_memory=1))
    for name in ("spacing", "patch_size", "architecture"):
        assert configuration[name] == PRETRAINING[name]
    assert plans["transpose_forward"] == [2, 0, 1]
    assert plans["transpose_backward"] == [1, 2, 0]
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"] * 4
    assert configuration["use_mask_for_norm"] == [True] * 4
    assert configuration["data_identifier"] == "BDFMPlans_3d_fullres"
    assert configuration["finetuning"] == {"weights": str(weights), "weights_sha256": sha256_of(weights)}
    assert "training" not in configuration
    # 60 x 70 x 80 voxels of 1 x 1.5 x 1 mm, resampled to 1 x 2 x 3 mm in the images' order of axes
    assert [round(size) for size in configuration["median_image_size_in_voxels"]] == [27, 60, 52]


@pytest.mark.usefixtures("without_images")
def test_the_batch_follows_the_memory(skeleton: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    skeleton((60, 70, 80))
    weights = checkpoint()
    batches = [
        planned(plan_dataset(501, weights=weights, preprocess=False, gpu_memory=memory))[1]["batch_size"]
        for memory in (0.001, 0.1, 0.5)
    ]
    assert batches[0] == 2  # the network is the checkpoint's, whatever it takes
    assert 2 < batches[1] < batches[2]


@pytest.mark.usefixtures("without_images")
def test_normalisation_channel_by_channel(
    skeleton: Callable[..., Any], checkpoint: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    mixed = {"normalization_schemes": ["ZScoreNormalization", "NoNormalization"], "use_mask_for_norm": [True, False]}
    weights = checkpoint(**mixed)
    skeleton((60, 70, 80), channels=2)
    _, two = planned(plan_dataset(501, weights=weights, preprocess=False))
    assert {name: two[name] for name in mixed} == mixed
    assert "cannot be carried over" not in caplog.text
    caplog.set_level(logging.WARNING)
    for extra in (2, 3):
        (skeleton((60, 70, 80), channels=4).raw / f"x{extra}").touch()
    _, four = planned(plan_dataset(501, weights=weights, preprocess=False))
    assert four["normalization_schemes"] == ["ZScoreNormalization"] * 4
    assert "cannot be carried over to 4 channels" in caplog.text


@pytest.mark.usefixtures("without_images")
def test_another_network_is_refused(skeleton: Callable[..., Any], checkpoint: Callable[..., Path]) -> None:
    made = skeleton((60, 70, 80))
    with pytest.raises(InputError, match="is of a swin network, not resenc: leave --network out"):
        plan_dataset(501, weights=checkpoint(), network="resenc", preprocess=False)
    assert not (made.preprocessed / "BDFMPlans.json").exists()
    plan_dataset(501, weights=checkpoint(), network="swin", preprocess=False)
    unknown = PRETRAINING["architecture"] | {"network_class_name": "somewhere.Primus"}  # type: ignore[operator]
    with pytest.raises(InputError, match="is of a network Primus, expected one of SwinUNet"):
        plan_dataset(501, weights=checkpoint(architecture=unknown), preprocess=False)
    with pytest.raises(InputError, match="2-D network"):
        plan_dataset(501, weights=checkpoint(patch_size=[32, 32]), preprocess=False)


@pytest.mark.usefixtures("without_images")
def test_weights_without_plans_say_what_to_do(skeleton: Callable[..., Any], tmp_path: Path) -> None:
    skeleton((60, 70, 80))
    torch.save({"state_dict": {"encoder.weight": torch.zeros(3)}}, tmp_path / "foreign.pth")
    with pytest.raises(InputError, match=r"holds no plans.*BDFM_WEIGHTS"):
        plan_dataset(501, weights=tmp_path / "foreign.pth", preprocess=False)
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"text\.pth is "):
        plan_dataset(501, weights=tmp_path / "text.pth", preprocess=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"spacing": None},
        {"spacing": [float("nan")] * 3},
        {"spacing": [0, 0, 0]},
        {"spacing": ["a", "b", "c"]},
        {"patch_size": ["a", "b", "c"]},
        {"patch_size": [10**9] * 3},
        {"architecture": [1]},
        {"architecture": {"network_class_name": 7, "arch_kwargs": {}, "_kw_requires_import": []}},
        {"architecture": {**PRETRAINING["architecture"], "network_class_name": "posixpath.SwinUNet"}},  # type: ignore[dict-item]
        {"architecture": {**PRETRAINING["architecture"], "arch_kwargs": "x"}},  # type: ignore[dict-item]
        {"architecture": {**PRETRAINING["architecture"], "arch_kwargs": {"window_size": 7}}},  # type: ignore[dict-item]
        {"resampling_fn_data": "os.system"},
        {"use_mask_for_norm": "yes"},
    ],
)
def test_plans_that_cannot_be_used_are_refused(checkpoint: Callable[..., Path], changes: dict[str, Any]) -> None:
    path = checkpoint(**changes)
    with pytest.raises(InputError) as caught:
        read_pretrained_plans(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_links_and_odd_homes_are_sentences(tmp_path: Path, checkpoint: Callable[..., Path]) -> None:
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    for path in (tmp_path / "loop.pth", Path("~nobody_of_that_name/a.pth")):
        with pytest.raises(InputError, match=path.name):
            read_pretrained_plans(path)
    (tmp_path / "link.pth").symlink_to(checkpoint())
    assert read_pretrained_plans(tmp_path / "link.pth").path == tmp_path / "checkpoint_final.pth"


def test_primus_brings_its_size_and_cascades_are_refused(checkpoint: Callable[..., Path]) -> None:
    sizes = {"input_shape": [16, 32, 32], "embed_dim": 24, "eva_depth": 1, "eva_numheads": 2}
    architecture = {
        "network_class_name": "bdfm_nnunet.networks.primus.PrimusNet",
        "arch_kwargs": sizes | {"strides": [[1, 1, 1], [2, 2, 2], [4, 4, 4]]},
        "_kw_requires_import": [],
    }
    assert read_pretrained_plans(checkpoint(architecture=architecture)).network == "primus"
    with pytest.raises(InputError, match="is of a primus network, not primus-m"):
        read_pretrained_plans(checkpoint(architecture=architecture), "primus-m")
    with pytest.raises(InputError, match="second stage of a cascade"):
        read_pretrained_plans(checkpoint(previous_stage="3d_lowres"))
