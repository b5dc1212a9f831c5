"""dataset.json and plans of strangers, each with one thing changed."""

import copy
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import channels_of, check_dataset, check_plans, inputs_of, outputs_of

DATASET = {
    "channel_names": {"10": "c", "0": "a", "2": "b"}, "labels": {"background": 0, "x": 1, "y": [1, 2]},
    "numTraining": 2, "file_ending": ".nii.gz", "regions_class_order": [1, 2],
    "dataset": {"case_1": {"images": ["a.nii.gz"], "label": "b.nii.gz"}},
}  # fmt: skip
SETTINGS = {
    "data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
    "patch_size": [16, 16, 16], "spacing": [1.0, 1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"],
    "use_mask_for_norm": [False], "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "architecture": {"network_class_name": "x.Y", "arch_kwargs": {"strides": [[1, 1, 1], 2]},
                     "_kw_requires_import": []},
}  # fmt: skip
PLANS = {
    "dataset_name": "Dataset501_A", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "configurations": {"3d_fullres": SETTINGS, "short": {"inherits_from": "3d_fullres", "batch_size": 1}},
}  # fmt: skip


def _changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(content)
    *folders, last = path.split("/")
    inner = content
    for key in folders:
        inner = inner[key]
    if value is KeyError:
        del inner[last]
    else:
        inner[last] = value
    return content


def test_sound_files_are_taken() -> None:
    assert check_dataset(DATASET, "d") == DATASET and channels_of(DATASET) == ["a", "b", "c"]
    assert check_plans(PLANS, "p") == PLANS
    old = _changed(_changed(PLANS, "configurations/3d_fullres/architecture", KeyError),
                   "configurations/3d_fullres/UNet_class_name", "PlainConvUNet")  # fmt: skip
    assert check_plans(old, "p") == old


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("labels", KeyError), ("labels/background", KeyError), ("labels/x", "1"), ("labels/y", [[1]]),
        ("channel_names", KeyError), ("channel_names", []), ("file_ending", 5), ("file_ending", "nii"),
        ("file_ending", "./../x"), ("dataset", []), ("dataset", {"../x": {"images": [], "label": "b"}}),
        ("dataset", {"/etc/x": {"images": [], "label": "b"}}), ("dataset/case_1/images", "a"), ("numTraining", "2"),
    ],
)  # fmt: skip
def test_a_dataset_json_that_cannot_be_used(path: str, value: Any) -> None:
    with pytest.raises(InputError, match=r"here/dataset\.json"):
        check_dataset(_changed(DATASET, path, value), "here/dataset.json")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("configurations", KeyError), ("configurations", []), ("dataset_name", "../x"), ("plans_name", "a/b"),
        ("transpose_forward", [0, 0, 0]), ("transpose_forward", [7, 8, 9]), ("transpose_forward", "012"),
        ("configurations/../x", SETTINGS), ("configurations/short/inherits_from", "short"),
        ("configurations/short/inherits_from", ["3d_fullres"]), ("configurations/short/inherits_from", "gone"),
        ("label_manager", "os.system"), ("image_reader_writer", "../x"),
        *((f"configurations/3d_fullres/{key}", value) for key, value in [
            ("data_identifier", "../../x"), ("data_identifier", 5), ("spacing", KeyError), ("spacing", [0, 1, 1]),
            ("spacing", [float("nan")] * 3), ("spacing", [1e-9] * 3), ("patch_size", ["a"] * 3),
            ("patch_size", [10**9] * 3), ("patch_size", [0, 1, 1]), ("patch_size", [1] * 5), ("batch_size", 10**12),
            ("batch_size", 0), ("batch_size", True), ("normalization_schemes", ["os.system"]),
            ("preprocessor_name", "os.system"), ("resampling_fn_data", "a b"), ("architecture", KeyError),
            ("architecture", []), ("architecture/_kw_requires_import", None), ("training", []),
            ("spacing", [-1, 1, 1]), ("variant_settings", 5), ("previous_stage", "../x"), ("previous_stage", 5),
            ("next_stage", 5), ("resampling_fn_data_kwargs", 5),
            ("architecture/network_class_name", ["a.B"]),
            ("architecture/arch_kwargs", {"strides": []}),
            ("architecture/arch_kwargs", {"strides": [[1, 1, 1], [-2, 2, 2]]}),
            ("architecture/arch_kwargs", {"strides": [[1, 1, 1], [2, 2]]}),
            ("architecture/arch_kwargs", {"strides": [[], []]}),
        ]),
    ],
)  # fmt: skip
def test_plans_that_cannot_be_used(path: str, value: Any) -> None:
    parts = path.split("/")
    if ".." in parts:  # a configuration of that name
        changed = copy.deepcopy(PLANS)
        changed["configurations"]["../x"] = value
    else:
        changed = _changed(PLANS, path, value)
    with pytest.raises(InputError, match=r"here/plans\.json|inherits from itself|have no configuration"):
        check_plans(changed, "here/plans.json")


@pytest.mark.parametrize("content", [[], 5, None, {}, "x"])
def test_files_of_another_kind(content: Any) -> None:
    with pytest.raises(InputError, match="is no usable nnU-Net plans file"):
        check_plans(content, "p")
    with pytest.raises(InputError, match=r"is no dataset\.json"):
        check_dataset(content, "d")


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 2}, {"background": 0, "a": [1], "b": 2}, {"background": 0, "a": 1, "ignore": 2},
        {"background": 0, "whole": [1, 2], "core": 2}, {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3},
        {"background": 0, "nothing": [0, 0], "whole": [1, 2]}, {"background": 0, "a": 3, "b": 3},
    ],
)  # fmt: skip
def test_channels_of_networks_are_counted_as_nnunet_counts_them(labels: dict[str, Any]) -> None:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    dataset = DATASET | {"labels": labels}
    regions = [value for name, value in labels.items() if name != "ignore" and set(np.ravel(value)) != {0}]
    manager = LabelManager(labels, regions_class_order=list(range(1, len(regions) + 1)))
    assert outputs_of(dataset) == manager.num_segmentation_heads
    assert inputs_of(dataset, {}) == 3
    assert inputs_of(dataset, {"previous_stage": "3d_lowres"}) == 3 + len(manager.foreground_labels)
