import math
from typing import Any

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.losses import gradient_loss, high_frequency_loss, rmse_loss
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.corruptions import corrupt
from bdfm_nnunet.objectives.embedding_consistency import consistency_loss
from bdfm_nnunet.objectives.frequency_corruption import FrequencyCorruption
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import (
    FrequencyCorruptionSettings,
    MixtureSettings,
    PretrainingSettings,
    WeightedObjective,
)
from tests.forking import run_together
from tests.networks.zoo import NETWORKS, network

SPACING = (2.0, 1.0, 1.0)
IMAGES = torch.randn(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


def _objective(kind: str = "swin", channels: int = 1, **settings: Any) -> FrequencyCorruption:
    torch.manual_seed(0)
    encoder = encoder_of(network(kind, channels, **({"drop_path_rate": 0.0} if kind == "swin" else {})))
    return FrequencyCorruption(encoder, FrequencyCorruptionSettings(**settings), spacing=SPACING)


def _drawn(objective: FrequencyCorruption, seed: int = 1) -> dict[str, torch.Tensor]:
    return objective.draw(len(IMAGES), IMAGES.shape[2:], generator=torch.Generator().manual_seed(seed))


def _loss(objective: FrequencyCorruption, **changes: Any) -> float:
    return objective(IMAGES, **(_drawn(objective) | changes))["loss"].item()


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_is_pretrained_and_every_parameter_learns(kind: str, channels: int) -> None:
    objective = _objective(kind, channels)
    images = torch.randn(2, channels, 32, 32, 32)
    drawn = objective.draw(2, (32, 32, 32), generator=torch.Generator().manual_seed(0))
    terms = objective(images, **drawn)
    assert set(terms) == {"loss", *objective.terms}
    terms["loss"].backward()
    assert [name for name, p in objective.named_parameters() if p.grad is None] == []


def test_terms_are_the_losses_of_the_reconstruction() -> None:
    weights = {"rmse_weight": 2.0, "gradient_weight": 0.5, "high_frequency_weight": 0.3, "consistency_weight": 0.7}
    objective = _objective(**weights).eval()
    drawn = _drawn(objective)
    terms = objective(IMAGES, **drawn)
    twice = IMAGES.repeat_interleave(2, 0)
    flat = {name: value.flatten(0, 1) for name, value in drawn.items() if name != "partner"}
    corrupted, _ = corrupt(twice, flat, objective.settings, spacing=SPACING)
    features = list(objective.encoder(corrupted))
    rebuilt = objective.pixel_decoder(features)
    torch.testing.assert_close(terms["rmse"], rmse_loss(rebuilt, twice))
    torch.testing.assert_close(terms["gradient"], gradient_loss(rebuilt, twice, spacing=SPACING))
    torch.testing.assert_close(terms["high_frequency"], high_frequency_loss(rebuilt, twice, spacing=SPACING))
    torch.testing.assert_close(terms["consistency"], consistency_loss(features[-1]))
    total = sum(weight * terms[name.removesuffix("_weight")] for name, weight in weights.items())
    torch.testing.assert_close(terms["loss"], total)


SWITCHES: dict[str, Any] = {
    "image_branch": 1.0,
    "patch_fill": "moments",
    "mask_form": "none",
    "mask_curve": "step",
    "spectral_fill": "noise",
    "low_strength": (0.0, 0.0),
    "decoder": "final",
    "loss_on": "masked",
    "rmse_weight": 0.0,
    "gradient_weight": 0.0,
    "high_frequency_weight": 0.0,
    "cutoffs": (0.1,),
    "consistency": "pooled",
    "consistency_weight": 0.0,
    "adversarial": 0.5,
    "legacy_corruptions": True,
    "legacy_losses": True,
}


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_changes_the_loss(name: str) -> None:
    before = _loss(_objective().eval())
    assert _loss(_objective(**{name: SWITCHES[name]}).eval()) != before
    assert _loss(_objective().eval()) == before


def test_stop_gradient_changes_the_gradient_alone() -> None:
    found = []
    for stop in (False, True):
        objective = _objective(stop_gradient=stop, consistency_weight=5.0).eval()
        loss = objective(IMAGES, **_drawn(objective))["loss"]
        loss.backward()
        found.append((loss.item(), next(objective.encoder.parameters()).grad))
    assert found[0][0] == found[1][0] and not torch.equal(found[0][1], found[1][1])


def test_without_consistency_there_is_one_corruption() -> None:
    objective = _objective(consistency_weight=0.0)
    assert objective.views == 1 and objective.terms == ("rmse", "gradient", "high_frequency")
    assert _drawn(objective)["keys"].shape == (4, 1, 2)
    values = objective.monitor(IMAGES, **_drawn(objective)).values
    assert set(objective.monitors) <= set(values) and "embedding_cosine" not in values


def test_spacing_acts() -> None:
    objective = _objective().eval()
    before = _loss(objective)
    objective.spacing = (1.0, 1.0, 1.0)
    assert _loss(objective) != before


@pytest.mark.parametrize("settings", [{}, {"loss_on": "masked", "stop_gradient": True}])
def test_the_loss_is_a_mean_over_the_samples(settings: dict[str, Any]) -> None:
    objective = _objective(**settings).eval()
    drawn = _drawn(objective)
    whole = objective(IMAGES, **drawn)
    parts = [objective(IMAGES[i : i + 1], **{n: v[i : i + 1] for n, v in drawn.items()}) for i in range(4)]
    for name, value in whole.items():
        torch.testing.assert_close(value, torch.stack([part[name] for part in parts]).mean(), msg=name)


def test_adversarial_steps_follow_the_gradient() -> None:
    objective = _objective(adversarial=0.5, consistency_weight=0.0, low_strength=(0.3, 0.6)).eval()
    repeated, flat = objective._repeated(IMAGES, _drawn(objective))
    factors = objective._harder(repeated, flat)
    assert ((factors >= 0.5) & (factors <= 1.5)).all() and (factors != 1).any(0).all()
    patches = flat["image_branch"]
    assert (factors[patches, 1] == 1).all()  # patches have no low-frequency perturbation
    epsilon, expected = 1e-2, torch.ones(len(repeated), 2)
    for number in range(2):
        losses = []
        for sign in (1, -1):
            moved = torch.ones(len(repeated), 2)
            moved[:, number] += sign * epsilon
            corrupted, voxels = objective._corrupt(repeated, {**flat, "strengths": moved})
            rebuilt, _ = objective.reconstruct(corrupted)
            losses.append(objective._reconstruction_loss(rebuilt, repeated, voxels).detach())
        slope = (losses[0] - losses[1]) / (2 * epsilon) / ((losses[0] + losses[1]) / 2)
        expected[:, number] += 0.5 * slope.clamp(-1, 1)
    torch.testing.assert_close(factors, expected, atol=2e-3, rtol=0)
    objective(IMAGES, **_drawn(objective))["loss"].backward()  # the step leaves no gradient behind
    assert objective.encoder_forwards == 2


def test_a_harder_corruption_is_harder() -> None:
    """After some training, when corruption matters to the loss."""
    objective = _objective(consistency_weight=0.0, adversarial=1.0)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    for step in range(20):
        optimizer.zero_grad()
        objective(IMAGES, **_drawn(objective, step))["loss"].backward()
        optimizer.step()
    objective.eval()
    repeated, flat = objective._repeated(IMAGES, _drawn(objective))
    losses = []
    for factors in (torch.ones(4, 2), 1 + 0.02 * (objective._harder(repeated, flat) - 1).sign()):
        corrupted, voxels = objective._corrupt(repeated, {**flat, "strengths": factors})
        losses.append(objective._reconstruction_loss(objective.reconstruct(corrupted)[0], repeated, voxels))
    assert (losses[1] >= losses[0]).float().mean() >= 0.75


def test_a_few_steps_rebuild_waves() -> None:
    objective = _objective()
    axis = torch.linspace(0, 4 * math.pi, 17)[:16]
    images = (axis[:, None, None].sin() + axis[:, None].sin() + axis.cos()).expand(4, 1, 16, 16, 16)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    first = objective.eval().monitor(images, **_drawn(objective)).values
    objective.train()
    for step in range(60):
        optimizer.zero_grad()
        objective(images, **_drawn(objective, step + 10))["loss"].backward()
        optimizer.step()
    last = objective.eval().monitor(images, **_drawn(objective)).values
    assert last["loss"] < 0.6 * first["loss"] and last["psnr"] > first["psnr"] + 5
    assert last["recovered"] > 0.5 > first["recovered"]


def test_monitors_are_those_of_the_panels() -> None:
    objective = _objective().eval()
    with torch.no_grad():
        found = objective.monitor(IMAGES, **_drawn(objective))
    assert set(found.values) == {"loss", *objective.terms, *objective.monitors}
    assert all(torch.isfinite(value) for value in found.values.values())
    picture = found.pictures["reconstructions"]
    assert list(picture.shown) == ["corrupted", "network"] and torch.equal(picture.original, IMAGES[0, 0])
    assert not torch.equal(picture.shown["corrupted"], IMAGES[0, 0])
    latest = {name: value.item() for name, value in found.values.items()}
    assert "PSNR" in objective.verdict(latest) and "WARNING" not in objective.verdict(latest)
    for sign in ({"embedding_spread": 0.05}, {"effective_rank": 1.2}):
        assert "lower pretraining.consistency_weight" in objective.verdict(latest | sign)
    less_strict = _objective(collapse_below=0.01)
    assert "WARNING" not in less_strict.verdict(latest | {"embedding_spread": 0.05})


def test_published_preset_acts() -> None:
    settings = FrequencyCorruptionSettings(**PRESETS["frepa_published"].settings)
    assert settings.legacy_corruptions and settings.legacy_losses and settings.consistency_weight == 0
    assert PRESETS["frepa"].settings == {}
    objective = _objective(**PRESETS["frepa_published"].settings).eval()
    drawn = _drawn(objective)
    terms = objective(IMAGES, **drawn)
    assert {"sigma", "width"} <= set(drawn)
    flat = {name: value.flatten(0, 1) for name, value in drawn.items() if name != "partner"}
    rebuilt, _ = objective.reconstruct(corrupt(IMAGES, flat, settings, spacing=SPACING)[0])
    torch.testing.assert_close(terms["rmse"], rmse_loss(rebuilt, IMAGES, legacy=True))
    torch.testing.assert_close(terms["high_frequency"], high_frequency_loss(rebuilt, IMAGES, legacy=True))
    torch.testing.assert_close(terms["gradient"], gradient_loss(rebuilt, IMAGES))


def test_images_that_are_no_multiple_of_the_stride_are_refused() -> None:
    objective = _objective()
    with pytest.raises(ValueError, match="no multiple of the stride"):
        objective(torch.randn(4, 1, 16, 16, 12), **_drawn(objective))


@pytest.mark.parametrize(
    ("settings", "plan", "message"),
    [
        ({"mask_cutoff": 0.5}, {}, "mask_cutoff is 0.5 cycles/mm, but images of"),
        ({"spectral_fill": "other_image"}, {"batch_size": 1}, "does not hold another image"),
        ({"spectral_fill": "other_image"}, {"training": {"accumulate": 2}}, "training.accumulate=1"),
    ],
)
def test_what_does_not_fit_the_plans_is_refused(settings: Any, plan: Any, message: str) -> None:
    configuration = {"spacing": [1.0, 1.0, 2.0], "batch_size": 2} | plan
    FrequencyCorruption.check(configuration, FrequencyCorruptionSettings())
    with pytest.raises(InputError, match=message):
        FrequencyCorruption.check(configuration, FrequencyCorruptionSettings(**settings))


def test_autocast_keeps_losses_in_single_precision() -> None:
    objective = _objective()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(IMAGES, **_drawn(objective))
    assert all(term.dtype == torch.float32 for term in terms.values())


def _train(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    part = slice(0, 3) if rank == 0 else slice(3, 4)
    for name, settings in PROCESSES.items():
        objective = _objective(**settings)
        wrapped = DistributedDataParallel(objective)
        drawn = {key: value[part] for key, value in _drawn(objective).items()}
        share = len(IMAGES[part]) * 2 / len(IMAGES)  # as the trainer weighs uneven shares
        (wrapped(IMAGES[part], **drawn)["loss"] * share).backward()
        results[name] = {n: p.grad for n, p in objective.named_parameters()}
    torch.save(results, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


PROCESSES: dict[str, dict[str, Any]] = {"default": {}, "swapped": {"spectral_fill": "other_image", "adversarial": 0.5}}


def test_two_processes_are_one_training(tmp_path: Any) -> None:
    run_together(_train, 2, str(tmp_path))
    found = torch.load(tmp_path / "0.pt", weights_only=True)
    for name, settings in PROCESSES.items():
        objective = _objective(**settings)
        objective(IMAGES, **_drawn(objective))["loss"].backward()
        for parameter, value in objective.named_parameters():
            torch.testing.assert_close(found[name][parameter], value.grad, atol=1e-6, rtol=1e-3, msg=parameter)


def test_it_is_a_part_of_mixtures() -> None:
    torch.manual_seed(0)
    encoder = encoder_of(network("swin", 1, drop_path_rate=0.0))
    parts = (
        WeightedObjective(name="masked", weight=1.0, settings=PretrainingSettings()),
        WeightedObjective(name="frequency_corruption", weight=0.5, settings=FrequencyCorruptionSettings()),
    )
    mixture = Mixture(encoder, MixtureSettings(objectives=parts), spacing=SPACING)
    drawn = mixture.draw(4, (16, 16, 16), generator=torch.Generator().manual_seed(1))
    terms = mixture(IMAGES, **drawn)
    frepa = mixture.parts[1]
    assert isinstance(frepa, FrequencyCorruption) and frepa.spacing == SPACING
    alone = frepa(IMAGES, **frepa.draw(4, (16, 16, 16), generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(terms["frequency_corruption_rmse"], alone["rmse"])
    masked = terms["masked_pixel"] + terms["masked_frequency"]
    torch.testing.assert_close(terms["loss"], masked + 0.5 * alone["loss"])
    assert mixture.encoder_forwards == 2
