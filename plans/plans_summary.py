"""A summary of a plans file in a few lines."""

from pathlib import Path
from typing import Any

from bdfm_nnunet.nnunet_files import read_plans_file, resolve_configuration
from bdfm_nnunet.plans.plans_lookup import main_configuration


def describe_plans(path: str | Path, configuration: str | None = None) -> str:
    """Describe a configuration: network, patch, stages, batch and counted costs, one line each.

    Args:
        path: the plans file.
        configuration: by default the one that `bdfm plan` has planned.
    """
    plans = read_plans_file(path)
    configuration = main_configuration(plans) if configuration is None else configuration
    settings = resolve_configuration(plans, configuration)
    architecture = settings.get("architecture") or {
        "network_class_name": settings.get("UNet_class_name", "?"), "arch_kwargs": {}
    }  # fmt: skip
    rows = {
        "plans": f"{path}, configuration {configuration}",
        "network": architecture["network_class_name"].rsplit(".", 1)[-1],
        **_image_rows(settings),
        **_network_rows(architecture["arch_kwargs"]),
        **_cost_rows(settings.get("costs")),
        "data": settings["data_identifier"],
    }
    weights = (settings.get("finetuning") or {}).get("weights")
    if weights:
        rows["weights"] = weights
    width = max(len(name) for name in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _image_rows(settings: dict[str, Any]) -> dict[str, str]:
    spacing, patch, batch = (
        [round(step, 3) for step in settings["spacing"]],
        settings["patch_size"],
        settings["batch_size"],
    )
    if len(patch) == 4:
        return {
            "spacing": f"{_times(spacing[:3])} mm, {spacing[3]} s",
            "clip": f"{_times(patch[:3])} voxels, {patch[3]} frames, batch of {batch}",
        }
    return {"spacing": f"{_times(spacing)} mm", "patch": f"{_times(patch)} voxels, batch of {batch}"}


def _network_rows(kwargs: dict[str, Any]) -> dict[str, str]:
    rows = {}
    if "strides" in kwargs:
        rows["strides"] = ", ".join(_times(stride) for stride in kwargs["strides"])
    if "features_per_stage" in kwargs:
        rows["channels"] = ", ".join(str(channels) for channels in kwargs["features_per_stage"])
    if "window_size" in kwargs and "depths" in kwargs:
        depths = "-".join(str(depth) for depth in kwargs["depths"])
        row = "scan" if "input_shape" in kwargs else "attention"
        rows[row] = f"windows of {_times(kwargs['window_size'])} tokens, {depths} blocks"
    return rows


def _cost_rows(costs: dict[str, Any] | None) -> dict[str, str]:
    if not costs:
        return {}
    return {
        "parameters": f"{costs['parameters'] / 1e6:.1f} million",
        "arithmetic": f"{costs['forward_gflop_per_sample']:.0f} GFLOP forward per sample",
        "memory": f"about {costs['memory_gb']:.1f} GB in training, of {costs['memory_target_gb']} GB",
    }


def _times(values: Any) -> str:
    return " x ".join(str(value) for value in values) if isinstance(values, (list, tuple)) else _times(list(values))
