"""Plans: fingerprint, planners, preprocessing, variants, and plans that match a pre-trained checkpoint.

Names are loaded when they are first used: nnU-Net takes many seconds to import, and `add_variant` does without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bdfm_nnunet.plans.initial_checkpoint import write_initial_checkpoint
    from bdfm_nnunet.plans.planning import plan_dataset
    from bdfm_nnunet.plans.plans_summary import describe_plans
    from bdfm_nnunet.plans.recipes import add_recipe
    from bdfm_nnunet.plans.variants import add_variant
    from bdfm_nnunet.plans.weights_check import check_weights_of

__all__ = [
    "add_recipe",
    "add_variant",
    "check_weights_of",
    "describe_plans",
    "plan_dataset",
    "write_initial_checkpoint",
]

_HOMES = {
    "add_recipe": "recipes",
    "add_variant": "variants",
    "check_weights_of": "weights_check",
    "describe_plans": "plans_summary",
    "plan_dataset": "planning",
    "write_initial_checkpoint": "initial_checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
