"""Named sets of pre-training settings, in one table, the trainers that have them, and published sizes of networks."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Preset:
    """An objective and its changes to the defaults of the objective's settings."""

    objective: str
    settings: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # masked image modelling with the faults of its public code corrected: the defaults of `PretrainingSettings`
        "bdfm": Preset("masked", {}),
        # BDFM as its public code has it
        "published": Preset(
            "masked",
            {
                "mask_token": "scalar_mean",
                "decoder": "final",
                "decoder_channels": 16,
                "frequency_decoder": "serial",
                "frequency_padding": "zero",
                "frequency_output": "magnitude",
                "frequency_norm": True,
                "legacy_frequency_loss": True,
            },
        ),
        # the baseline of Xie et al. 2022 (arXiv:2111.09886): a learned token and the pixel decoder alone
        "simmim": Preset("masked", {"mask_token": "learned", "decoder": "final", "frequency_decoder": "none"}),
        # Frepa (arXiv:2407.14651) with the faults of its public code corrected
        "frepa": Preset("frequency_corruption", {}),
        # Frepa as its public code has it: no consistency of embeddings, and a decoder of the last features
        "frepa_published": Preset(
            "frequency_corruption",
            {
                "decoder": "final",
                "consistency_weight": 0.0,
                "legacy_corruptions": True,
                "legacy_losses": True,
            },
        ),
        # contrastive learning with views that survive the normalisation: the defaults of `ContrastiveSettings`
        "simclr": Preset("contrastive", {}),
        # 3D-Neuro-SimCLR as its public code has it; its network is a ResNet-18
        "simclr_published": Preset(
            "contrastive",
            {
                "legacy_views": True,
                "joint_forward": False,
                "same_patient": "negative",
                "temperature": 0.5,
                "standardise_embeddings": False,
                "projection": 64,
            },
        ),
        # NeuroSTORM (arXiv:2506.11167) with the faults of its public code corrected
        "neurostorm": Preset("sequence", {}),
        # NeuroSTORM as its public code has it; its network is legacy, too
        "neurostorm_published": Preset(
            "sequence",
            {"loss_region": "all", "legacy_masks": True, "legacy_noise": True, "legacy_dropout": True},
        ),
    }
)
"""Name -> preset."""

LEGACY_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "masked": "published",
        "frequency_corruption": "frepa_published",
        "contrastive": "simclr_published",
        "sequence": "neurostorm_published",
    }
)
"""Objective -> the preset that "legacy": true chooses, which is the published code."""

TRAINER_PRESETS: Mapping[str, str] = MappingProxyType(
    {
        "nnUNetTrainerBDFMPretrain": "bdfm",
        "nnUNetTrainerSimMIM": "simmim",
        "nnUNetTrainerFrepa": "frepa",
        "nnUNetTrainerSimCLR": "simclr",
        "nnUNetTrainerNeuroSTORM": "neurostorm",
    }
)
"""Pre-training trainer -> its preset; where several take the same settings, the last one is for 4-D images."""

MIXTURE_TRAINER = "nnUNetTrainerPretrain"
"""The trainer of the objectives that the plans list in pretraining.objectives."""

PRETRAINERS = (*TRAINER_PRESETS, MIXTURE_TRAINER)
"""All pre-training trainers."""

POOLING: Mapping[str, Literal["mean", "attention"]] = MappingProxyType(
    {
        "nnUNetTrainerBDFMClassification": "attention",
        "nnUNetTrainerBDFMRegression": "mean",
        "nnUNetTrainerBDFMSurvival": "mean",
    }
)
"""Trainers whose networks predict targets of whole subjects, and how these pool features by default."""

SUBJECT_TRAINERS = tuple(POOLING)
"""Their names."""

REIDENTIFICATION_TRAINER = "nnUNetTrainerReidentification"
"""The trainer that learns who is who."""

SUBJECT_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "nnUNetTrainerBDFMClassification": ("binary", "multi-class", "ordinal"),
        "nnUNetTrainerBDFMRegression": ("continuous",),
        "nnUNetTrainerBDFMSurvival": ("survival",),
    }
)
"""The types of target that each of them learns."""

PRIMUS_SIZES: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {"s": (396, 12, 6), "b": (792, 12, 12), "m": (864, 16, 12), "l": (1056, 24, 16)}
)
"""Published sizes of a Primus (Wald et al. 2025, arXiv:2503.01835): channels of a token, blocks and heads."""
