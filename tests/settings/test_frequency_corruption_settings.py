from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import FrequencyCorruptionSettings, read_block


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratio": (0.5,)}, r"ratio is \[0.5\], expected \[least, largest\], at least 0 and at most 1"),
        ({"ratio": (0.8, 0.5)}, "ratio is"),
        ({"ratio": (0.5, 1.5)}, "at most 1"),
        ({"low_strength": (-0.1, 0.5)}, "low_strength is"),
        ({"low_strength": (0.0, float("inf"))}, "low_strength is"),
        ({"image_branch": 1.5}, "image_branch is 1.5, expected a share"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"cutoffs": ()}, "cutoffs is"),
        ({"mask_cutoff": 0.0}, "mask_cutoff is 0"),
        ({"adversarial": -0.5}, "adversarial is"),
        ({"adversarial": 0.5, "legacy_corruptions": True}, "adversarial needs the corrected corruptions"),
        ({"rmse_weight": 0.0, "gradient_weight": 0.0, "high_frequency_weight": 0.0}, "have weight 0"),
    ],
)
def test_values_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FrequencyCorruptionSettings(**changes)


def test_a_block_of_the_plans_becomes_its_settings() -> None:
    block = {"ratio": [0.1, 1], "patch_size": [4, 8, 8], "cutoffs": [0.1, 0.2], "low_strength": [0, 0]}
    settings = read_block({"pretraining": block}, "pretraining", kind=FrequencyCorruptionSettings)
    assert settings.ratio == (0.1, 1.0) and settings.patch_size == (4, 8, 8) and settings.low_strength == (0.0, 0.0)
    legacy = read_block({"pretraining": {"legacy": True}}, "pretraining", kind=FrequencyCorruptionSettings)
    assert legacy.legacy_corruptions and legacy.decoder == "final"
