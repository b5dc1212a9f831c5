"""Readers of checkpoints, one file per project; a new project is a file here and a line in `READERS`."""

from collections.abc import Mapping
from typing import Any

from bdfm_nnunet.checkpoints.readers.monai_reader import MonaiReader
from bdfm_nnunet.checkpoints.readers.neurostorm_reader import NeurostormReader
from bdfm_nnunet.checkpoints.readers.nnssl_reader import NnsslReader
from bdfm_nnunet.checkpoints.readers.nnunet_reader import NnunetReader
from bdfm_nnunet.checkpoints.readers.plain_reader import PlainReader
from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PublicBdfmReader
from bdfm_nnunet.checkpoints.readers.reader import ExpectedImages, Origin, Reader, ReadingSettings
from bdfm_nnunet.checkpoints.readers.renaming import Renamed, Table, rename
from bdfm_nnunet.checkpoints.readers.simclr_reader import SimclrReader
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork
from bdfm_nnunet.checkpoints.readers.unsupported_reader import UnsupportedReader

READERS: list[Reader] = [
    PublicBdfmReader(),
    NeurostormReader(),
    MonaiReader(),
    NnsslReader(),
    NnunetReader(),
    SimclrReader(),
    UnsupportedReader(),
    PlainReader(),
]
"""All readers; the first that recognises a file reads it, and the last recognises any."""


def reader_of(content: Mapping[str, Any]) -> Reader:
    """Return the reader of a file's content.

    Example:
        >>> reader_of({"network_weights": {}, "init_args": {}}).kind
        'nnunet'
    """
    return next(reader for reader in READERS if reader.recognises(content))


__all__ = [
    "READERS",
    "ExpectedImages",
    "Origin",
    "Reader",
    "ReadingSettings",
    "Renamed",
    "SourceNetwork",
    "Table",
    "reader_of",
    "rename",
]
