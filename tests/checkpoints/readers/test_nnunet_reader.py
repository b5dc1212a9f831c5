from typing import Any

import pytest

from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE, PROGRESS, NnunetReader

CONFIGURATION: dict[str, Any] = {
    "spacing": [3, 1.0, 2.0],
    "normalization_schemes": ["ZScoreNormalization", "CTNormalization"],
    "use_mask_for_norm": [True, None],
    "architecture": {"arch_kwargs": {"window_size": [2, 4, 4]}},
}


def _content(plans_changes: Any = (), **changes: Any) -> dict[str, Any]:
    configurations = {"base": CONFIGURATION | changes, "c": {"inherits_from": "base"}}
    plans = {"transpose_forward": [2, 0, 1], "configurations": configurations} | dict(plans_changes)
    return {"network_weights": {}, "init_args": {"plans": plans, "configuration": "c"}}


def test_what_is_recognised() -> None:
    assert NnunetReader().recognises({"network_weights": 5})
    assert not NnunetReader().recognises({"state_dict": {}})


def test_images_of_the_plans_in_the_order_of_nnunets_arrays() -> None:
    """Plans have spacings in the order of the training, after their transposition."""
    images = NnunetReader().origin(_content()).images
    assert images is not None
    assert images.axes == (2, 0, 1) and images.spacing == (1.0, 2.0, 3.0)
    assert images.normalisation == ("ZScoreNormalization", "CTNormalization") and images.masked == (True, None)


@pytest.mark.parametrize(
    "content",
    [
        _content(spacing=[1.0, 2.0]),  # a 2-D configuration
        _content(spacing=None),
        _content(spacing=[1, 1, 10**400]),
        _content(spacing=[1, 1, 10**5000]),
        _content(normalization_schemes="x"),
        _content(use_mask_for_norm=[1]),
        _content({"transpose_forward": [0, 0, 1]}),
        _content({"transpose_forward": None}),
        _content({"configurations": {"c": {"inherits_from": "c"}}}),
        {"network_weights": {}, "init_args": 5},
        {"init_args": _content()["init_args"]},  # no weights of nnU-Net, so no plans of theirs
    ],
)
def test_plans_of_an_odd_shape_say_nothing_of_images(content: dict[str, Any]) -> None:
    assert NnunetReader().origin(content).images is None


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ([2, 4, 4], (2, 4, 4)),
        ([], None),
        ([0, 4, 4], None),
        ([1000, 4, 4], None),
        (7, None),
        ([2.0, 4, 4], None),
        ([10**400] * 3, None),
    ],
)
def test_window(window: Any, expected: Any) -> None:
    content = _content(architecture={"arch_kwargs": {"window_size": window}})
    assert NnunetReader().origin(content).window == expected


def test_entries_of_our_trainers() -> None:
    content = {EXPOSURE: {"format": 1}, PROGRESS: {"iteration": 3}, "inference_allowed_mirroring_axes": (0, 1)}
    origin = NnunetReader().origin(_content() | content | {"trainer_name": "nnUNetTrainerBDFM"})
    assert (origin.exposure, origin.progress, origin.mirroring) == ({"format": 1}, {"iteration": 3}, (0, 1))
    assert origin.trainer == "nnUNetTrainerBDFM" and origin.configuration == "c" and origin.notes == ()
