import json
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import load_neurostorm_reference
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.losses import sequence_mse
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks.encoders import encoder_of, suited_optimizer
from bdfm_nnunet.networks.mamba_stages import MambaBlock, add_prompts
from bdfm_nnunet.networks.masked_neurostorm import MaskedNeurostorm
from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.objectives.clip_augmentation import changed_clips, moved
from bdfm_nnunet.objectives.registry import objective_of
from bdfm_nnunet.objectives.sequence import SequenceModelling
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import SequenceSettings, pretraining_settings
from bdfm_nnunet.training.optimizers import parameter_groups
from tests.golden_outputs import FOLDER, golden_numbers, golden_tensors
from tests.networks.zoo import network

SIZE = (8, 8, 8, 6)
_PLACES = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, 8),) * 3, indexing="ij"))
BRAIN = (_PLACES.square().sum(0) < 1.2).expand(2, -1, -1, -1)
IMAGES = torch.where(
    BRAIN[:, None, ..., None], torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0)), -2.0
)
REGIONS = 1 + (_PLACES[0] > 0).long() + 2 * (_PLACES[1] > 0).long()


def _encoder(**options: Any) -> NeurostormEncoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": SIZE, "patch_size": (2, 2, 2, 1), "features": (4, 8), "depths": (2, 1)}
    return NeurostormEncoder(1, **sizes, merging=((2, 2, 2, 1),), window_size=(2, 2, 2, 2), **options)


def _objective(checkpointing: bool = False, **settings: Any) -> SequenceModelling:
    chosen = {"mask_window": (2, 2, 2, 2)} | settings
    return SequenceModelling(encoder_of(_encoder(gradient_checkpointing=checkpointing)), SequenceSettings(**chosen))


def _drawn(objective: SequenceModelling, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    return objective.draw(batch, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mask", ["window", "random", "tube", "atlas"])
def test_loss_is_the_error_of_what_the_mask_hides_of_the_brain(mask: str) -> None:
    objective = _objective(mask=mask)
    regions = {"regions": REGIONS.expand(2, -1, -1, -1)} if mask == "atlas" else {}
    keys = _drawn(objective)["mask_keys"]
    loss = objective(IMAGES, mask_keys=keys, **regions)["loss"]
    hidden = objective.mask(keys, SIZE, brain=BRAIN, **regions)
    rebuilt = objective.reconstruct(IMAGES, mask=hidden)
    counted = upsample(hidden, (2, 2, 2, 1)) & BRAIN[..., None]
    errors = [(r - i).square()[:, c].mean() for r, i, c in zip(rebuilt, IMAGES, counted, strict=True)]
    torch.testing.assert_close(loss, torch.stack(errors).mean())
    assert not torch.equal(rebuilt, objective.reconstruct(IMAGES, mask=torch.zeros_like(hidden)))
    assert mask != "tube" or torch.equal(hidden, hidden[..., :1].expand_as(hidden))
    blind = IMAGES.masked_fill(upsample(hidden, (2, 2, 2, 1))[:, None], 9.0)
    torch.testing.assert_close(objective.reconstruct(blind, mask=hidden), rebuilt)  # hidden from the encoder
    loss.backward()
    for name, parameter in objective.named_parameters():
        used = not name.startswith("mask_tokens.") or name == f"mask_tokens.{objective.token_kind}"
        assert (parameter.grad is not None and bool(parameter.grad.any())) == parameter.requires_grad == used, name


def test_a_training_learns_to_rebuild_a_clip() -> None:
    time = torch.arange(4) / 6
    wave = (6.3 * (_PLACES.sum(0)[..., None] + time)).sin()[None, None]
    objective = _objective(p_affine=0.0, p_noise=0.0, p_smoothing=0.0, redundancy_dropout=0.05)
    drawn = [objective.draw(1, wave.shape[2:], generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    groups = parameter_groups({"all": (objective.named_parameters(), 1e-2)}, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups)
    for step in range(12):
        optimizer.zero_grad()
        objective(wave, **drawn[step % 2])["loss"].backward()
        optimizer.step()
    values = objective.eval().monitor(wave, **drawn[0]).values
    assert values["error"] < 0.6 * values["error_constant"]


def test_loss_does_not_depend_on_order_or_split_of_the_batch() -> None:
    objective = _objective(redundancy_dropout=0.3)
    drawn = _drawn(objective)
    whole = objective(IMAGES, **drawn)["loss"]
    alone = [objective(IMAGES[i : i + 1], **{n: v[i : i + 1] for n, v in drawn.items()})["loss"] for i in range(2)]
    torch.testing.assert_close(torch.stack(alone).mean(), whole)
    torch.testing.assert_close(objective(IMAGES.flip(0), **{n: v.flip(0) for n, v in drawn.items()})["loss"], whole)
    assert torch.equal(objective(IMAGES, **drawn)["loss"], whole)
    assert not torch.isclose(objective(IMAGES, **_drawn(objective, seed=1))["loss"], whole)


def test_augmented_clips_are_masked_and_rebuilt() -> None:
    objective = _objective(p_noise=1.0)
    drawn = _drawn(objective)
    changes = {name: value for name, value in drawn.items() if not name.endswith(("mask_keys", "dropout_keys"))}
    brain = moved(BRAIN[:, None].float(), drawn["matrix"])[:, 0] > 0.5
    images = changed_clips(IMAGES, changes, brain=brain)
    plain = objective(images, mask_keys=drawn["mask_keys"], brain=brain)
    torch.testing.assert_close(objective(IMAGES, **drawn), plain)
    torch.testing.assert_close(objective(IMAGES, brain=BRAIN, **drawn), plain)
    atlas = _objective(mask="atlas")
    still = atlas(IMAGES, **drawn, regions=REGIONS.expand(2, -1, -1, -1))["loss"]
    assert still.isfinite()
    monitored = [
        objective.monitor(IMAGES, **each).values["error"] for each in (drawn, {"mask_keys": drawn["mask_keys"]})
    ]
    assert torch.equal(*monitored)  # validation looks at clips as they are


def test_dropout_acts_in_training_alone_and_survives_recomputation() -> None:
    results = []
    for checkpointing in (False, True):
        objective = _objective(checkpointing, redundancy_dropout=0.4)
        drawn = _drawn(objective)
        loss = objective(IMAGES, **drawn)["loss"]
        loss.backward()
        results.append((loss.detach(), [p.grad for p in objective.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0], results[1])
    for options in ({"redundancy_dropout": 0.0}, {"redundancy_dropout": 0.4, "legacy_dropout": True}):
        other = _objective(**options)
        assert not torch.isclose(other(IMAGES, **drawn)["loss"], results[0][0])
    streams = [
        block.dropout.stream for block in objective.encoder.modules() if isinstance(block, MambaBlock) and block.dropout
    ]
    assert streams == [0, 1, 2]
    without = _objective()
    torch.testing.assert_close(objective.eval()(IMAGES, **drawn), without.eval()(IMAGES, **drawn))
    assert objective.state_dict().keys() == without.state_dict().keys()


def test_monitors_stand_beside_the_constant_and_the_previous_frame() -> None:
    objective = _objective()
    keys = _drawn(objective)["mask_keys"]
    found = objective.monitor(IMAGES, mask_keys=keys)
    hidden = upsample(objective.mask(keys, SIZE, brain=BRAIN), (2, 2, 2, 1))
    for name, guess in (("error_constant", _constant), ("error_previous", _previous)):
        errors = []
        for image, mask, brain in zip(IMAGES[:, 0], hidden, BRAIN, strict=True):
            places = (mask & brain[..., None]).nonzero().tolist()
            mean = float(image[brain[..., None] & ~mask].mean())
            errors.append(
                sum((guess(image, mask, mean, *p) - float(image[tuple(p)])) ** 2 for p in places) / len(places)
            )
        assert found.values[name] == pytest.approx(sum(errors) / 2, rel=1e-4)
    assert set(objective.monitors) == {"error", "error_constant", "error_previous"} <= set(found.values)
    assert torch.equal(found.values["loss"], found.values["error"])
    still = IMAGES[..., :1] + 1e-3 * torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(5))
    values = _objective(mask_ratio=0.1).monitor(still, mask_keys=keys, brain=BRAIN).values
    assert values["error_previous"] < 1e-4 < values["error_constant"]


def _constant(image: Tensor, mask: Tensor, mean: float, x: int, y: int, z: int, t: int) -> float:
    return mean


def _previous(image: Tensor, mask: Tensor, mean: float, x: int, y: int, z: int, t: int) -> float:
    seen = [frame for frame in range(image.shape[-1]) if not mask[x, y, z, frame]]
    before = [frame for frame in seen if frame < t]
    return float(image[x, y, z, before[-1] if before else seen[0]]) if seen else mean


def test_the_picture_shows_a_frame_and_time_courses_of_hidden_voxels() -> None:
    objective = _objective()
    drawn = _drawn(objective)
    picture = objective.monitor(IMAGES, **drawn).pictures["reconstructions"]
    assert picture.mask is not None and picture.hidden is not None
    frames = [t for t in range(6) if torch.equal(picture.original, IMAGES[0, 0, ..., t].permute(2, 1, 0).flip(1))]
    assert len(frames) == 1 and picture.mask.shape == picture.original.shape == picture.shown["network"].shape
    assert set(picture.courses) == {"original", "network", "previous frame"}
    assert picture.hidden.shape == (3, 6) and picture.hidden.any(1).all()
    columns = IMAGES[0, 0].flatten(0, 2)
    for course in picture.courses["original"]:
        assert (columns == course).all(1).any() and course.std() > 0
    kept = picture.courses["previous frame"][~picture.hidden], picture.courses["original"][~picture.hidden]
    assert torch.equal(*kept)


def test_a_clip_that_never_changes_counts_as_a_whole() -> None:
    objective = _objective()
    drawn = _drawn(objective)
    still = _PLACES.sum(0)[None, None, ..., None].expand(2, 1, *SIZE)
    assert objective(still, **drawn)["loss"].isfinite()
    assert objective.monitor(still, **drawn).values["error_constant"] > 0


def test_scan_rates_biases_norms_and_tables_do_not_decay() -> None:
    objective = _objective()
    encoder = _encoder(both_directions=True)
    add_prompts(encoder, 3, generator=torch.Generator().manual_seed(0))
    for module in (objective, encoder):
        names = {id(each): name for name, each in module.named_parameters() if each.requires_grad}
        groups = parameter_groups({"all": (module.named_parameters(), 1e-3)}, weight_decay=0.05)
        decays = {names[id(p)]: g["weight_decay"] > 0 for g in groups for p in g["params"]}  # type: ignore[operator,attr-defined]
        assert decays.keys() == set(names.values())
        for name, decaying in decays.items():
            kernel = name.endswith((".weight", "_embed.weight")) and "norm" not in name
            assert decaying == kernel, name
        assert any(name.endswith("A_log") for name in decays) and any(name.endswith("conv1d.weight") for name in decays)


def test_weights_have_the_names_of_the_masked_model() -> None:
    names = MaskedNeurostorm(_encoder()).state_dict()
    objective = _objective()
    assert {name: value.shape for name, value in objective.state_dict().items()} == {
        name: value.shape for name, value in names.items()
    }
    assert suited_optimizer(objective) == "adamw"


@pytest.mark.parametrize("kind", ["window", "random", "atlas"])
def test_the_published_loss_is_the_recorded_one(kind: str) -> None:
    golden, numbers = golden_tensors("neurostorm_small"), golden_numbers("neurostorm_small")
    model = load_neurostorm_reference(FOLDER / "neurostorm_small.mae.ckpt").network
    settings = SequenceSettings(**{**PRESETS["neurostorm_published"].settings, "mask": kind})
    objective = SequenceModelling(encoder_of(model.encoder), settings).eval()
    objective.load_state_dict(model.state_dict())
    prefix, ending = ("", "") if kind == "window" else (f"{kind}.", f"_{kind}")
    images, mask = golden["image"].float(), golden[f"{prefix}mask_tokens"].bool()
    with torch.no_grad():
        loss = objective.loss(images, objective.reconstruct(images, mask=mask), mask, None)
    assert float(loss) == pytest.approx(numbers[f"loss{ending}"], rel=1e-5)


def test_published_settings_are_a_preset_and_the_legacy_switch() -> None:
    assert objective_of("neurostorm") is objective_of("neurostorm_published") is SequenceModelling
    block = {"pretraining": {"legacy": True}}
    assert pretraining_settings(block, "neurostorm") == SequenceSettings(**PRESETS["neurostorm_published"].settings)
    settings = SequenceSettings(**PRESETS["neurostorm_published"].settings, mask_window=(2, 2, 2, 2), p_noise=1.0)
    objective = SequenceModelling(encoder_of(_encoder(legacy=True)), settings)
    drawn = _drawn(objective)
    hidden = objective.mask(drawn["mask_keys"], SIZE, brain=BRAIN)
    assert hidden.flatten(1).sum(1).tolist() == [12 * 16] * 2  # of 24 windows, brain or not
    images = changed_clips(IMAGES, drawn, same_noise=True)
    expected = sequence_mse(objective.reconstruct(images, mask=hidden), images, hidden, region="all", unit=(2, 2, 2, 2))
    torch.testing.assert_close(objective(IMAGES, **drawn)["loss"], expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio is 1.0"),
        ({"mask_window": (4, 4, 4)}, "expected tokens along x, y, z and t"),
        ({"redundancy_dropout": 0.9}, "redundancy_dropout is 0.9"),
        ({"scaling": (1.1, 0.9)}, r"scaling is \[1.1, 0.9\]"),
        ({"p_noise": 2.0}, "p_noise is 2.0"),
    ],
)
def test_settings_out_of_range_are_an_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SequenceSettings(**settings)


def test_what_cannot_be_rebuilt_is_an_error() -> None:
    with pytest.raises(InputError, match=r"reads images of 3 axes.*NeurostormEncoder"):
        SequenceModelling(encoder_of(network("plain", 1)))
    with pytest.raises(InputError, match=r"crops of \[8, 8, 8\] voxels have 3 axes"):
        SequenceModelling.check({"patch_size": [8, 8, 8]}, SequenceSettings())
    SequenceModelling.check(json.loads('{"patch_size": [8, 8, 8, 4]}'), SequenceSettings())
    objective = _objective(mask="atlas")
    keys = _drawn(objective)["mask_keys"]
    with pytest.raises(InputError, match="need an atlas"):
        objective(IMAGES, mask_keys=keys)
    with pytest.raises(ValueError, match="cannot be rebuilt from tokens"):
        objective(IMAGES[:, :, :7], mask_keys=keys)


def test_costs_can_be_counted_on_the_meta_device() -> None:
    with torch.device("meta"):
        objective = _objective(mask="atlas", legacy_masks=True, redundancy_dropout=0.2)
    objective.make_countable()
    drawn = {name: value.to("meta") for name, value in _drawn(objective).items()}
    loss = objective(IMAGES.to("meta"), **drawn)["loss"]
    loss.backward()
    assert loss.is_meta and loss.shape == ()
    assert all(each.grad is not None for each in objective.parameters() if each.requires_grad)
