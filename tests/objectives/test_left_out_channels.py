"""What objectives do with channels that are left out of a training step."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.contrastive import ContrastiveLearning
from bdfm_nnunet.objectives.frequency_corruption import FrequencyCorruption
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.settings import (
    ContrastiveSettings,
    FrequencyCorruptionSettings,
    MixtureSettings,
    PretrainingSettings,
    WeightedObjective,
)
from tests.networks.zoo import network

SPATIAL = (32, 32, 32)
KEPT = torch.tensor([[True, False], [True, True]])
WHOLE = torch.randn(2, 2, *SPATIAL, generator=torch.Generator().manual_seed(0))
IMAGES = only_channels(WHOLE, KEPT)


def _made(kind: type, settings: Any) -> Any:
    torch.manual_seed(0)
    return kind(encoder_of(network("swin", 2)), settings)


def _drawn(objective: Any) -> dict[str, Tensor]:
    drawn: dict[str, Tensor] = objective.draw(2, SPATIAL, generator=torch.Generator().manual_seed(1))
    return drawn


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (MaskedImageModelling, PretrainingSettings()),
        (MaskedImageModelling, PretrainingSettings(encode="visible", rebuild=0.5)),
        (MaskedImageModelling, PretrainingSettings.published()),
        (FrequencyCorruption, FrequencyCorruptionSettings(adversarial=0.5)),
    ],
)
def test_nothing_is_asked_of_what_is_left_out(kind: type, settings: Any) -> None:
    """The loss is that of a decoder which has rebuilt the channel, whatever it shows there."""
    objective = _made(kind, settings)
    outputs: list[Tensor] = []

    def remember(_: Any, __: Any, output: Tensor) -> None:
        output.retain_grad()
        outputs.append(output)

    for module in (objective.pixel_decoder, getattr(objective, "frequency_decoder", None)):
        if module is not None:
            module.register_forward_hook(remember)
    drawn = _drawn(objective)
    objective(IMAGES, **drawn, channels=KEPT)["loss"].backward()
    # where the frequency decoder follows the pixel decoder, only what it gives itself is its own
    gradients = [each.grad for each in outputs if each.grad is not None]
    assert gradients
    last = gradients[-1]
    first_sample = last[: len(last) // 2] if len(last) > 1 else last
    assert (first_sample[:, 1] == 0).all() and (first_sample[:, 0] != 0).any()
    assert (last[len(last) // 2 :][:, 1] != 0).any()


def test_all_channels_are_what_it_is_without() -> None:
    objective = _made(MaskedImageModelling, PretrainingSettings())
    drawn = _drawn(objective)
    expected = objective(WHOLE, **drawn)
    found = objective(WHOLE, **drawn, channels=torch.ones(2, 2, dtype=torch.bool))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def _seen(objective: Any) -> list[Tensor]:
    seen: list[Tensor] = []
    objective.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return seen


def test_corruptions_leave_zeros_as_they_are() -> None:
    objective = _made(FrequencyCorruption, FrequencyCorruptionSettings())
    seen = _seen(objective)
    objective(IMAGES, **_drawn(objective), channels=KEPT)
    (shown,) = seen
    assert len(shown) == 4 and (shown[:2, 1] == 0).all() and (shown[2:, 1] != 0).any()


def test_each_view_lacks_its_own_channels_and_a_mixture_gives_each_objective_what_it_asks_for() -> None:
    parts = [
        WeightedObjective(name="masked", weight=1.0, settings=PretrainingSettings()),
        WeightedObjective(name="contrastive", weight=1.0, settings=ContrastiveSettings()),
    ]
    kept = torch.tensor([[[True, False], [False, True]], [[True, True], [True, False]]])
    alone = _made(ContrastiveLearning, ContrastiveSettings())
    seen = _seen(alone)
    alone(WHOLE, **_drawn(alone), channels=kept)
    first, second = seen[0].chunk(2)
    for view, own in ((first, kept[:, 0]), (second, kept[:, 1])):
        assert torch.equal(view.flatten(2).abs().amax(2) > 0, own)
    mixture = _made(Mixture, MixtureSettings(objectives=tuple(parts)))
    assert mixture.channel_subsets == 2 and mixture.uses_channels
    masked = mixture.parts[0]
    asked: list[Any] = []
    forward = masked.forward
    masked.forward = lambda images, **drawn: asked.append((images, drawn["channels"])) or forward(images, **drawn)
    mixture(WHOLE, **_drawn(mixture), channels=kept)
    ((images, channels),) = asked
    assert torch.equal(channels, kept[:, 0]) and torch.equal(images, only_channels(WHOLE, kept[:, 0]))
