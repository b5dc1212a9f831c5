import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bdfm_nnunet.losses import nt_xent
from bdfm_nnunet.networks.encoders import encoder_of, suited_optimizer
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.objectives.contrastive import ContrastiveLearning
from bdfm_nnunet.objectives.views import two_views
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import ContrastiveSettings
from tests.networks.zoo import NETWORKS, network

IMAGES = torch.randn(4, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def _objective(kind: str = "plain", channels: int = 1, **settings: Any) -> ContrastiveLearning:
    torch.manual_seed(0)
    return ContrastiveLearning(encoder_of(network(kind, channels)), ContrastiveSettings(**settings))


def _drawn(objective: ContrastiveLearning, batch: int = 4, seed: int = 0, size: int = 32) -> dict[str, Tensor]:
    return objective.draw(batch, (size,) * 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_network_learns_down_to_its_first_layer(kind: str) -> None:
    objective = _objective(kind)
    loss = objective(IMAGES, **_drawn(objective))["loss"]
    assert loss.dtype == torch.float32 and 0 < loss < 2 * math.log(7)
    loss.backward()
    first = next(objective.encoder.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.projector.parameters())
    assert suited_optimizer(objective) == "adamw"


def test_loss_is_that_of_the_projected_mean_features_of_the_views() -> None:
    objective = _objective(temperature=0.2).eval()
    drawn = _drawn(objective)
    views = two_views(IMAGES, drawn, objective.settings)
    first, second = (objective.projector(objective.encoder(view)[-1].mean((2, 3, 4))) for view in views)
    expected = nt_xent(*_batch_normed(first, second), temperature=0.2)
    torch.testing.assert_close(objective(IMAGES, **drawn)["loss"], expected, atol=1e-4, rtol=1e-4)
    plain = _objective(temperature=0.2, standardise_embeddings=False).eval()
    torch.testing.assert_close(plain(IMAGES, **drawn)["loss"], nt_xent(first, second, temperature=0.2))
    representations, alone = objective.represent(IMAGES, **drawn)
    assert alone == {} and representations["first"].shape == (4, 64)
    torch.testing.assert_close(objective.compare(representations)["loss"], objective(IMAGES, **drawn)["loss"])


def _batch_normed(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    normed = nn.BatchNorm1d(first.shape[1], eps=1e-12, affine=False, track_running_stats=False)(
        torch.cat([first, second])
    )
    return normed[: len(first)], normed[len(first) :]


def test_widths_of_the_projector() -> None:
    shapes = [tuple(p.shape) for p in _objective(hidden=20, projection=8).projector.parameters()]
    assert shapes == [(20, 32), (8, 20)]


def test_joint_forward_shows_batch_norm_both_views() -> None:
    torch.manual_seed(0)
    net = network("plain", 1, norm_op=nn.BatchNorm3d)
    losses = {}
    for joint in (True, False):
        objective = ContrastiveLearning(encoder_of(net), ContrastiveSettings(joint_forward=joint))
        torch.manual_seed(1)
        nn.init.normal_(objective.projector[0].weight)
        nn.init.normal_(objective.projector[2].weight)
        with torch.no_grad():
            losses[joint] = objective(IMAGES, **_drawn(objective))["loss"].item()
        assert objective.encoder_forwards == (1 if joint else 2)
    assert abs(losses[True] - losses[False]) > 1e-4
    one, two = (_objective(joint_forward=joint)(IMAGES, **_drawn(_objective()))["loss"] for joint in (True, False))
    torch.testing.assert_close(one, two)  # instance norm does not mind


@pytest.mark.parametrize(
    ("changes", "patients", "same"),
    [
        ({"same_patient": "exclude"}, [3, 3, -1, 5], False),
        ({"same_patient": "positive"}, [3, 3, -1, 5], False),
        ({"same_patient": "negative"}, [3, 3, -1, 5], True),
        ({"same_patient": "exclude"}, [-1, -1, -1, -1], True),
    ],
)
def test_scans_of_one_patient(changes: dict[str, Any], patients: list[int], same: bool) -> None:
    objective, plain = _objective(**changes), _objective(same_patient="negative")
    drawn = _drawn(objective)
    loss = objective(IMAGES, **drawn, patients=torch.tensor(patients))["loss"].item()
    other = plain(IMAGES, **drawn)["loss"].item()
    assert math.isclose(loss, other, rel_tol=1e-5) == same


def test_decoupled_and_temperature_act() -> None:
    losses = [
        _objective(**changes)(IMAGES, **_drawn(_objective()))["loss"].item()
        for changes in ({}, {"decoupled": True}, {"temperature": 0.1})
    ]
    assert len({round(loss, 4) for loss in losses}) == 3


def test_queue_fills_in_training_alone_and_makes_the_task_harder() -> None:
    objective = _objective(queue=6)
    drawn = _drawn(objective)
    first = objective(IMAGES, **drawn, patients=torch.arange(4))["loss"]
    first.backward()
    assert objective.queue.embeddings.shape == (6, 64)
    assert objective.queue.groups.unique().tolist() == [1, 2, 3]
    second = objective(IMAGES, **drawn, patients=torch.arange(4) + 10)["loss"]
    second.backward()
    assert second > first
    before = objective.queue.embeddings.clone()
    objective.eval()
    torch.testing.assert_close(objective(IMAGES, **drawn)["loss"], _objective().eval()(IMAGES, **drawn)["loss"])
    assert torch.equal(objective.queue.embeddings, before) and "queue.kept" in objective.state_dict()


def test_half_precision_of_the_encoder_leaves_projector_and_loss_in_single() -> None:
    objective = _objective("swin")
    with torch.autocast("cpu", torch.bfloat16):
        representations, _ = objective.represent(IMAGES[:2, :, :16, :16, :16], **_drawn(objective, 2, size=16))
        loss = objective.compare(representations)["loss"]
    assert representations["first"].dtype == loss.dtype == torch.float32


def test_larger_crops_and_planes() -> None:
    settings = ContrastiveSettings(region=1.3)
    assert ContrastiveLearning.crop_size((32, 40, 24), settings) == (42, 52, 31)
    objective = _objective(region=1.3)
    images = torch.randn(2, 1, 42, 42, 42)
    first, second = objective.views(images, _drawn(objective, 2, size=42))
    assert first.shape == second.shape == (2, 1, 32, 32, 32)
    found = objective.eval().monitor(images, **_drawn(objective, 2, size=42))
    assert found.kept["features"].shape == (2, 32)
    planes: dict[str, Any] = {
        "conv_op": nn.Conv2d,
        "kernel_sizes": [[3, 3]] * 4,
        "strides": [[1, 1], [2, 2], [2, 2], [2, 2]],
        "norm_op": nn.InstanceNorm2d,
    }
    flat = ContrastiveLearning(encoder_of(network("plain", 1, **planes)))
    drawn = flat.draw(3, (32, 32), generator=torch.Generator())
    assert flat(torch.randn(3, 1, 32, 32), **drawn)["loss"].isfinite()


def test_spacing_reaches_the_views() -> None:
    torch.manual_seed(0)
    thick = ContrastiveLearning(encoder_of(network("plain", 1)), spacing=(5.0, 1.0, 1.0))
    assert not torch.equal(_drawn(thick)["matrix"], _drawn(_objective())["matrix"])


def test_loss_falls_below_chance_and_pairs_are_found() -> None:
    """Blobs at other places: what a pair shares survives the views."""
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.interpolate(
        torch.randn(8, 1, 4, 4, 4, generator=generator), (16,) * 3, mode="trilinear"
    )
    weak = {"p_flip": 0.0, "p_rotation": 0.0, "least_share": 0.8, "temperature": 0.2}
    objective = _objective(**weak)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    for step in range(40):
        loss = objective(images, **_drawn(objective, 8, seed=step, size=16))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5 * math.log(15)
    with torch.no_grad():
        found = objective.eval().monitor(images, **_drawn(objective, 8, seed=99, size=16))
        summary = objective.summarise({**found.kept, "foreground": torch.rand(8)})
    assert found.values["chance"] == pytest.approx(math.log(15)) and found.values["pair_loss"] < loss + 1
    assert summary["pair_accuracy"] > 0.6 and summary["effective_rank"] > 2


def test_monitors_are_those_of_the_panels_and_pictures_show_the_views() -> None:
    objective = _objective().eval()
    drawn, known = _drawn(objective), {"patients": torch.arange(4), "foreground": torch.tensor([0.1, 0.4, 0.2, 0.3])}
    with torch.no_grad():
        found = objective.monitor(IMAGES, **drawn, **known)
    summary = objective.summarise(found.kept)
    assert set(objective.monitors) <= set(found.values) | set(summary)
    assert all(torch.as_tensor(value).isfinite() for value in summary.values())
    picture = found.pictures["views"]
    expected = two_views(IMAGES[:1], {name: value[:1] for name, value in drawn.items()}, objective.settings)
    for name, view in zip(("first view", "second view"), expected):
        torch.testing.assert_close(picture.shown[name], view[0, 0])
    without = _objective(probe_neighbours=0)
    assert not without.uses_foreground and "probe_error" not in without.monitors


@pytest.mark.parametrize(
    ("same_patient", "candidates"), [("exclude", (5, 5, 7, 7)), ("negative", (7, 7, 7, 7)), ("positive", (7, 7, 7, 7))]
)
def test_chance_counts_what_is_compared(same_patient: str, candidates: tuple[int, ...]) -> None:
    objective = _objective(same_patient=same_patient).eval()
    known = {"patients": torch.tensor([3, 3, -1, 5]), "foreground": torch.rand(4)}
    with torch.no_grad():
        found = objective.monitor(IMAGES, **_drawn(objective), **known)
        summary = objective.summarise(found.kept)
    assert found.values["chance"].item() == pytest.approx(sum(map(math.log, candidates)) / 4, abs=1e-6)
    compared = candidates if same_patient == "negative" else (5, 5, 7, 7)
    assert summary["pair_chance"].item() == pytest.approx(sum(1 / count for count in compared) / 4)


def test_probe_reads_the_foreground_of_crops_alike_and_gives_no_gradient() -> None:
    objective = _objective()
    shares = torch.linspace(0, 1, 20)
    features = torch.stack([shares, 1 - shares], 1) * 3
    kept = {"first": torch.randn(20, 4), "second": torch.randn(20, 4), "features": features, "foreground": shares}
    alone = objective.summarise(kept | {"patients": torch.arange(20)})
    assert alone["probe_error"] < 0.6 * alone["probe_error_mean"]
    same = objective.summarise(kept | {"patients": torch.arange(20) // 10})  # neighbours are of the other patient
    assert same["probe_error"] > alone["probe_error"]
    with torch.no_grad():
        assert (
            not objective.monitor(IMAGES, **_drawn(objective), foreground=torch.rand(4)).kept["features"].requires_grad
        )


@pytest.mark.parametrize(
    ("changes", "warns"),
    [({}, ""), ({"effective_rank": 1.2}, "collapsed"), ({"pair_loss": 1.9}, "near its chance level")],
)
def test_verdict_warns_of_collapse_and_says_what_to_change(changes: dict[str, float], warns: str) -> None:
    latest = {"pair_loss": 0.8, "chance": 1.95, "effective_rank": 9.0, "pair_accuracy": 0.7, "pair_chance": 0.1}
    sentence = _objective().verdict(latest | changes)
    assert "against 1.950 by chance" in sentence and ("WARNING" in sentence) == bool(warns) and warns in sentence
    assert not warns or "pretraining." in sentence


def test_published_preset() -> None:
    settings = ContrastiveSettings(**PRESETS["simclr_published"].settings)
    assert settings.legacy_views and not settings.joint_forward and settings.same_patient == "negative"
    objective = _objective(**PRESETS["simclr_published"].settings)
    drawn = _drawn(objective)
    assert set(drawn) == {"corner", "side", "flip", "angle", "shift", "gamma"}
    assert objective(IMAGES, **drawn)["loss"].isfinite()


SIZE = (8, 8, 8, 4)
PAIRS = torch.randn(4, 2, *SIZE, generator=torch.Generator().manual_seed(1))


def _of_clips(**settings: Any) -> ContrastiveLearning:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": SIZE, "patch_size": (2, 2, 2, 1), "features": (8, 16), "depths": (1, 1)}
    encoder = NeurostormEncoder(1, **sizes, merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2))
    return ContrastiveLearning(encoder_of(encoder), ContrastiveSettings(**settings), spacing=(2, 2, 2, 0.8))


@pytest.mark.parametrize("region", [1.0, 1.5])
def test_two_clips_are_the_two_views(region: float) -> None:
    objective = _of_clips(region=region)
    crop = objective.crop_size(SIZE, objective.settings)
    assert crop == ((8, 8, 8, 4) if region == 1 else (12, 12, 12, 4))
    pairs = torch.randn(4, 2, *crop, generator=torch.Generator().manual_seed(1))
    brain = torch.rand(4, 2, *crop[:3], generator=torch.Generator().manual_seed(2)) < 0.8
    drawn = objective.draw(4, crop, generator=torch.Generator().manual_seed(0))
    first, second = objective.views(pairs, drawn, brain=brain)
    assert first.shape == second.shape == (4, 1, *SIZE)
    swapped, _ = objective.views(pairs.flip(1), drawn, brain=brain.flip(1))
    assert not torch.allclose(swapped, first)
    losses = objective(pairs, **drawn, brain=brain, patients=torch.tensor([0, 1, 2, 2]))
    losses["loss"].backward()
    assert next(objective.encoder.parameters()).grad.abs().sum() > 0
    dark = torch.where(brain[..., None], pairs, 50.0)  # what is not brain has no effect
    torch.testing.assert_close(objective.views(dark, drawn, brain=brain)[1], second)
    found = objective.monitor(pairs, **drawn, brain=brain)
    assert found.kept["features"].shape == (4, 16) and found.pictures["views"].original.ndim == 3
    assert "foreground" not in found.kept and not objective.uses_foreground and objective.clips == 2
    summary = objective.summarise(found.kept)
    assert set(objective.monitors) <= {*found.values, *summary}


def test_brains_of_clips_are_what_changes_where_nobody_tells_them() -> None:
    objective = _of_clips()
    pairs = PAIRS.clone()
    pairs[:, :, :3] = -2.0
    drawn = objective.draw(4, SIZE, generator=torch.Generator().manual_seed(0))
    brain = torch.ones(4, 2, *SIZE[:3], dtype=torch.bool)
    brain[:, :, :3] = False
    torch.testing.assert_close(objective.views(pairs, drawn), objective.views(pairs, drawn, brain=brain))
