"""Reading checkpoints from outside: the one door, through which nothing but data comes."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch import Tensor

from bdfm_nnunet.checkpoints.soundness import fault_of_structure, fault_of_weights
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_read, memory_bytes, open_regular, sha256_of
from bdfm_nnunet.plain_pickles import NUMPY

Kind = Literal["nnunet", "bdfm_reference", "weights"]
EXPOSURE = "bdfm_exposure"
"""The entry in which our checkpoints tell which cases they were trained on."""
PROGRESS = "bdfm_progress"
"""The entry in which a checkpoint from the middle of an epoch tells where that was."""

# keys under which common training codes keep the weights, most specific first
_CONTAINERS = ("network_weights", "state_dict", "model_state_dict", "model", "teacher", "student")
# put in front of names by DDP and torch.compile
_WRAPPERS = ("module.", "_orig_mod.")
_REFUSED = re.compile(r"(?:GLOBAL|function|new object for|but got) (?:<\w+ ')?([\w.]+)")
_torch_load = torch.load


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a file and what it says about where they come from.

    Attributes:
        path: the file.
        weights: tensors by name, without the prefixes of DDP and torch.compile; real, finite and dense.
        kind: "nnunet" (ours are such too), "bdfm_reference" (the public BDFM code) or plain "weights".
        plans: what the file gives as nnU-Net's plans of the training, not checked (see `nnunet_files.check_plans`).
        configuration: the configuration of those plans.
        trainer: class name of the trainer.
        exposure: what the file tells of the cases it was trained on, as it stands there; None where it tells nothing.
        progress: where in an epoch our trainers have written it; None at an epoch's end.
        mirroring: what the file gives as the image axes that prediction may mirror, not checked.
    """

    path: Path
    weights: dict[str, Tensor]
    kind: Kind
    plans: dict[str, Any] | None = None
    configuration: str | None = None
    trainer: str | None = None
    exposure: Any = None
    progress: Any = None
    mirroring: Any = None

    @cached_property
    def sha256(self) -> str:
        """Digest of the file, 64 hexadecimal digits."""
        return sha256_of(self.path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the weights of a PyTorch or safetensors file and what it says about them.

    Entries beside the weights that are not of the expected kind count as missing.

    Raises:
        InputError: as `load_as_data`, or the file holds no weights that a network could use.
    """
    path = Path(path)
    return _checkpoint(path, load_as_data(path))


def _checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    weights = _weights_of(content)
    if not weights:
        raise InputError(f"{path} holds no named tensors: give a checkpoint with the weights of a network")
    if fault := fault_of_weights(weights):
        raise InputError(f"{path} cannot be used as weights: {fault}; give another checkpoint, or save it anew")
    unwrapped = {_unwrapped(name): value.detach() for name, value in weights.items()}
    if len(unwrapped) < len(weights):
        raise InputError(f"{path} holds the same weights with and without prefixes: give a checkpoint of one network")
    arguments = content.get("init_args") if "network_weights" in content else None
    arguments = arguments if isinstance(arguments, Mapping) else {}
    trainer = content.get("trainer_name")
    return Checkpoint(
        path=path.resolve(),
        weights=unwrapped,
        kind=_kind_of(content, weights),
        plans=_of_kind(arguments.get("plans"), dict),
        configuration=_of_kind(arguments.get("configuration"), str),
        trainer=trainer if isinstance(trainer, str) and trainer.isidentifier() else None,
        exposure=content.get(EXPOSURE),
        progress=content.get(PROGRESS),
        mirroring=content.get("inference_allowed_mirroring_axes"),
    )


def _of_kind(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else None


def _weights_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in _CONTAINERS:
        if isinstance(content.get(key), Mapping):
            return _weights_of(content[key])
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod.", ".")


def _kind_of(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Kind:
    names = {_unwrapped(name) for name in weights}
    if {"conv3d_transpose_1.weight", "encoder.patch_embed.proj.weight"} <= names:
        return "bdfm_reference"
    return "nnunet" if "network_weights" in content else "weights"


# ------------------------------------------------------------------------------------------------------ the one door


def load_as_data(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Load the whole content of a checkpoint as data: tensors on the CPU, numbers, texts, lists and tables.

    Nothing that the file names is located or called, whoever wrote it: this and older versions of PyTorch, NumPy and
    nnU-Net, or safetensors. An archive whose checksums do not hold is refused, which PyTorch itself does not look at.
    Tensors are no larger than the file and nothing holds itself; the values of weights are for `read_checkpoint` to
    check.

    Args:
        path: the file.

    Raises:
        InputError: there is no such file, it is cut off or damaged, it is no checkpoint, or it holds other objects.
    """
    content = _any_data(Path(path))
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a checkpoint with named tensors")
    return content


def _any_data(path: Path) -> Any:
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > memory_bytes():
            raise InputError(f"{path} has {size} bytes, more than this machine has memory: use a larger machine")
        if path.suffix == ".safetensors":
            content: Any = _safetensors(path)
        else:
            size = _check_archive(path, stream) or size
            content = _unpickled(path)
    if fault := fault_of_structure(content, size):
        raise InputError(f"{path} is no checkpoint that can be used ({fault}): give another file")
    return content


def _check_archive(path: Path, stream: BinaryIO) -> int:
    """Read every record of a zip archive against its checksum; the bytes it unpacks to, 0 for older formats."""
    if stream.read(4) != b"PK\x03\x04":
        return 0
    try:
        with zipfile.ZipFile(stream) as archive:
            records = archive.infolist()
            size = sum(record.file_size for record in records)
            if size > memory_bytes():
                raise InputError(f"{path} unpacks to {size} bytes, more than this machine has memory")
            program = any(record.filename.endswith("/constants.pkl") for record in records)
            checked = any(record.CRC for record in records)  # torch.save can be told to write none
            damaged = archive.testzip() if checked and not program else None
    except InputError:
        raise
    except Exception as error:  # damaged bytes make the reader fail in any way
        raise InputError(f"{path} cannot be read as a checkpoint ({_first_line(error)}): {_ANEW}") from None
    if program:
        raise InputError(f"{path} is a TorchScript program: save the state_dict() of that model and give this file")
    if damaged:
        raise InputError(f"{path} is damaged (the checksum of its part {damaged!a} does not hold): {_ANEW}")
    return size


_ANEW = "it may be cut off or changed, copy it anew"


def _safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path} is not a safetensors file ({_first_line(error)}): copy it anew") from None
    except OSError as error:
        raise cannot_read(path, error) from None


def _unpickled(path: Path) -> Any:
    allowed: list[Any] = [(replacement, name) for name, replacement in NUMPY.items()]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd bytes in what is no checkpoint
            return _torch_load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            named = _REFUSED.search(str(error))
            what = f"the Python object {named[1]}" if named else "Python objects"
            raise InputError(
                f"{path} is no plain checkpoint (it is not a PyTorch file, or it holds {what}, which would run "
                "code on loading): give a file with tensors only, for instance one saved from state_dict()"
            ) from None
        raise InputError(f"{path} is not a checkpoint: give a file written by torch.save or safetensors") from None
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be read as a checkpoint ({_first_line(error)}): {_ANEW}") from None
    except Exception:  # bytes that are no checkpoint make the unpickler fail in any way, IndexError for instance
        raise InputError(f"{path} is not a checkpoint: give a file written by torch.save or safetensors") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


_loaded: list[Checkpoint] = []


def checkpoints_loaded() -> list[Checkpoint]:
    """Return what nnU-Net has loaded through the door in this process, without weights, the latest last."""
    return list(_loaded)


def close_other_doors() -> None:
    """Let nnU-Net load checkpoints as data alone from now on in this process; see `loading_as_data`."""
    torch.load = _load_as_data_instead


@contextmanager
def loading_as_data() -> Iterator[None]:
    """Inside this context nnU-Net loads checkpoints as data alone, by `load_as_data`.

    nnU-Net calls `torch.load(path, weights_only=False)` in its predictor, for `-pretrained_weights` and to continue a
    training, which runs whatever code the file holds. Here such calls give the same content, on the CPU, or raise an
    InputError; weights that are no finite real numbers are refused too. Calls with weights_only=True, or with an open
    file, stay what they are.

    >>> with loading_as_data():  # doctest: +SKIP
    ...     predictor.initialize_from_trained_model_folder(folder, folds, "checkpoint_final.pth")
    """
    before = torch.load
    close_other_doors()
    try:
        yield
    finally:
        torch.load = before


def _load_as_data_instead(f: Any, *arguments: Any, weights_only: bool | None = None, **options: Any) -> Any:
    """Stands for `torch.load`."""
    if weights_only is not False or not isinstance(f, (str, os.PathLike)):
        return _torch_load(f, *arguments, weights_only=weights_only, **options)
    content = _any_data(Path(f))
    if not isinstance(content, Mapping):  # no checkpoint, and somebody else's business
        return content
    if "network_weights" not in content:
        raise InputError(f"{f} is no checkpoint of nnU-Net (it has no entry network_weights): see `bdfm weights`")
    checkpoint = _checkpoint(Path(f), content)
    _loaded.append(replace(checkpoint, weights={}))
    return content
