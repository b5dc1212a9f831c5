"""Objectives trained together."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives import mixture as mixture_module
from bdfm_nnunet.objectives.base import Monitored, Objective
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.objectives.registry import objective_class
from bdfm_nnunet.settings import CropSettings, MixtureSettings, PretrainingSettings, WeightedObjective
from bdfm_nnunet.trainers import nnUNetTrainerBDFMPretrain, nnUNetTrainerPretrain
from tests.conftest import Prepared
from tests.networks.zoo import network
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer

IMAGES = torch.randn(3, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
FINAL = PretrainingSettings(decoder="final", frequency_decoder="none")
OTHER_MASK = PretrainingSettings(mask_ratio=0.5, decoder="final")


class Likeness(Objective):
    """Compares samples: embeddings of one batch shall be far from one another."""

    compares_samples = True
    uses_patients = True
    settings_class = CropSettings

    def __init__(self, view: Any, settings: Any = None, **options: Any) -> None:
        super().__init__(view, settings, **options)
        self.head = nn.Linear(view.channels[-1], 4)

    def draw(self, batch: int, spatial: Any, *, generator: torch.Generator) -> dict[str, Tensor]:
        return {"noise": torch.randn(batch, 1, *spatial, generator=generator)}

    def represent(self, images: Tensor, **drawn: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        embedded = self.head(self.view.module(images + 0.1 * drawn["noise"])[-1].flatten(2).mean(2))
        return {"embedding": embedded, "patients": drawn["patients"]}, {}

    def compare(self, representations: Any) -> dict[str, Tensor]:
        embedded, patients = representations["embedding"], representations["patients"]
        other = patients[:, None] != patients
        return {"loss": ((embedded @ embedded.T) * other).square().mean()}

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        return Monitored(self(images, **drawn))


@pytest.fixture
def with_likeness(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(name: str) -> type[Objective]:
        return Likeness if name == "likeness" else objective_class(name)

    monkeypatch.setattr(mixture_module, "objective_class", kind)


def _mixture(*parts: tuple[str, float, CropSettings], kind: str = "swin") -> Mixture:
    torch.manual_seed(0)
    entries = tuple(WeightedObjective(name=name, weight=weight, settings=each) for name, weight, each in parts)
    return Mixture(encoder_of(network(kind, 1)), MixtureSettings(objectives=entries)).eval()


def _drawn(objective: Objective, seed: int = 3) -> dict[str, Tensor]:
    found = objective.draw(3, (32, 32, 32), generator=torch.Generator().manual_seed(seed))
    return found | ({"patients": torch.tensor([0, 0, 1])} if objective.uses_patients else {})


def _gradients(objective: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    named = dict(objective.named_parameters())
    found = torch.autograd.grad(losses["loss"], list(named.values()), allow_unused=True, retain_graph=True)
    return {name: each for name, each in zip(named, found, strict=True) if each is not None}


@pytest.mark.parametrize("kind", ["swin", "plain"])
def test_a_mixture_of_one_is_the_objective_to_the_bit(kind: str) -> None:
    torch.manual_seed(0)
    alone = MaskedImageModelling(encoder_of(network(kind, 1)), PretrainingSettings()).eval()
    mixed = _mixture(("masked", 1.0, PretrainingSettings()), kind=kind)
    losses, other = alone(IMAGES, **_drawn(alone)), mixed(IMAGES, **_drawn(mixed))
    assert other["loss"].equal(losses["loss"])
    assert other["masked_pixel"].equal(losses["pixel"]) and set(other) == {"loss", "masked_pixel", "masked_frequency"}
    expected, found = _gradients(alone, losses), _gradients(mixed, other)
    assert {name.removeprefix("parts.0.") for name in found} == set(expected)
    assert all(each.equal(expected[name.removeprefix("parts.0.")]) for name, each in found.items())


def test_the_gradient_is_the_weighted_sum(with_likeness: None) -> None:
    entries = (("masked", 0.5, PretrainingSettings()), ("masked", 2.0, OTHER_MASK), ("likeness", 3.0, CropSettings()))
    mixed = _mixture(*entries)
    found = _gradients(mixed, mixed(IMAGES, **_drawn(mixed)))
    assert mixed.terms == (
        "masked_pixel", "masked_frequency", "masked2_pixel", "masked2_frequency", "likeness"
    )  # fmt: skip
    total: dict[str, Tensor] = {}
    for number, (_, weight, _) in enumerate(entries):
        part = mixed.parts[number]
        assert isinstance(part, Objective)
        losses = part(IMAGES, **_drawn(part))  # what it draws alone
        for name, each in _gradients(mixed, losses).items():
            total[name] = total.get(name, torch.zeros(())) + weight * each
    assert set(found) == set(total)
    for name, each in found.items():
        torch.testing.assert_close(each, total[name], rtol=1e-4, atol=1e-6, msg=name)


def _forwards(objective: Objective, drawn: dict[str, Tensor]) -> int:
    calls = []
    handle = objective.view.module.register_forward_hook(lambda *_: calls.append(1))
    objective(IMAGES, **drawn)
    handle.remove()
    return len(calls)


def test_the_encoder_runs_once_for_equal_inputs(with_likeness: None) -> None:
    same = _mixture(("masked", 1.0, PretrainingSettings()), ("masked", 1.0, FINAL))
    other = _mixture(("masked", 1.0, PretrainingSettings()), ("masked", 1.0, OTHER_MASK), ("likeness", 1.0, FINAL))
    assert len(_drawn(same)) == 1 and len(_drawn(other)) == 4  # with the patients
    for mixed, expected in ((same, 1), (other, 3)):
        assert _forwards(mixed, _drawn(mixed)) == mixed.encoder_forwards == expected
    assert same.view.known == []


def test_sharing_the_encoder_changes_no_gradient() -> None:
    parts = (("masked", 1.0, PretrainingSettings()), ("masked", 0.5, FINAL))
    mixed = _mixture(*parts)
    drawn = _drawn(mixed)
    shared = _gradients(mixed, mixed(IMAGES, **drawn))
    (mask,) = drawn.values()
    single = [part(IMAGES, mask=mask.clone())["loss"] for part in mixed.parts]
    apart = _gradients(mixed, {"loss": single[0] + 0.5 * single[1]})
    for name, each in shared.items():
        torch.testing.assert_close(each, apart[name], rtol=1e-4, atol=1e-7, msg=name)


def test_losses_that_compare_samples_can_be_taken_apart(with_likeness: None) -> None:
    mixed = _mixture(("masked", 1.0, PretrainingSettings()), ("likeness", 2.0, CropSettings()))
    drawn = _drawn(mixed)
    whole = mixed(IMAGES, **drawn)
    representations, losses = mixed(IMAGES, only_represent=True, **drawn)
    again = mixed.joined(losses, mixed.compare(representations))
    assert whole.keys() == again.keys() and all(again[name].equal(value) for name, value in whole.items())
    assert mixed.compares_samples and not _mixture(("masked", 1.0, FINAL)).compares_samples


def test_weights_are_those_of_one_encoder() -> None:
    mixed = _mixture(("masked", 1.0, PretrainingSettings()), ("masked", 1.0, OTHER_MASK))
    names = list(mixed.state_dict())
    assert sum(name.startswith("encoder.") for name in names) > 10
    assert not [name for name in names if "parts" in name and ".encoder." in name]


OBJECTIVES = [
    {"name": "masked", "decoder": "final", "weight": 0.5},
    {"name": "masked", "preset": "simmim", "mask_ratio": 0.5},
]
LENGTH = {"training.workers": 0, "training.initial_lr": 0.003, "training.iterations_per_epoch": 4}


def _trainer(prepared: Prepared, variant: str, objectives: list[dict[str, Any]], **settings: Any) -> Any:
    asked = LENGTH | {"pretraining.objectives": objectives} | settings
    return make_trainer(nnUNetTrainerPretrain, prepared, prepared.unlabelled, variant, asked)


@pytest.fixture(scope="module")
def mixed_run(prepared_of_module: Prepared) -> Any:
    trainer = _trainer(prepared_of_module, "mixed", OBJECTIVES)
    trainer.run_training()
    return trainer


def test_training_logs_the_terms_apart(mixed_run: Any) -> None:
    found = curves(mixed_run)
    names = ("train_masked_pixel", "train_masked_frequency", "val_masked2_pixel", "masked_psnr", "masked2_psnr")
    assert all(len(found[name]) == 2 for name in names)
    total = (
        0.5 * (found["train_masked_pixel"][0] + found["train_masked_frequency"][0]) + found["train_masked2_pixel"][0]
    )
    assert found["train_losses"][0] == pytest.approx(total, rel=1e-5)
    folder = Path(mixed_run.output_folder)
    assert (folder / "masked2_reconstructions" / "epoch_0002.png").is_file()
    assert "runs the encoder 2 times" in Path(mixed_run.log_file).read_text()


def test_stopped_by_a_signal_it_goes_on_bit_for_bit(prepared: Prepared, mixed_run: Any) -> None:
    run = stopped_and_continued(lambda: _trainer(prepared, "mixed_stopped", OBJECTIVES), step=5)
    assert_same_run(run, mixed_run)


def test_training_of_one_objective_is_that_of_its_trainer(prepared: Prepared) -> None:
    mixed = _trainer(prepared, "one", [{"name": "masked"}])
    alone = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "alone", LENGTH)
    for trainer in (mixed, alone):
        trainer.run_training()
    assert curves(mixed)["train_losses"] == curves(alone)["train_losses"]
    weights = [torch.load(checkpoint(each), weights_only=False)["network_weights"] for each in (mixed, alone)]
    assert all(weights[0][name].equal(value) for name, value in weights[1].items() if name.startswith("encoder."))
