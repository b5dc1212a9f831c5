"""What a model knows of its inputs, and what is said of cases that depart from it."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.inputs.input_faults import InputFault
from bdfm_nnunet.inputs.input_fingerprint import INPUT_FINGERPRINT, InputFingerprint
from bdfm_nnunet.nnunet_files import channels_of

logger = logging.getLogger(__name__)

MOST_TOLD = 50
NO_FINGERPRINT = "unknown: no fingerprint"
_REMEDY = "make it with `bdfm fingerprint -m MODEL -i FOLDER_OF_TRAINING_IMAGES`"


class KnownInputs:
    """The fingerprint of a model, and the departures of the cases it is given.

    Args:
        strict: whether a departure, or a missing fingerprint, is refused.

    Attributes:
        fingerprint: of the model's training cases; None where it has none.
        faults: case to its departures, once they were told.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.fingerprint: InputFingerprint | None = None
        self.faults: Mapping[str, Sequence[InputFault]] = {}
        self._unknown = f"{NO_FINGERPRINT}, {_REMEDY}"

    def read(self, folder: Path, dataset: Mapping[str, Any]) -> None:
        """Read the fingerprint in a model's folder.

        Raises:
            InputError: it is damaged, or is of other channels.
        """
        path, self.fingerprint = folder / INPUT_FINGERPRINT, None
        if dataset["file_ending"] not in NIFTI:
            self._unknown = f"unknown: fingerprints are made of NIfTI files, not of {dataset['file_ending']}"
        elif not os.path.lexists(path):
            self._unknown = f"{NO_FINGERPRINT} in {folder}, {_REMEDY}"
        else:
            self.fingerprint = found = InputFingerprint.read(path)
            if len(found.channels) != len(channels_of(dataset)):
                raise InputError(
                    f"{path} is of {len(found.channels)} channels, dataset.json beside it of "
                    f"{len(channels_of(dataset))}: {_REMEDY}"
                )

    def set_aside(self, reason: str) -> None:
        """Compare nothing, for a reason that `tell` gives."""
        self.fingerprint, self._unknown = None, f"unknown: {reason}"

    def tell(self, faults: Mapping[str, Sequence[InputFault]]) -> None:
        """Warn of departures, one sentence each.

        Args:
            faults: case to its departures, an empty list where it looks good.

        Raises:
            InputError: there is one, or no fingerprint, and this is strict.
        """
        self.faults = faults
        told = [fault.sentence for found in faults.values() for fault in found]
        if self.fingerprint is None:
            told_of = f"whether the images are of the model's kind is {self._unknown}"
            if self.strict:
                raise InputError(f"{told_of}, or leave out --strict-input")
            logger.warning("%s", told_of)
        for sentence in told[self.strict : MOST_TOLD]:
            logger.warning("%s", sentence)
        if not told:
            return
        counted = (
            f"{sum(bool(found) for found in faults.values())} of {len(faults)} cases depart from the training cases"
        )
        if self.strict:
            raise InputError(f"{told[0]}; {counted}, nothing was predicted")
        logger.warning("%s; they are predicted all the same, --strict-input refuses them", counted)

    def status(self, case: str) -> str:
        """Return what is known of a case, in words: `good`, kinds of departures, or that nothing is known."""
        if self.fingerprint is None:
            return NO_FINGERPRINT
        return ", ".join(dict.fromkeys(fault.kind for fault in self.faults.get(case, ()))) or "good"
