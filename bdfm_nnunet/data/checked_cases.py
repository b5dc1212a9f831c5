"""Preprocessed cases that are compared with their checksums, and whose damage is one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.data.plain_cases import PlainBlosc2Cases, as_data
from bdfm_nnunet.errors import InputError

IMAGES, LABELS, PROPERTIES = ".b2nd", "_seg.b2nd", ".pkl"
DAMAGE = (OSError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, MemoryError)
"""What readers raise over damaged arrays."""


class CheckedCases(PlainBlosc2Cases):
    """A data set of compressed arrays; what is opened must be as `bdfm plan` has written it.

    Attributes:
        checksums: None where another program has preprocessed the data.
        last: the case that was opened last.
    """

    def __init__(
        self,
        folder: str,
        identifiers: list[str] | None = None,
        folder_with_segs_from_previous_stage: str | None = None,
    ) -> None:
        super().__init__(folder, identifiers, folder_with_segs_from_previous_stage)
        self.checksums = Checksums.of(Path(folder))
        self.last = ""

    def verify(self, identifier: str, *endings: str) -> None:
        """Raise InputError if a file of the case is not as it was made."""
        if self.checksums is not None:
            for ending in endings:
                self.checksums.verify(f"{identifier}{ending}")

    def load_case(self, identifier: str) -> Any:
        """Open a case: images, labels, labels of the previous stage, properties.

        Raises:
            InputError: a file is missing or damaged.
        """
        self.last = identifier
        with reading(self, identifier):
            self.verify(identifier, IMAGES, LABELS, PROPERTIES)
            return super().load_case(identifier)

    def check_last(self) -> None:
        """Raise InputError if the case that was opened last cannot be decompressed."""
        with reading(self, self.last):
            images, labels, *_ = super().load_case(self.last)
            images[...], labels[...]


def checked(kind: type[nnUNetBaseDataset]) -> type[nnUNetBaseDataset]:
    """Return the class that reads what `kind` reads, as data and with checks if there are checksums."""
    return CheckedCases if kind in (nnUNetDatasetBlosc2, PlainBlosc2Cases) else as_data(kind)


@contextmanager
def reading(dataset: nnUNetBaseDataset, key: str) -> Iterator[None]:
    """Read files of a case in this block.

    Raises:
        InputError: one is missing or damaged.
    """
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"case {key} in {dataset.source_folder} cannot be read ({reason}): "
            "delete its files there and preprocess the data set again with `bdfm plan`"
        ) from error
