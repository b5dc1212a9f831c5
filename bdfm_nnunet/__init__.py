"""Self-supervised pre-training and fine-tuning for brain MRI, native to nnU-Net v2.

`convert`, `plan`, `pretrain`, `finetune`, `predict` and `evaluate` are the way from scans to scores, see
`bdfm_nnunet.api`; they are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdfm_nnunet.api import convert, evaluate, finetune, plan, predict, pretrain

__version__ = "0.1.0"

__all__ = ["convert", "evaluate", "finetune", "plan", "predict", "pretrain"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.api"), name)
