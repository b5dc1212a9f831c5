"""Folders as model hubs give them: weights in one file, what is known of them in JSON files beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json

WEIGHT_FILES = ("model.safetensors", "checkpoint_final.pth", "pytorch_model.bin", "model.pth", "model.pt")
"""Names of the file with the weights, in the order in which they are looked for."""
BESIDE = ("config.json", "adaptation_plan.json")
"""Files beside the weights that tell of them."""

_PLAN = "nnssl_adaptation_plan"
_ENTRIES = {
    "init_args", "trainer_name", "current_epoch", _PLAN, "citations", "bdfm_exposure",
    "inference_allowed_mirroring_axes", "licence", "license",
}  # fmt: skip
"""Entries of a checkpoint that config.json may hold for it."""


def weight_file(path: Path) -> Path:
    """Return the file with the weights: the path, or the one in a folder.

    Raises:
        InputError: a folder has none.

    Example:
        >>> Path("hub").mkdir()
        >>> _ = Path("hub/model.safetensors").write_bytes(b"")
        >>> weight_file(Path("hub")).as_posix(), weight_file(Path("a.pth")).as_posix()
        ('hub/model.safetensors', 'a.pth')
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        raise InputError(
            f"{path} is a folder without weights: expected {', '.join(WEIGHT_FILES)} in it, or name a file"
        )
    return found


def with_what_lies_beside(path: Path, content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of a weight file, with what the JSON files beside it tell and it does not.

    Args:
        path: the file; one without a usual name stands alone.
        content: as it was loaded.

    Raises:
        InputError: a file beside it is no JSON.

    Example:
        >>> _ = Path("config.json").write_text('{"trainer_name": "nnUNetTrainer", "hidden_size": 48}')
        >>> with_what_lies_beside(Path("model.safetensors"), {"encoder.weight": 1})
        {'network_weights': {'encoder.weight': 1}, 'trainer_name': 'nnUNetTrainer'}
    """
    if path.name not in WEIGHT_FILES:
        return content
    told: dict[str, Any] = {}
    for name in BESIDE:
        if (path.parent / name).is_file():
            told |= _entries(name, read_json(path.parent / name))
    told = {key: value for key, value in told.items() if key not in content}
    if not told:
        return content
    bare = path.suffix == ".safetensors"
    return {"network_weights": dict(content)} | told if bare else {**content} | told


def _entries(name: str, told: Any) -> dict[str, Any]:
    if not isinstance(told, Mapping):
        return {}
    if name == BESIDE[1]:
        return {_PLAN: told}
    return {key: value for key, value in told.items() if key in _ENTRIES}
