"""Where the first weights of a training come from, whichever way they came in."""

from typing import Any

import torch
from torch import Tensor

from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoints_loaded
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.trainers.long_run import LongTrainer

_CUDA = torch.device("cuda")


class OriginTrainer(LongTrainer):
    """A trainer that notices weights which others put into its network before the training begins.

    nnU-Net's `-pretrained_weights` gives a trainer's network to a function that fills it, and so may any program. The
    weights are compared with those that the seed gave; what nnU-Net has loaded meanwhile tells where they come from.

    Attributes:
        ancestors: what the starting weights have seen.
        started_from: name and digest of their file; empty for a training from scratch.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.ancestors = Exposure()
        self.started_from: dict[str, str] = {}
        self._own_weights: Tensor | None = None
        self._loaded_before = 0

    def initialize(self) -> None:
        """Builds network, optimiser and loss, and remembers the first weights."""
        super().initialize()
        self._own_weights = self._sums()
        self._loaded_before = len(checkpoints_loaded())

    def _sums(self) -> Tensor:
        """A number for each tensor of the network, which other weights would not have."""
        values = unwrap(self.network).state_dict().values()
        return torch.stack([value.detach().cpu().double().sum() for value in values])  # MPS has no double

    def find_origin(self) -> None:
        """Notes what the weights have seen that somebody has loaded since the network was built."""
        if self._own_weights is None or torch.equal(self._own_weights, self._sums()):
            return
        self._own_weights = None  # the answer is found once
        loaded = checkpoints_loaded()[self._loaded_before :]
        if len(loaded) == 1:
            name = loaded[0].path.name
            self.started_from = {"name": name, "sha256": loaded[0].sha256}
            self.ancestors = Exposure.of(loaded[0].exposure, kind=loaded[0].kind, named=name)
        else:
            self.started_from = {"name": "unknown"}
            self.ancestors = Exposure(note="the network was given weights whose origin is unknown")
        self.print_to_log_file(f"The training starts from weights that were loaded: {self.started_from['name']}.")

    def on_train_start(self) -> None:
        """Looks for weights that have come in."""
        if not self.was_initialized:
            self.initialize()
        if not self.resumed:
            self.find_origin()
        super().on_train_start()
