"""What every task on labelled data shares: the weights that it starts from, and how fast they learn."""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.checkpoints.readers.nnunet_reader import CHANNEL_DROPOUT
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import compare, parts_of
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_files import channels_of
from bdfm_nnunet.settings import WEIGHTS_VARIABLE, FinetuningSettings, WeightSettings, read_block
from bdfm_nnunet.tasks.channel_draws import check_channels, drawn_channels
from bdfm_nnunet.tasks.task import Task

REPORT = "load_report.json"
"""In the results folder: what became of every tensor of the weights that a training started from."""


class Finetuning(Task):
    """A task that starts from a pre-trained encoder if one is named.

    The weights are those that the environment variable BDFM_WEIGHTS names ("none" for no file), else those of the plans
    ("finetuning": {"weights": ...}), or a whole checkpoint that nnU-Net's -pretrained_weights names; with none of them,
    training starts from scratch and says so.

    Attributes:
        settings_class: of the "finetuning" block.
        rates_from_scratch: peak learning rate by optimiser of a training without weights; `rates` are those with.
    """

    settings_class: ClassVar[type[WeightSettings]] = FinetuningSettings
    rates_from_scratch: ClassVar[Mapping[str, float]] = MappingProxyType({"adamw": 3e-4, "sgd": 1e-2})

    @cached_property
    def finetuning(self) -> Any:
        """The configuration's "finetuning" block, as `settings_class`."""
        return self._settings(self.trainer.configuration_manager)

    @classmethod
    def _settings(cls, configuration_manager: Any) -> Any:
        return read_block(configuration_manager.configuration, "finetuning", kind=cls.settings_class)

    def check(self) -> None:
        """Raise InputError where the training is too short for its strategy, or no channel can be left out."""
        _ = self.trainer.strategy.stages
        check_channels(self, "finetuning", self.finetuning.channel_dropout)

    def peak_rate(self, optimizer: str) -> float:
        """Return the peak learning rate where the settings name none: another one for pre-trained weights.

        SGD is for convolutional, AdamW for transformer encoders, unless `training.optimizer` names one. See
        docs/finetuning.md for where the figures come from.
        """
        if optimizer in self.rates_from_scratch and not self.trainer.strategy.loaded.weights:
            return self.rates_from_scratch[optimizer]
        return super().peak_rate(optimizer)

    def prepare(self, batch: Batch) -> Batch:
        """Add which "channels" of each sample a step keeps, boolean (B, 1, channels), where some are left out."""
        return batch | drawn_channels(self, len(batch["data"]), self.finetuning.channel_dropout)

    def load_weights(self) -> None:
        """Load the pre-trained weights that are named, and tell which held-out cases they have seen.

        Raises:
            InputError: they cannot be used, or weights have come in twice.
        """
        origin, tell = self.trainer.origin, self.trainer.print_to_log_file
        named = os.environ.get(WEIGHTS_VARIABLE, "")
        path = named or self.finetuning.weights
        if not path or path.lower() == "none":
            path = ""
        if origin.started_from and path:
            source = WEIGHTS_VARIABLE if named else "the plans' finetuning.weights"
            raise InputError(
                f"weights have come in twice, {origin.started_from['name']} by -pretrained_weights and {path} by "
                f"{source}: leave the option out, or set {WEIGHTS_VARIABLE}=none",
                entry="weights-twice",
            )
        if origin.started_from:
            self.trainer.strategy.take(None)
            self._warn_of_cases_seen(origin.started_from["name"])
            return
        if not path:
            tell(f"Training from scratch: neither {WEIGHTS_VARIABLE} nor the plans name weights.")
            return
        digest = None if named else self.finetuning.weights_sha256
        report = load_pretrained(
            self.trainer.network,
            path,
            sha256=digest,
            channels=channels_of(self.trainer.dataset_json),
            **self.finetuning.loading(),
        )
        tell(report)
        if self.trainer.local_rank == 0:
            write_json(Path(self.trainer.output_folder) / REPORT, report.as_dict())
        origin.take(report)
        self.trainer.strategy.take(report)
        self._warn_of_cases_seen(report.path.name)

    def _warn_of_cases_seen(self, name: str) -> None:
        """Say which validation and test cases the weights know already."""
        trainer, seen = self.trainer, self.trainer.origin.ancestors
        if seen.note:
            trainer.print_to_log_file(f"{seen.note}, so nobody can tell whether it has seen the test cases.")
            return
        cases = trainer.data.cases
        if trainer.fold == "all":
            trainer.print_to_log_file(
                "Fold `all` has no validation cases of its own, so only test cases in imagesTs are compared with those "
                "that the weights have seen; `bdfm exposure` compares all."
            )
        train, val = trainer.do_split() if trainer.fold != "all" else ([], [])
        report = compare(seen, cases, parts_of(cases, train, val), checkpoint=name)
        if warning := report.warning():
            trainer.print_to_log_file(warning)

    def blocks(self) -> dict[str, Any]:
        """Return the "finetuning" block."""
        return {"finetuning": self.finetuning}

    def checkpoint_entries(self) -> dict[str, Any]:
        """Return how often channels were left out, without which no case that lacks one is predicted."""
        dropout = self.finetuning.channel_dropout
        return {CHANNEL_DROPOUT: dropout} if dropout else {}
