"""Agreement with the public NeuroSTORM model: step by step, and with its recorded outputs, which BDFM_GOLDEN names."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import NeurostormReference, load_neurostorm_reference
from bdfm_nnunet.checkpoints.readers import NeurostormReader
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.masking import upsample
from tests.checkpoints.readers.test_neurostorm_reader import lightning
from tests.golden_outputs import FOLDER, golden_numbers, golden_tensors
from tests.networks.neurostorm_slow import FRAMES, public_weights, slow_reconstruction, slow_stages

# ------------------------------------------------------------------------------------------ step by step, by hand


def _images(frames: int = FRAMES, batch: int = 1) -> Tensor:
    return torch.randn(batch, 1, 16, 16, 16, frames, generator=torch.Generator().manual_seed(3))


def _close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.abs().max()).item() < tolerance


@pytest.mark.parametrize("prompts", [0, 5])
def test_the_encoder_is_the_published_one(prompts: int) -> None:
    weights = public_weights(prompts=prompts, layout="encoder")
    model = load_neurostorm_reference(weights)
    assert not model.training and model.network.encoder.legacy and model.network.decoder is None
    with torch.no_grad():
        features = model.network.encoder(_images(5))
        assert torch.equal(model.encoder(_images(5)), features[-1]) and torch.equal(model(_images(5)), features[-1])
        for ours, theirs in zip(features, slow_stages(_images(5), weights), strict=True):
            _close(ours, theirs.movedim(-1, 1).float())


@pytest.mark.parametrize(
    ("layout", "kind", "name"), [("2026", "window", ""), ("2026", "atlas", "atlas_mask_token"), ("2025", "window", "")]
)
def test_the_masked_model_is_the_published_one(layout: str, kind: Any, name: str) -> None:
    weights = public_weights(layout=layout)
    model = load_neurostorm_reference(lightning(weights))
    mask = torch.rand(1, 8, 8, 8, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    if layout == "2025":
        weights["window_mask_token"] = weights["mask_token"]
    with torch.no_grad():
        rebuilt = model.reconstruct(_images(4), mask=mask, kind=kind)
    _close(rebuilt, slow_reconstruction(_images(4), weights, mask, name or "window").float())


# ------------------------------------------------------------------------------------------ files and what is refused


def test_files_of_both_layouts(tmp_path: Path) -> None:
    mask = torch.ones(1, 8, 8, 8, 2)
    for layout, new in (("2026", set()), ("2025", {"mask_tokens.random", "mask_tokens.atlas"})):
        torch.save(lightning(public_weights(layout=layout)), tmp_path / "storm.ckpt")
        model = load_neurostorm_reference(tmp_path / "storm.ckpt")
        assert (model.report.kind, set(model.report.new)) == ("neurostorm_reference", new)
        assert len(model.report.loaded) + len(new) == len(model.network.state_dict())
        if new:
            with pytest.raises(InputError, match="no token for masks of kind 'random'"):
                model.reconstruct(_images(2), mask=mask, kind="random")
        else:
            assert model.reconstruct(_images(2), mask=mask, kind="random").shape == (1, 1, 16, 16, 16, 2)


def test_an_encoder_of_a_task(tmp_path: Path) -> None:
    weights = public_weights(layout="encoder") | {"output_head.head.head.bias": torch.zeros(1)}
    model = load_neurostorm_reference(lightning(weights))
    assert model.report.ignored == {"output_head.head.head.bias": "a head belongs to its task"}
    with pytest.raises(InputError, match="holds an encoder alone"):
        model.reconstruct(_images(2), mask=torch.ones(1, 8, 8, 8, 2))
    tokens = public_weights() | {"output_head.head.head.bias": torch.zeros(1)}
    kept = {
        name: value for name, value in tokens.items() if not name.startswith(("first_", "layers_up", "norm_up", "dec"))
    }
    assert "mask_tokens.window" in load_neurostorm_reference(kept).report.ignored


def _without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in public_weights().items() if key != name}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"layers.0.blocks.0.attn.qkv.weight": torch.ones(3, 1)}, "no checkpoint of the public NeuroSTORM code"),
        (_without("layers.0.blocks.1.mlp.linear1.bias"), "it lacks encoder.stages.0.blocks.1.mlp.0.bias"),
        (_without("pos_embeds.0.pos_embed"), "it lacks encoder.stages.0.positions.space"),
        (_without("norm_up.bias"), "it lacks decoder.norm.bias"),
        (public_weights() | {"spare.weight": torch.ones(1)}, "it also holds spare.weight"),
        (public_weights() | {"norm_up.bias": torch.ones(5)}, r"decoder.norm.bias has the shape \(5,\)"),
        (public_weights() | {"norm_up.bias": torch.full((4,), torch.nan)}, "not finite"),
        (public_weights() | {"patch_embed.fc.weight": torch.ones(4, 10)}, "no complete checkpoint"),
        (public_weights() | {"pos_embeds.0.time_embed": torch.ones(())}, "no complete checkpoint"),
    ],
)
def test_what_is_not_that_model_is_refused(weights: dict[str, Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_neurostorm_reference(weights)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "storm.ckpt").write_bytes(b"no")
    with pytest.raises(InputError, match=r"storm\.ckpt"):
        load_neurostorm_reference(tmp_path / "storm.ckpt")


def test_full_windows_of_the_last_stage_are_an_argument() -> None:
    weights = public_weights(layout="encoder")
    whole, cut = (load_neurostorm_reference(weights, full_last_window=each) for each in (True, False))
    assert [each.network.encoder.stages[-1].blocks[1].shifted for each in (whole, cut)] == [False, True]
    with torch.no_grad():
        assert not torch.allclose(whole.encoder(_images()), cut.encoder(_images()))


# ------------------------------------------------------------------------------------------ the recorded outputs


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return golden_tensors("neurostorm_small")


@pytest.fixture(scope="module")
def small(golden: dict[str, Tensor]) -> NeurostormReference:
    return load_neurostorm_reference(FOLDER / "neurostorm_small.mae.ckpt")


def test_recorded_features(golden: dict[str, Tensor], small: NeurostormReference) -> None:
    with torch.no_grad():
        _check_encoder(small, golden["image"].float(), golden, 1e-4)
        _close(small.encoder(golden["image"][..., :6].float()), golden["features_first6"])


def test_recorded_prompts_and_task(golden: dict[str, Tensor]) -> None:
    images = golden["image"].float()[:1]
    for name, expected in (("prompts", "prompt.features"), ("sex", "features")):
        model = load_neurostorm_reference(FOLDER / f"neurostorm_small.{name}.ckpt")
        assert all(each.startswith("output_head.") for each in model.report.ignored) and model.report.ignored
        with torch.no_grad():
            if name == "prompts":
                encoder = model.network.encoder
                tokens = encoder.stages[0].positions(encoder.patch_embed(images))
                _close(encoder.stages[0].blocks[0](tokens), golden["prompt.block_0_0"][:1])
            _close(model.encoder(images), golden[expected][:1])


def _recorded(golden: dict[str, Tensor], name: str, found: Tensor, tolerance: float) -> None:
    """Compare with a recorded tensor, of which every n-th element of each axis, or four windows, may be there alone."""
    if f"{name}_first4windows" in golden:
        name, found = f"{name}_first4windows", found[:4]
    elif f"{name}_sub" in golden:
        name = f"{name}_sub"
        steps = [-(-n // m) for n, m in zip(found.shape, golden[name].shape, strict=True)]
        found = found[tuple(slice(None, None, step) for step in steps)]
    _close(found, golden[name].float(), tolerance)


def _check_encoder(model: NeurostormReference, images: Tensor, golden: dict[str, Tensor], tolerance: float) -> None:
    encoder = model.network.encoder
    stages = encoder(images)
    for i in range(3):
        merged = encoder.stages[i + 1].merging(stages[i].movedim(1, -1)).movedim(-1, 1)
        _recorded(golden, f"stage{i}", merged, tolerance)
    _recorded(golden, "features", stages[-1], tolerance)
    _recorded(golden, "pooled", stages[-1].flatten(2).mean(2), tolerance)


def _check_masked(
    model: NeurostormReference, images: Tensor, mask: Tensor, golden: dict[str, Tensor], tolerance: float
) -> Tensor:
    """Compare every step of the masked model, and return what it rebuilds."""
    network = model.network
    encoder, decoder = network.encoder, network.decoder
    assert network.mask_tokens is not None and decoder is not None
    tokens = encoder.patch_embed(images)
    _recorded(golden, "tokens", tokens.movedim(-1, 1), tolerance)
    tokens = encoder.stages[0].positions(network.mask_tokens(tokens, mask))
    _recorded(golden, "tokens_positioned", tokens.movedim(-1, 1), tolerance)
    for j in range(2):
        block, windows = encoder.stages[0].blocks[j], []
        hook = block.mamba.register_forward_hook(lambda _, args, out: windows.extend((args[0], out)))  # noqa: B023
        tokens = block(tokens)
        hook.remove()
        _recorded(golden, f"block_0_{j}", tokens, tolerance)
        for end, found in zip(("in", "out"), windows, strict=True):
            if any(name.startswith(f"mamba_0_{j}.{end}") for name in golden):
                _recorded(golden, f"mamba_0_{j}.{end}", found, tolerance)
    stages, rebuilt = network(images, mask)
    _recorded(golden, "mae_stage3", stages[-1], tolerance)
    for i in range(3):
        merged = encoder.stages[i + 1].merging(stages[i].movedim(1, -1)).movedim(-1, 1)
        _recorded(golden, f"mae_stage{i}", merged, tolerance)
    tokens = decoder.expanding[0](stages[-1].movedim(1, -1))
    _recorded(golden, "decoder_first", tokens.movedim(-1, 1), tolerance)
    for i in range(3):
        tokens = decoder.stages[i](tokens)
        tokens = decoder.expanding[i + 1](tokens) if i < 2 else tokens
        _recorded(golden, f"decoder_up{i}", tokens.movedim(-1, 1), tolerance)
    _recorded(golden, "pred", rebuilt, tolerance)
    return rebuilt


def test_recorded_masked_model(golden: dict[str, Tensor], small: NeurostormReference) -> None:
    with torch.no_grad():
        rebuilt = _check_masked(small, golden["image"].float(), golden["mask_tokens"].bool(), golden, 1e-4)
    _close(rebuilt[:1, 0], golden["pred_first_sample"].float(), 2e-3)


@pytest.mark.parametrize("kind", ["random", "atlas"])
def test_recorded_masks_of_other_kinds(golden: dict[str, Tensor], small: NeurostormReference, kind: Any) -> None:
    images, mask = golden["image"].float(), golden[f"{kind}.mask_tokens"].bool()
    with torch.no_grad():
        rebuilt = small.reconstruct(images, mask=mask, kind=kind)
    _close(rebuilt[..., ::3, ::3, ::3, ::3], golden[f"{kind}.pred_sub"])
    assert _loss(rebuilt, images, mask, 6) == pytest.approx(
        golden_numbers("neurostorm_small")[f"loss_{kind}"], rel=1e-5
    )


def _loss(rebuilt: Tensor, images: Tensor, mask: Tensor, patch: int) -> float:
    return float(((rebuilt - images)[upsample(mask, (patch, patch, patch, 1))[:, None]] ** 2).mean())


def test_recorded_gradients(golden: dict[str, Tensor]) -> None:
    network = load_neurostorm_reference(FOLDER / "neurostorm_small.mae.ckpt").network.train()
    images, mask = golden["image"].float(), golden["mask_tokens"].bool()
    error = (network.reconstruct(images, mask=mask) - images)[upsample(mask, (6, 6, 6, 1))[:, None]]
    loss = error.square().mean()
    numbers = golden_numbers("neurostorm_small")
    assert loss.item() == pytest.approx(numbers["loss"], rel=1e-5)
    loss.backward()
    theirs = {name.removeprefix("grad."): value for name, value in golden.items() if name.startswith("grad.")}
    found = {name: each.grad for name, each in network.named_parameters()}
    renamed = NeurostormReader().rename(theirs).weights
    assert len(renamed) == len(theirs) > 10
    for name, gradient in renamed.items():
        ours = found[name]
        assert ours is not None
        _close(ours, gradient, 1e-3)
    assert [name for name, each in found.items() if each is None] == ["mask_tokens.random", "mask_tokens.atlas"]
    total = sum(float(each.square().sum()) for each in found.values() if each is not None) ** 0.5
    assert total == pytest.approx(numbers["grad_norm_all"], rel=1e-3)


# ------------------------------------------------------------------------------------------ the published configuration


def _published_weights(recipe: dict[str, Any], *, prompts: bool) -> dict[str, Tensor]:
    weights = {}
    for key, shape, mean, std, total, squares in recipe["rows"]:
        if key.endswith("prompt") and not prompts:
            continue
        source = np.random.RandomState((zlib.crc32(key.encode()) + recipe["seed"]) % 2**32)
        start = np.log(np.arange(1, 17)) if isinstance(mean, str) else mean
        values = (source.standard_normal(int(np.prod(shape))).reshape(shape) * std + start).astype(np.float32)
        wide = values.astype(np.float64)
        assert [wide.sum(), (wide**2).sum()] == pytest.approx([total, squares], rel=1e-6, abs=1e-3)
        weights[key] = torch.from_numpy(values)
    return weights


def _published_image(recipe: dict[str, Any]) -> Tensor:
    place = np.stack(np.meshgrid(*(np.arange(96) / 96,) * 3, indexing="ij"), -1)
    time = np.arange(20) / 20
    image = np.zeros((96, 96, 96, 20))
    for f, ft, p, q, a in zip(*(recipe[key] for key in ("f", "ft", "p", "q", "a")), strict=True):
        wave = a * np.cos(2 * np.pi * (place @ f) + p)
        image += wave[..., None] * (1 + 0.5 * np.cos(2 * np.pi * ft * time + q))
    inside = (((place - recipe["centre"]) / recipe["axes"]) ** 2).sum(-1) < 1
    image = (image - image[inside].mean()) / image[inside].std()
    image[~inside] = image[inside].min()
    return torch.from_numpy(image.astype(np.float16))[None, None].float()


@pytest.mark.slow
def test_recorded_outputs_of_the_published_configuration() -> None:
    golden, numbers = golden_tensors("neurostorm_published"), golden_numbers("neurostorm_published")
    images = _published_image(numbers["image_recipe"])
    _close(images[..., ::6, ::6, ::6, ::3], golden["image_sub"].float(), 1e-3)
    model = load_neurostorm_reference(_published_weights(numbers["weight_recipe"], prompts=False))
    mask = upsample(golden["mask_windows"].reshape(1, 4, 4, 4, 5).bool(), 4)
    with torch.no_grad():
        _check_encoder(model, images, golden, 2e-4)
        rebuilt = _check_masked(model, images, mask, golden, 2e-4)
    assert _loss(rebuilt, images, mask, 6) == pytest.approx(numbers["loss"], rel=1e-5)
    assert [float(rebuilt.mean()), float(rebuilt.std())] == pytest.approx(
        [numbers["pred_mean"], numbers["pred_std"]], rel=1e-3
    )
    prompted = load_neurostorm_reference(
        {k: v for k, v in _published_weights(numbers["weight_recipe"], prompts=True).items() if "mask_token" not in k
         and not k.startswith(("first_", "layers_up", "norm_up", "decoder_pred"))}
    )  # fmt: skip
    with torch.no_grad():
        _close(prompted.encoder(images), golden["prompt.features"], 2e-4)
