"""The layers of the house as an executable rule: who may import whom."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "bdfm_nnunet": "bdfm_nnunet",
    "trainers": "bdfm_nnunet.trainers",
    "plans": "bdfm_nnunet.plans",
    "dataset_conversion": "bdfm_nnunet.dataset_conversion",
}
FOR_EVERYONE = {
    "allocator", "checksums", "errors", "files", "json_shapes", "leftovers", "locks", "modality_names", "nnunet_files",
    "nnunet_folders",
    "old_plans", "output_log", "plain_pickles", "presets", "safe_names", "settings", "split_files", "step_checks",
    "table_files", "thread_count", "worker_pools",
}  # fmt: skip
"""Small modules that import nothing of the others."""

MAY_IMPORT: dict[str, set[str]] = {
    **dict.fromkeys(FOR_EVERYONE, FOR_EVERYONE),
    "kept_tables": set(),
    "channel_dropout": set(),
    "hashed_noise": set(),
    "images": {"images"},
    "inputs": {"inputs", "images"},
    "intensity_changes": {"hashed_noise"},
    "masking": set(),
    "number_types": set(),
    "metrics": {"frequency"},
    "sharpness_metrics": {"frequency", "kept_tables", "metrics"},
    "spectrum_metrics": {"frequency", "metrics"},
    "embedding_spectrum": {"frequency", "networks", "spectrum_metrics"},
    "frequency": {"frequency", "kept_tables", "masking"},
    "losses": {"losses", "frequency", "masking"},
    "embedding_measures": {"losses"},
    "networks": {"networks", "kept_tables", "masking", "frequency", "hashed_noise", "cost_records"},
    "cost_records": {"__version__"},
    "results": {"results", "__version__"},
    "used_devices": {"results"},
    "training_costs": {"cost_records", "networks", "objectives"},
    "objectives": {
        "objectives", "networks", "kept_tables", "masking", "frequency", "losses", "metrics", "embedding_measures",
        "sharpness_metrics", "spectrum_metrics", "hashed_noise", "intensity_changes", "channel_dropout",
    },
    "patients": set(),
    "source_names": {"patients"},
    "weight_rules": {"source_names"},
    "targets": {"targets", "patients"},
    "training": {
        "training", "networks", "checkpoints", "data", "exposure", "patients", "number_types", "cost_records",
        "training_costs", "tasks", "prediction", "targets", "images", "inputs",
    },
    "checkpoints": {"checkpoints", "networks", "objectives"},
    "exposure": {"exposure", "patients", "checkpoints", "source_names", "weight_rules"},
    "data": {"data", "images", "masking", "intensity_changes"},
    "synthesis": {"synthesis", "data", "dataset_conversion", "images", "patients"},
    "evaluation": {"evaluation", "images", "results", "targets"},
    "reports": {"reports", "evaluation", "images", "results", "targets"},
    "sharing": {
        "sharing", "checkpoints", "networks", "exposure", "results", "training_costs", "__version__", "inputs",
    },
    "plans": {
        "plans", "networks", "checkpoints", "exposure", "patients", "images", "cost_records", "targets",
        "inputs",
    },
    "tasks": {
        "tasks", "objectives", "networks", "checkpoints", "data", "exposure", "reports", "results", "evaluation",
        "embedding_measures", "losses", "targets", "channel_dropout", "patients", "used_devices",
    },
    "trainers": {"trainers", "training", "tasks", "objectives"},
    "dataset_conversion": {"dataset_conversion", "patients", "images", "targets", "source_names", "weight_rules"},
    "nnunet_plugin": {"trainers", "checkpoints"},
    "prediction": {
        "prediction", "images", "checkpoints", "number_types", "networks", "training_costs", "evaluation", "targets",
        "data", "tasks", "inputs", "results", "exposure", "used_devices", "__version__",
    },
}  # fmt: skip
"""Part of the library to the parts it may import, `FOR_EVERYONE` aside."""

ABOVE_ALL = {"api", "cli", "commands", "containers", "probes", "studies", "train"}
"""They put the parts together and may import all of them."""

ONLY_TENSORS = {
    *(f"checkpoints.{file}" for file in ("checkpoint_reading", "checkpoint_writing", "load_report", "nnunet_loading")),
    *(f"checkpoints.{file}" for file in ("adapting", "hub_folder", "last_training", "safe_loading", "soundness")),
    *(f"checkpoints.{file}" for file in ("network_functions", "tensor_copying", "token_adapting")),
    *(f"checkpoints.readers.{file}" for file in ("nnunet_reader", "plain_reader", "public_bdfm_reader")),
    *(f"checkpoints.readers.{file}" for file in ("reader", "renaming", "simclr_reader", "swin_names")),
    *(f"checkpoints.readers.{file}" for file in ("families", "monai_orders", "monai_plans", "monai_reader")),
    *(f"checkpoints.readers.{file}" for file in ("nnssl_plans", "nnssl_reader", "source_network")),
    *(
        f"checkpoints.readers.{file}"
        for file in ("neurostorm_reader", "primus_tokens", "unsupported_reader", "weight_sets")
    ),
    "checkpoints.training_folder",
}
"""Files of `checkpoints` that know no network."""

_PREDICTION = {
    *(f"prediction.{file}" for file in ("stock_commands", "argument_checks", "model_folder", "case_workers")),
    "prediction.predictor",
    *(f"prediction.{file}" for file in ("ensemble_command", "ensemble_prediction")),
    *(f"prediction.{file}" for file in ("subject_images", "subject_predictor")),
}
_DATA = {"data.case_classes", "data.checked_cases", "data.crops", "data.plain_cases", "data.subject_bags"}
_TRAINING = {
    *(f"training.{file}" for file in ("calibration", "fold_data", "raw_dataset", "trainer", "trial_trainer")),
    "tasks.segmentation",
    "tasks.pretraining",
    "tasks.subject_level",
}
MAY_IMPORT_NNUNET = {
    "plans", "trainers", "studies", "train", "nnunet_plugin", "probes.labelled_cases", *_DATA, *_PREDICTION, *_TRAINING
}  # fmt: skip
WITHOUT_TORCH = {
    *FOR_EVERYONE,
    "images",
    "inputs",
    "patients",
    "source_names",
    "weight_rules",
    "targets",
    "evaluation",
    "reports",
    "results",
    "dataset_conversion",
    "synthesis",
    "nnunet_plugin",
    "api",
    "cli",
    "commands",
}


def _modules() -> dict[str, Path]:
    """Name without the leading `bdfm_nnunet.` to file, for every module of the tree; the root package is `.`."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            name = ".".join(part for part in parts if part != "__init__")
            found[name.removeprefix("bdfm_nnunet").removeprefix(".") or "."] = path
    return found


MODULES = _modules()


@cache
def _imports(path: Path) -> frozenset[str]:
    """Full names of what a file imports, at any depth of the code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; use the installed name"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def _part(name: str) -> str:
    return name.partition(".")[0]


def _own(names: frozenset[str]) -> set[str]:
    return {name.removeprefix("bdfm_nnunet.") for name in names if name.startswith("bdfm_nnunet.")}


def test_imports_point_downwards() -> None:
    wrong = []
    for name, path in MODULES.items():
        if name == "." or _part(name) in ABOVE_ALL:
            continue
        assert _part(name) in MAY_IMPORT, f"{name} is new: say in this file what it may import"
        allowed = MAY_IMPORT[_part(name)] | FOR_EVERYONE
        if name in ONLY_TENSORS:
            allowed = {"checkpoints", *FOR_EVERYONE}
        if found := {used for used in _own(_imports(path)) if _part(used) not in allowed}:
            wrong.append(f"{name} imports {sorted(found)}; it may import {sorted(allowed)}")
    assert not wrong, "\n".join(wrong)


def test_third_parties_stay_where_they_belong() -> None:
    wrong = []
    for name, path in MODULES.items():
        used = {_part(imported) for imported in _imports(path)}
        if not {name, _part(name)} & MAY_IMPORT_NNUNET and "nnunetv2" in used:
            wrong.append(f"{name} imports nnunetv2")
        if (_part(name) in WITHOUT_TORCH or name == ".") and used & {"torch", "torchvision"}:
            wrong.append(f"{name} imports torch or torchvision")
    assert not wrong, "\n".join(wrong)


def test_root_folders_are_imported_by_their_installed_names() -> None:
    roots = {*FOLDERS} - {"bdfm_nnunet"}
    assert not {name for name, path in MODULES.items() if {_part(used) for used in _imports(path)} & roots}


def test_the_table_names_parts_that_exist() -> None:
    parts = {_part(name) for name in MODULES}
    assert set(MAY_IMPORT) <= parts
    assert {name for name in ONLY_TENSORS if name not in MODULES} == set()


def test_the_rule_finds_a_wrong_import(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def later():\n    from bdfm_nnunet.trainers import base\n    import bdfm_nnunet.plans.grid\n")
    assert _own(_imports(path)) == {"trainers.base", "plans.grid"}
