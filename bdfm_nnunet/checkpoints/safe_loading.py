"""Files from outside loaded as plain data: nothing that they name is located, called or run."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from bdfm_nnunet.checkpoints.soundness import fault_of_structure
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_read, memory_bytes, open_regular
from bdfm_nnunet.plain_pickles import NUMPY

torch_load = torch.load
"""PyTorch's function, whatever `nnunet_loading` puts in its place."""

_REFUSED = re.compile(r"(?:GLOBAL|function|new object for|but got) (?:<\w+ ')?([\w.]+)")


class PlainNamespace(dict[str, Any]):
    """Replacement of `argparse.Namespace`, the arguments of a command: a table of their values.

    Example:
        >>> arguments = PlainNamespace()
        >>> arguments.__setstate__({"lr": 0.1})
        >>> arguments
        {'lr': 0.1}
    """

    def __setstate__(self, state: Any) -> None:
        """Set the values; a state of another kind counts as none."""
        if isinstance(state, Mapping):
            self.update(state)


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

    Example:
        >>> torch.save({"epoch": 3, "state_dict": {"weight": torch.zeros(2)}}, "a.pth")
        >>> load_as_data("a.pth")
        {'epoch': 3, 'state_dict': {'weight': tensor([0., 0.])}}
    """
    content = any_data(Path(path))
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a checkpoint with named tensors")
    return content


def map_as_data(path: Path) -> Mapping[str, Any]:
    """Return the content of a file that `load_as_data` has read before, with tensors that are views of the file.

    The checksums are not looked at again. Where a file cannot be mapped (older formats, safetensors, compressed
    archives) it is loaded.

    Raises:
        InputError: as `load_as_data`.

    Example:
        >>> torch.save({"state_dict": {"weight": torch.zeros(2)}}, "a.pth")
        >>> map_as_data(Path("a.pth"))
        {'state_dict': {'weight': tensor([0., 0.])}}
    """
    if not _is_plain_archive(path):
        return load_as_data(path)
    content = _unpickled(path, mapped=True)
    if fault := fault_of_structure(content, path.stat().st_size):
        raise InputError(f"{path} is no checkpoint that can be used ({fault}): give another file")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, expected a checkpoint with named tensors")
    return content


def _is_plain_archive(path: Path) -> bool:
    """Return whether a file is a zip archive of uncompressed records, as torch.save writes them."""
    with open_regular(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return all(record.compress_type == zipfile.ZIP_STORED for record in archive.infolist())
        except Exception:  # damaged bytes make the reader fail in any way
            return False


def any_data(path: Path) -> Any:
    """Return the content of a file, a table of names or anything else; see `load_as_data`.

    Example:
        >>> torch.save([1, 2], "a.pth")
        >>> any_data(Path("a.pth"))
        [1, 2]
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > memory_bytes():
            raise InputError(f"{path} has {size} bytes, more than this machine has memory: use a larger machine")
        if path.suffix == ".safetensors":
            content: Any = _safetensors(path)
        else:
            _refuse_tar(path, stream)
            size = _check_archive(path, stream) or size
            content = _unpickled(path)
    if fault := fault_of_structure(content, size):
        raise InputError(f"{path} is no checkpoint that can be used ({fault}): give another file")
    return content


def _refuse_tar(path: Path, stream: BinaryIO) -> None:
    """Refuse a tar archive; a checkpoint may be called .tar without being one."""
    head = stream.read(512)
    stream.seek(0)
    if head[257:262] == b"ustar" or head[:3] == b"\x1f\x8b\x08":
        raise InputError(f"{path} is a tar or gzip archive, expected a checkpoint: unpack it and give the file inside")


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


def _unpickled(path: Path, *, mapped: bool = False) -> Any:
    allowed: list[Any] = [(replacement, name) for name, replacement in NUMPY.items()]
    allowed.append((PlainNamespace, "argparse.Namespace"))
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd bytes in what is no checkpoint
            return torch_load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "unsupported" in str(error).lower():
            named = _REFUSED.search(str(error))
            what = f"the Python object {named[1]}" if named else "Python objects"
            raise InputError(
                f"{path} is no plain checkpoint (it is not a PyTorch file, or it holds {what}, which would run "
                "code on loading): give a file with tensors only; if you trust this one, load it with "
                "weights_only=False where the code that wrote it is installed, and torch.save its state_dict",
                entry="would-run-code",
            ) from None
        raise InputError(
            f"{path} is not a checkpoint: give a file written by torch.save or safetensors", entry="not-a-checkpoint"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be read as a checkpoint ({_first_line(error)}): {_ANEW}") from None
    except Exception:  # bytes that are no checkpoint make the unpickler fail in any way, IndexError for instance
        raise InputError(
            f"{path} is not a checkpoint: give a file written by torch.save or safetensors", entry="not-a-checkpoint"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
