"""`bdfm weights --check`: whether a network with the weights of a file computes what the file's own network does."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bdfm_nnunet.checkpoints import LoadReport, load_pretrained, read_checkpoint
from bdfm_nnunet.checkpoints.feature_check import Deviation, NotComparableError, check_features, explained
from bdfm_nnunet.checkpoints.source_building import build_source
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import channels_of
from bdfm_nnunet.plans.initial_checkpoint import SEED, network_of_plans
from bdfm_nnunet.plans.plans_lookup import CONFIGURATION, DEFAULT_PLANS
from bdfm_nnunet.settings import LoadingSettings, finetuning_settings


@dataclass(frozen=True)
class WeightsCheck:
    """How far a network is from that of a file of weights.

    Attributes:
        report: what became of every tensor.
        deviations: of each stage, finest first.
    """

    report: LoadReport
    deviations: tuple[Deviation, ...]

    @property
    def passed(self) -> bool:
        """Whether rounding, or what was adapted, explains all deviations."""
        return explained(self.deviations, self.report)

    def __str__(self) -> str:
        small = all(each.is_small for each in self.deviations)
        verdict = "the features are those of the file's network" if small else (
            "the features differ as far as what was adapted explains" if self.passed
            else "the features differ, and nothing that was adapted explains it"
        )  # fmt: skip
        return "\n".join([*map(str, self.deviations), verdict])


def check_weights_of(
    path: str | Path,
    *,
    dataset_id: int | None = None,
    plans_name: str = DEFAULT_PLANS,
    configuration: str = CONFIGURATION,
) -> WeightsCheck:
    """Load weights into the network of plans, or into a new one of the file's own kind, and compare their features.

    Args:
        path: the pre-trained checkpoint.
        dataset_id: number of the data set whose plans give the network; None: the file itself does.
        plans_name: its plans.
        configuration: the configuration to train.

    Raises:
        InputError: the weights do not fit, or the file does not describe its network, so that nothing can be compared.
    """
    channels: list[str] = []
    settings = LoadingSettings()
    if dataset_id is None:
        network = _own_network(path)
    else:
        network, planned = network_of_plans(dataset_id, plans_name, configuration)
        channels, settings = channels_of(planned.dataset), finetuning_settings(planned.configuration)
    report = load_pretrained(network, path, channels=channels, **{**settings.loading(), "check": False})
    try:
        reading = {name: getattr(settings, name) for name in ("weight_set", "merging", "token_order")}
        found = check_features(network, read_checkpoint(path, **reading), channels)
    except NotComparableError as error:
        raise InputError(f"{path} cannot be checked, {error}: give weights with the plans of their network") from None
    return WeightsCheck(report, found)


def _own_network(path: str | Path) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = build_source(read_checkpoint(path))
    if network is None:
        raise InputError(f"{path} does not describe its network: name plans to hold it against with -d and -p")
    return network
