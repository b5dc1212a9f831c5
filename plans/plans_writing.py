"""Writing of plans: their counted costs, and the variants that a file of the same name had."""

import logging
from pathlib import Path
from typing import Any

from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_files import read_plans_file
from bdfm_nnunet.plans.memory_targets import memory_gb
from bdfm_nnunet.plans.variants import renew_variants

logger = logging.getLogger(__name__)

WORTH_A_WARNING = 1.5  # nnU-Net's rule for its own networks looks at activations alone and often exceeds the target


def note_costs(configuration: dict[str, Any], costs: Costs, gpu_memory: float) -> None:
    """Add the costs of a configuration to it, and warn where they exceed the memory that was asked for.

    Args:
        configuration: changed in place.
        costs: of one sample, arithmetic included.
        gpu_memory: GB that training may take.
    """
    memory = memory_gb(costs, configuration["batch_size"])
    if memory > WORTH_A_WARNING * gpu_memory:
        logger.warning(
            "training may take about %.1f GB, more than the %s GB asked for: give less --gpu-memory if need be",
            memory,
            gpu_memory,
        )
    configuration["costs"] = {
        "parameters": costs.parameters,
        "forward_gflop_per_sample": round((costs.forward_flops or 0) / 1e9, 2),
        "memory_gb": round(memory, 3),
        "memory_target_gb": gpu_memory,
    }


def write_plans(path: Path, plans: dict[str, Any]) -> None:
    """Write plans, with the variants of a plans file of the same name.

    Raises:
        InputError: a variant does not fit the new plans, or the file cannot be read or written.
    """
    if path.is_file():
        kept = renew_variants(plans, _older_plans(path))
        if kept:
            logger.info("kept the configurations %s of %s", ", ".join(kept), path)
    write_json(path, plans)


def _older_plans(path: Path) -> dict[str, Any]:
    try:
        return read_plans_file(path)
    except InputError as error:
        raise InputError(
            f"the variants in {path} cannot be taken over into new plans ({error}): move that file away and run the "
            "command again"
        ) from None
