"""Reading checkpoints from outside without running any code they may hold."""

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import sha256_of

Kind = Literal["nnunet", "bdfm_reference", "weights"]
EXPOSURE = "bdfm_exposure"
"""The entry in which our checkpoints tell which cases they were trained on."""
PROGRESS = "bdfm_progress"
"""The entry in which a checkpoint from the middle of an epoch tells where that was."""

# keys under which common training codes keep the weights, most specific first
_CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "teacher", "student")
# put in front of names by DDP and torch.compile
_WRAPPERS = ("module.", "_orig_mod.")
# nnU-Net's checkpoints log NumPy numbers; these constructors run no code of the file
_NUMPY_TYPES: list[Any] = [
    np.ndarray,
    np.dtype,
    *(np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]),
    *(type(np.dtype(name)) for name in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
]


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file and what it says about where they come from.

    Attributes:
        path: the file.
        weights: tensors by name, without the prefixes of DDP and torch.compile.
        kind: "nnunet" (ours are such too), "bdfm_reference" (the public BDFM code) or plain "weights".
        plans: nnU-Net's plans the network was trained with, if the file holds them.
        configuration: the configuration of those plans.
        trainer: class name of the trainer.
        exposure: what the file tells of the cases it was trained on, as it stands there; None where it tells nothing.
        progress: where in an epoch our trainers have written it; None at an epoch's end.
    """

    path: Path
    weights: dict[str, Tensor]
    kind: Kind
    plans: dict[str, Any] | None = None
    configuration: str | None = None
    trainer: str | None = None
    exposure: Any = None
    progress: Any = None

    @cached_property
    def sha256(self) -> str:
        """Digest of the file, 64 hexadecimal digits."""
        return sha256_of(self.path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a PyTorch or safetensors file.

    Raises:
        InputError: there is no such file, it is cut off, it is no checkpoint, or it holds something else than data.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file: check the path of the checkpoint")
    content = _load(path)
    weights = _weights_of(content)
    if not weights:
        raise InputError(f"{path} holds no named tensors: give a checkpoint with the weights of a network")
    arguments = content.get("init_args") if "network_weights" in content else None
    arguments = arguments if isinstance(arguments, Mapping) else {}
    return Checkpoint(
        path=path.resolve(),
        weights=weights,
        kind=_kind_of(content, weights),
        plans=arguments.get("plans"),
        configuration=arguments.get("configuration"),
        trainer=content.get("trainer_name"),
        exposure=content.get(EXPOSURE),
        progress=content.get(PROGRESS),
    )


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        with torch.serialization.safe_globals(_NUMPY_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd bytes in what is no checkpoint
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            raise InputError(
                f"{path} is no plain checkpoint (it is not a PyTorch file, or it holds Python objects that would run "
                "code on loading): give a file with tensors only, for instance one saved from state_dict()"
            ) from None
        raise InputError(f"{path} is not a checkpoint: give a file written by torch.save or safetensors") from None
    except (RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} cannot be read as a checkpoint ({reason}): it may be cut off, copy it anew") from None
    except Exception as error:  # bytes that are no checkpoint make the readers fail in any way, IndexError for instance
        if type(error).__module__.startswith("safetensors"):
            raise InputError(f"{path} is not a safetensors file ({error}): copy it anew") from None
        raise InputError(f"{path} is not a checkpoint: give a file written by torch.save or safetensors") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a checkpoint with named tensors")
    return content


def _weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(content.get(key), Mapping):
            return _weights_of(content[key])
    return {_unwrapped(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod.", ".")


def _kind_of(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Kind:
    if "conv3d_transpose_1.weight" in weights and "encoder.patch_embed.proj.weight" in weights:
        return "bdfm_reference"
    return "nnunet" if "network_weights" in content else "weights"
