"""The class that reads the preprocessed cases of a folder: images, as nnU-Net finds out, or 4-D runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from bdfm_nnunet.data.checked_cases import checked
from bdfm_nnunet.data.sequence_dataset import SequenceDataset
from bdfm_nnunet.images.sequence_files import PREPROCESSED


def dataset_class_of(folder: str | Path) -> Any:
    """Return the class that reads the preprocessed cases of a folder, as data and with checks of their checksums.

    Args:
        folder: named as the `data_identifier` of a configuration.

    Raises:
        OSError: there is no such folder.
        AssertionError: it holds files of several kinds.
        KeyError: it holds files that nnU-Net does not know.
        IndexError: it is empty.

    Example:
        >>> Path("sequences").mkdir()
        >>> dataset_class_of("sequences").__name__
        'SequenceDataset'
    """
    return SequenceDataset if Path(folder).name == PREPROCESSED else checked(infer_dataset_class(str(folder)))


@contextmanager
def known_to_nnunet() -> Iterator[None]:
    """Let nnU-Net's trainer find `dataset_class_of` inside this context: it takes every folder for one of images."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_trainer

    stock_trainer.infer_dataset_class = dataset_class_of
    try:
        yield
    finally:
        stock_trainer.infer_dataset_class = infer_dataset_class
