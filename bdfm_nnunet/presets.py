"""Named sets of pre-training settings, in one table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # masked image modelling with the faults of its public code corrected: the defaults of `PretrainingSettings`
        "bdfm": {},
        # BDFM as its public code has it
        "published": {
            "mask_token": "scalar_mean",
            "decoder": "final",
            "decoder_channels": 16,
            "frequency_decoder": "serial",
            "frequency_padding": "zero",
            "frequency_output": "magnitude",
            "frequency_norm": True,
            "legacy_frequency_loss": True,
        },
        # the baseline of Xie et al. 2022 (arXiv:2111.09886): a learned token and the pixel decoder alone
        "simmim": {"mask_token": "learned", "decoder": "final", "frequency_decoder": "none"},
    }
)
"""Preset -> its changes to the defaults of its objective's settings."""

TRAINER_PRESETS: Mapping[str, str] = MappingProxyType(
    {"nnUNetTrainerBDFMPretrain": "bdfm", "nnUNetTrainerSimMIM": "simmim"}
)
"""Pre-training trainer -> its preset."""
