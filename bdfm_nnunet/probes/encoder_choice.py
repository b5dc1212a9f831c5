"""The plans of a data set that suit some weights, and the encoder of these."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder
from bdfm_nnunet.plans.plans_lookup import CONFIGURATION, DEFAULT_PLANS, read_plans
from bdfm_nnunet.studies.image_features import FrozenEncoder, Planned, frozen_encoder


@dataclass(frozen=True)
class Chosen:
    """Plans and configuration of a data set that were chosen, and why.

    Attributes:
        plans: name of the plans.
        configuration: name of the configuration.
        notes: a sentence where nobody has named them.
    """

    plans: str
    configuration: str
    notes: tuple[str, ...] = field(default=())


def encoder_for(
    dataset_id: int,
    weights: str | Path,
    *,
    plans: str | None = None,
    configuration: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> tuple[Chosen, FrozenEncoder]:
    """Return the plans of a data set that suit some weights, and their encoder.

    The encoder is that of the network that the file describes, or else of the data set's planned one.

    Raises:
        InputError: plans or weights cannot be used.
    """
    reading = dict(reading or {})
    try:
        encoder = frozen_encoder(weights, None, reading)
    except InputError as error:
        if "does not tell its network" not in str(error):
            raise
        chosen = choose_plans(dataset_id, {}, None, plans, configuration)
        named = Planned(dataset_id=dataset_id, plans=chosen.plans, configuration=chosen.configuration)
        return chosen, frozen_encoder(weights, named, reading)
    checkpoint = encoder.checkpoint
    chosen = choose_plans(dataset_id, checkpoint.plans or {}, checkpoint.configuration, plans, configuration)
    return chosen, encoder


def choose_plans(
    dataset_id: int,
    of_weights: Mapping[str, Any],
    configuration_of_weights: str | None,
    plans: str | None,
    configuration: str | None,
) -> Chosen:
    """Return the plans and the configuration whose preprocessed cases are used.

    Args:
        dataset_id: number of the data set.
        of_weights: plans of the training that made the weights; empty if unknown.
        configuration_of_weights: its configuration.
        plans: name that somebody has given.
        configuration: name that somebody has given.

    Raises:
        InputError: the data set has no plans, or several of which none is meant.
    """
    folder = nnunet_folder("nnUNet_preprocessed") / dataset_name(dataset_id)
    there = sorted(path.stem for path in folder.glob("*.json") if '"configurations"' in path.read_text(errors="ignore"))
    name = plans or _first_of([str(of_weights.get("plans_name")), DEFAULT_PLANS], there)
    if name is None:
        if len(there) > 1:
            raise InputError(f"{folder} has the plans {', '.join(there)}: name one of them with -p")
        name = there[0] if there else DEFAULT_PLANS
    configurations = read_plans(dataset_id, name)["configurations"]
    named = configuration or _first_of([str(configuration_of_weights), CONFIGURATION, "4d"], list(configurations))
    told = () if plans and configuration else (f"the preprocessed cases are those of {name}, {named}",)
    return Chosen(name, named or CONFIGURATION, told)


def _first_of(wanted: Sequence[str], there: Sequence[str]) -> str | None:
    return next((name for name in wanted if name in there), None)
