"""The origin of a training's first weights, whichever way they came in, and the cases they have seen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bdfm_nnunet.checkpoints import Checkpoint, LoadReport
from bdfm_nnunet.checkpoints.nnunet_loading import checkpoints_loaded
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.networks.encoders import unwrap


class WeightOrigin:
    """The cases that the starting weights of a training have seen, and those that the training itself adds.

    nnU-Net's `-pretrained_weights` gives a trainer's network to a function that fills it, and so may any program. The
    weights are therefore compared with those that the seed gave; what was loaded meanwhile tells where they come from.

    Attributes:
        ancestors: what the starting weights have seen.
        started_from: name and digest of their file; empty for a training from scratch.
        file: the file itself, in the process that has loaded it.
        licence: of the weights, as the file states it.
        citations: what its authors ask to cite.
    """

    def __init__(self) -> None:
        self.ancestors = Exposure()
        self.started_from: dict[str, str] = {}
        self.file: Path | None = None
        self.licence = ""
        self.citations: tuple[str, ...] = ()
        self._told = Exposure()
        self._own_weights: Tensor | None = None
        self._loaded_before = 0

    def remember(self, network: nn.Module) -> None:
        """Remember the weights that the seed gave."""
        self._own_weights = _sums(network)
        self._loaded_before = len(checkpoints_loaded())

    def find(self, network: nn.Module, tell: Callable[[str], None]) -> None:
        """Note what the weights have seen that somebody has loaded since the network was built.

        Args:
            network: the trainer's.
            tell: takes a sentence for the log.
        """
        if self._own_weights is None or torch.equal(self._own_weights, _sums(network)):
            return
        self._own_weights = None  # the answer is found once
        loaded = checkpoints_loaded()[self._loaded_before :]
        if len(loaded) == 1:
            self.take(loaded[0])
        else:
            self.started_from = {"name": "unknown"}
            self.ancestors = Exposure(note="the network was given weights whose origin is unknown")
        tell(f"The training starts from weights that were loaded: {self.started_from['name']}.")

    def take(self, loaded: LoadReport | Checkpoint) -> None:
        """Note the file that the weights have come from, and what they have seen."""
        self.file, self.licence, self.citations = loaded.path, loaded.licence, tuple(loaded.citations)
        self.started_from = {"name": loaded.path.name, "sha256": loaded.sha256}
        self.ancestors = Exposure.of(loaded.exposure, named=loaded.path.name)

    def with_run(self, run: dict[str, Any]) -> Exposure:
        """Return what the weights will have seen after a run, which may go on with other data than it began with.

        Args:
            run: as `describe_run` gives it.
        """
        whole = self.ancestors.then(run)
        if not self._told.runs or self._told.runs[-1] == whole.runs[-1]:
            return whole
        return self._told.then(run)  # the run was interrupted and goes on with other data

    def recall(self, stored: Any) -> None:
        """Take over what the checkpoint of an interrupted run tells."""
        self._told = Exposure.of(stored, named="the checkpoint that this run goes on from")
        if not self._told.runs:
            self.ancestors = self._told  # its note: nobody knows what the weights have seen
            return
        last = self._told.runs[-1]
        self.started_from = dict(last.get("weights", {}))
        self.ancestors = Exposure(self._told.runs[:-1], last.get("ancestors", ""))


def _sums(network: nn.Module) -> Tensor:
    """Return a number for each tensor of the network, which other weights would not have."""
    values = unwrap(network).state_dict().values()
    return torch.stack([value.detach().cpu().double().sum() for value in values])  # MPS has no double
