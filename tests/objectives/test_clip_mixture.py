"""Objectives of 4-D images trained together: NeuroSTORM and SimCLR on one encoder."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import NeurostormEncoder, encoder_of
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.settings import (
    ContrastiveSettings,
    CropSettings,
    MixtureSettings,
    PretrainingSettings,
    SequenceSettings,
    WeightedObjective,
)
from tests.networks.tiny_storm import SIZES

GENERATOR = torch.Generator().manual_seed(0)
PAIRS = torch.randn(3, 2, 8, 8, 8, 4, generator=GENERATOR)
BRAIN = torch.rand(3, 2, 8, 8, 8, generator=GENERATOR) < 0.7
SEQUENCE = SequenceSettings(mask_window=(2, 2, 2, 2), redundancy_dropout=0.3)
PLANS = {"patch_size": [8, 8, 8, 4]}


def _settings(*parts: tuple[str, float, CropSettings]) -> MixtureSettings:
    entries = [WeightedObjective(name=name, weight=weight, settings=each) for name, weight, each in parts]
    return MixtureSettings(objectives=tuple(entries))


def _mixture(*parts: tuple[str, float, CropSettings], checkpointing: bool = False) -> Mixture:
    torch.manual_seed(0)
    encoder = NeurostormEncoder(1, **SIZES, gradient_checkpointing=checkpointing)
    return Mixture(encoder_of(encoder), _settings(*parts))


def _both(checkpointing: bool = False) -> Mixture:
    parts: Any = (("sequence", 1.0, SEQUENCE), ("contrastive", 0.5, ContrastiveSettings()))
    return _mixture(*parts, checkpointing=checkpointing)


def _drawn(mixture: Mixture) -> dict[str, Tensor]:
    return mixture.draw(3, (8, 8, 8, 4), generator=torch.Generator().manual_seed(1))


def _given() -> dict[str, Tensor]:
    return {"brain": BRAIN, "patients": torch.arange(3)}


def _own(mixture: Mixture, number: int) -> dict[str, Tensor]:
    """What a part draws alone."""
    part: Any = mixture.parts[number]
    drawn: dict[str, Tensor] = part.draw(3, (8, 8, 8, 4), generator=torch.Generator().manual_seed(1))
    return drawn


@pytest.mark.parametrize("checkpointing", [False, True])
def test_each_objective_sees_its_clips_and_gives_its_gradient(checkpointing: bool) -> None:
    """Dropped tokens belong to the masked modelling alone, also where blocks are computed again going back."""
    mixture = _both(checkpointing)
    assert mixture.clips == 2
    found = mixture(PAIRS, **_drawn(mixture), **_given())
    found["loss"].backward()
    gradients = {name: each.grad for name, each in mixture.named_parameters() if each.grad is not None}
    mixture.zero_grad(set_to_none=True)
    first = mixture.parts[0](PAIRS[:, :1], brain=BRAIN[:, 0], **_own(mixture, 0))["loss"]
    first.backward()
    second = mixture.parts[1](PAIRS, brain=BRAIN, patients=torch.arange(3), **_own(mixture, 1))["loss"]
    (0.5 * second).backward()
    torch.testing.assert_close(found["sequence"], first)
    torch.testing.assert_close(found["contrastive"], second)
    torch.testing.assert_close(found["loss"], first + 0.5 * second)
    for name, parameter in mixture.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_both_losses_fall() -> None:
    mixture = _both()
    optimizer = torch.optim.Adam(mixture.parameters(), 1e-2)
    fixed, curves = _drawn(mixture), []
    for _ in range(20):
        found = mixture(PAIRS, **fixed, **_given())
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
        curves.append((found["sequence"].item(), found["contrastive"].item()))
    assert curves[-1][0] < 0.98 * curves[0][0] and curves[-1][1] < 0.7 * curves[0][1]


def test_monitors_and_panels_are_those_of_both() -> None:
    mixture = _both().eval()
    with torch.no_grad():
        found = mixture.monitor(PAIRS, **_drawn(mixture), **_given())
    alone = mixture.parts[0].monitor(PAIRS[:, :1], brain=BRAIN[:, 0], **_own(mixture, 0))  # type: ignore[operator]
    torch.testing.assert_close(found.values["sequence_error"], alone.values["error"])
    assert {"reconstructions", "views"} == set(found.pictures)
    assert {"sequence_error_previous", "contrastive_chance"} <= set(found.values)


def test_decoders_belong_to_their_objective() -> None:
    tubes = SequenceSettings(mask_window=(2, 2, 2, 2), mask="tube", redundancy_dropout=0.3)
    names = _mixture(("sequence", 1.0, SEQUENCE), ("sequence", 1.0, tubes)).state_dict().keys()
    assert {name.split(".")[2] for name in names if name.startswith("parts.")} == {"mask_tokens", "decoder"}
    assert {name.partition(".")[0] for name in names} == {"encoder", "parts"}


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (
            (("sequence", 1.0, SEQUENCE), ("masked", 1.0, PretrainingSettings())),
            "MaskedImageModelling does not learn from",
        ),
        (
            (("sequence", 1.0, SEQUENCE), ("sequence", 1.0, SequenceSettings(redundancy_dropout=0.1))),
            "have the redundancy_dropout 0.1 and 0.3, but they share",
        ),
        (
            (
                ("contrastive", 1.0, ContrastiveSettings(second_clip="run")),
                ("contrastive", 1.0, ContrastiveSettings(second_clip="subject")),
            ),
            "have the second_clip run and subject, but they share",
        ),
        (
            (("sequence", 1.0, SEQUENCE), ("contrastive", 1.0, ContrastiveSettings(region=1.25))),
            "read crops of other sizes",
        ),
    ],
)
def test_what_cannot_be_mixed_is_a_sentence(parts: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Mixture.check(PLANS, _settings(*parts))
