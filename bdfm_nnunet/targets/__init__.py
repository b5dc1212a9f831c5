"""Targets of subject-level tasks: classes, numbers and survival times of cases and patients."""

from bdfm_nnunet.targets.target_files import (
    TARGETS_TABLE,
    TARGETS_TYPES,
    copy_targets,
    read_targets,
    write_targets,
)
from bdfm_nnunet.targets.target_types import TargetColumn, Targets, TargetType

__all__ = [
    "TARGETS_TABLE",
    "TARGETS_TYPES",
    "TargetColumn",
    "TargetType",
    "Targets",
    "copy_targets",
    "read_targets",
    "write_targets",
]
