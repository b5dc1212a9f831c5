"""The objectives by the names that plans have for them."""

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from bdfm_nnunet.objectives.base import Objective
from bdfm_nnunet.presets import PRESETS

OBJECTIVES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "masked": ("masked", "MaskedImageModelling"),
        "frequency_corruption": ("frequency_corruption", "FrequencyCorruption"),
        "contrastive": ("contrastive", "ContrastiveLearning"),
        "sequence": ("sequence", "SequenceModelling"),
    }
)
"""Name in the plans -> module of this package and class."""


def objective_class(name: str) -> type[Objective]:
    """Return the class of an objective.

    Example:
        >>> objective_class("masked").__name__
        'MaskedImageModelling'
    """
    return _imported(*OBJECTIVES[name])


def objective_of(preset: str | None) -> type[Objective]:
    """Return the class of the objective of a preset, or that of mixtures for None.

    Example:
        >>> objective_of("simmim").__name__
        'MaskedImageModelling'
    """
    return objective_class(PRESETS[preset].objective) if preset else _imported("mixture", "Mixture")


def _imported(module: str, name: str) -> type[Objective]:
    return cast(type[Objective], getattr(importlib.import_module(f"bdfm_nnunet.objectives.{module}"), name))
