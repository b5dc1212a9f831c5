from itertools import product
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings
from bdfm_nnunet.step_checks import check_masks, check_shares, check_steps
from tests.networks.zoo import network

SWIN: dict[str, Any] = {"strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "window_size": [4, 4, 4]}
PLAIN: dict[str, Any] = {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 2, 2]]}
KINDS = {"swin": SWIN, "plain": PLAIN}


def _configuration(kind: str, patch: list[int], **blocks: Any) -> dict[str, Any]:
    return {"batch_size": 2, "patch_size": patch, "architecture": {"arch_kwargs": KINDS[kind]}, **blocks}


PATCHES: list[Any] = [None, 1, 2, 3, 4, 5, 8, 16, 32, [4, 8, 4], [4, 4]]
BLOCKS: list[Any] = [None, 1, 4, 8, 100, [1, 2]]
CROPS = [[32, 32, 32], [16, 32, 48]]


@pytest.mark.parametrize(
    ("kind", "crops", "encode"), [("swin", CROPS, "all"), ("plain", CROPS, "all"), ("swin", CROPS[1:], "visible")]
)
def test_what_is_refused_is_what_the_objective_cannot_do(kind: str, crops: list[list[int]], encode: Any) -> None:
    """The objective itself is the judge: it draws a mask and encodes a crop, or it fails."""
    view = encoder_of(network(kind, 1))
    for patch, block, crop in product(PATCHES, BLOCKS, crops):
        settings = PretrainingSettings(
            encode=encode,
            patch_size=tuple(patch) if isinstance(patch, list) else patch,
            block_size=tuple(block) if isinstance(block, list) else block,
        )
        try:
            objective = MaskedImageModelling(view, settings)
            mask, size = objective.draw_mask(1, crop), objective.patch_size
            works = not view.is_transformer or not any(p % t for p, t in zip(size, view.token_patch))
            works = works and mask.ndim == 4
        except (ValueError, InputError):
            works = False
        try:
            check_masks(_configuration(kind, crop), settings)
            taken = True
        except InputError:
            taken = False
        assert taken == works, (patch, block, crop)


def test_masks_of_visible_encoders_are_refused_with_the_remedy() -> None:
    visible = {"encode": "visible"}
    check_steps(_configuration("swin", [32, 32, 32], pretraining=visible))
    with pytest.raises(InputError, match="no tokens to leave out: choose encode=all"):
        check_steps(_configuration("plain", [32, 32, 32], pretraining=visible))
    legacy = _configuration("swin", [32, 32, 32], pretraining=visible)
    legacy["architecture"] = {"arch_kwargs": SWIN | {"legacy": True}}
    with pytest.raises(InputError, match="plan the network without legacy"):
        check_steps(legacy)
    with pytest.raises(InputError, match=r"blocks of \[12, 12, 12\] voxels .* choose multiples of \[2, 2, 2\]"):
        check_steps(_configuration("swin", [32, 32, 32], pretraining=visible | {"block_size": 3}))
    with pytest.raises(InputError, match=r"no whole number of blocks of \[24, 8, 8\]: leave"):
        check_steps(_configuration("swin", [32, 32, 32], pretraining=visible | {"block_size": [6, 2, 2]}))


def test_masks_are_checked_where_there_is_a_block() -> None:
    check_steps(_configuration("plain", [16, 16, 16]))  # for fine-tuning: a single block of masks would be no fault
    with pytest.raises(InputError, match="a single block"):
        check_steps(_configuration("plain", [16, 16, 16], pretraining={"mask_ratio": 0.5}))
    with pytest.raises(InputError, match="cannot be shared by 1 processes"):
        check_steps(_configuration("plain", [32, 32, 32], training={"accumulate": 3}))


def test_a_world_larger_than_the_batch_is_refused_with_the_remedy() -> None:
    check_shares(4, world=2, accumulate=2)
    with pytest.raises(InputError, match=r"batch of 4 cannot be shared by 4 processes.*accumulate=2.*batch_size=8"):
        check_shares(4, world=4, accumulate=2)
