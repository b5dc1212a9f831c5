"""Agreement with the public BDFM model.

`bdfm_reference.json` holds what its outputs were at a few places and what its losses were. The checkpoint and the
images themselves are too large for this repository: BDFM_GOLDEN names their folder, else one beside the checkout is
looked for.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bdfm_nnunet.checkpoints import load_bdfm_reference
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.losses import focal_frequency_loss, masked_mse
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.swin import SwinEncoder
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.settings import PretrainingSettings

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"
OUTPUTS = Path(os.environ.get("BDFM_GOLDEN", ROOT.parent / "shared" / "golden"))
EXPECTED = json.loads((GOLDEN / "bdfm_reference.json").read_text())

needs_outputs = pytest.mark.skipif(
    not (OUTPUTS / "bdfm_reference.checkpoint.pt").is_file(),
    reason="the reference checkpoint is not here: name its folder with BDFM_GOLDEN",
)


@pytest.fixture(scope="module")
def objective() -> MaskedImageModelling:
    return load_bdfm_reference(OUTPUTS / "bdfm_reference.checkpoint.pt")


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(OUTPUTS / "bdfm_reference.safetensors")


@pytest.fixture(scope="module")
def images(golden: dict[str, torch.Tensor]) -> torch.Tensor:
    return golden["image_whd"].float().permute(0, 1, 4, 2, 3)


@pytest.fixture(scope="module")
def mask(golden: dict[str, torch.Tensor]) -> torch.Tensor:
    return golden["mask"].bool().reshape(2, 24, 24, 24)


@pytest.fixture(scope="module")
def rebuilt(objective: MaskedImageModelling, images: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return objective.reconstruct(images, mask=mask)


def _agree(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert ours.shape == theirs.shape
    assert ((ours - theirs.float()).norm() / theirs.float().norm()).item() < tolerance


@needs_outputs
def test_every_stage_of_the_encoder(
    objective: MaskedImageModelling, images: torch.Tensor, golden: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        _agree(objective.encoder.patch_embed(images).flatten(1, 3)[:, ::97], golden["tokens"])
        features = objective.encoder(images)
        _agree(features[-1].flatten(2).transpose(1, 2), golden["features"])
        assert features[-1].shape == (2, 96, 24, 3, 3)
        for i in range(3):  # the reference returns stages after their merging
            merged = objective.encoder.stages[i + 1].merging(features[i].movedim(1, -1)).movedim(-1, 1)
            expected = golden[f"stage{i}"]
            _agree(merged if merged.shape == expected.shape else merged[..., ::3, ::3, ::3], expected)


@needs_outputs
def test_masked_encoding(
    objective: MaskedImageModelling, images: torch.Tensor, mask: torch.Tensor, golden: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        latent = objective.view.features(images, mask, objective.mask_token, patch_size=objective.patch_size)[-1]
    _agree(latent.flatten(2).transpose(1, 2), golden["latent"])


@needs_outputs
@pytest.mark.parametrize("name", ["pixel", "frequency"])
def test_both_decoders(rebuilt: dict[str, torch.Tensor], golden: dict[str, torch.Tensor], name: str) -> None:
    _agree(rebuilt[name], golden[f"pred_{name}"], 2e-3)
    probes = EXPECTED["probes"][name]
    ours = rebuilt[name].flatten()[torch.tensor(probes["places"])]
    torch.testing.assert_close(ours, torch.tensor(probes["values"]), atol=2e-3, rtol=2e-3)


@needs_outputs
def test_both_losses(
    objective: MaskedImageModelling, images: torch.Tensor, mask: torch.Tensor, rebuilt: dict[str, torch.Tensor]
) -> None:
    losses = EXPECTED["losses"]
    assert masked_mse(rebuilt["pixel"], images, mask).item() == pytest.approx(losses["pixel"], rel=1e-5)
    corrected = focal_frequency_loss(rebuilt["frequency"], images, mask)
    assert corrected.item() == pytest.approx(losses["frequency_3d"], rel=1e-5)
    with torch.no_grad():
        terms = objective(images, mask=mask)
    assert terms["frequency"].item() == pytest.approx(losses["frequency_reference_code"], rel=1e-5)
    assert terms["loss"].item() == pytest.approx(losses["pixel"] + losses["frequency_reference_code"], rel=1e-5)


@needs_outputs
def test_reference_is_in_eval_mode_and_keeps_its_token(objective: MaskedImageModelling) -> None:
    assert not objective.training
    assert objective.mask_token.initialised and objective.mask_token.value.std() > 0


def small_published(seed: int = 0) -> MaskedImageModelling:
    """A small published model whose weights are a fixed row of random numbers."""
    encoder = SwinEncoder(
        1,
        patch_size=(4, 4, 4),
        features=(8, 16),
        depths=(2, 2),
        num_heads=(2, 4),
        window_size=(3, 3, 3),
        merging=[(1, 2, 2)],
        legacy=True,
    )
    objective = MaskedImageModelling(encoder_of(encoder), PretrainingSettings.published(frequency_blocks=2))
    random = np.random.RandomState(seed)
    with torch.no_grad():
        for _, parameter in sorted(objective.named_parameters()):
            parameter.copy_(torch.from_numpy(random.normal(0, 0.2, parameter.shape)))
    return objective.eval()


def test_published_form_stays_what_it_was() -> None:
    """Numbers written when this code agreed with the public model; they hold without its outputs."""
    random = np.random.RandomState(1)
    images = torch.from_numpy(random.rand(2, 1, 20, 24, 32)).float()
    mask = torch.from_numpy(random.rand(2, 5, 6, 8) < 0.75)
    with torch.no_grad():
        terms = small_published()(images, mask=mask)
    for name, value in EXPECTED["small_model"].items():
        assert terms[name].item() == pytest.approx(value, rel=1e-4), name


def test_a_checkpoint_of_our_own_naming_comes_back(tmp_path: Path) -> None:
    """Writes a published model under the names of the public code and reads it again."""
    objective = small_published()
    torch.save({"global_step": 1, "state_dict": reference_names(objective), "optimizer": {}}, tmp_path / "a.pt")
    restored = load_bdfm_reference(tmp_path / "a.pt")
    for name, value in objective.state_dict().items():
        if name != "mask_token.initialised":
            torch.testing.assert_close(restored.state_dict()[name], value, msg=name)
    assert restored.settings == objective.settings


def reference_names(objective: MaskedImageModelling) -> dict[str, torch.Tensor]:
    names = {
        "mask_token.value": "mask_token",
        "encoder.patch_embed.": "encoder.patch_embed.proj.",
        "encoder.stages.1.merging.": "encoder.layers.0.downsample.",
        "encoder.stages.": "encoder.layers.",
        ".mlp.0.": ".mlp.fc1.",
        ".mlp.2.": ".mlp.fc2.",
        "pixel_decoder.expand.": "conv3d_transpose.",
        "pixel_decoder.project.": "conv3d_transpose_1.",
        "frequency_decoder.norm.": "frequency_decoder.final_norm.",
    }
    weights: dict[str, torch.Tensor] = {}
    for name, value in objective.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        block = name.rpartition(".")[0]
        if name.endswith((".kernels", ".bias")) and ".blocks." in name and "frequency" in name:
            kind = "weight" if name.endswith(".kernels") else "bias"
            for part, tensor in zip(("real", "imag"), value, strict=True):
                weights[f"{block}.{part}conv1.{kind}"] = tensor.unsqueeze(1) if kind == "weight" else tensor
        elif name != "mask_token.initialised":
            weights[name] = value
    weights["mask_token"] = weights["mask_token"].reshape(1, 1, -1)
    return weights


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="no checkpoint of the public BDFM code"):
        load_bdfm_reference(tmp_path / "a.pt")
    weights = reference_names(small_published())
    del weights["encoder.norm.weight"]
    torch.save({"state_dict": weights}, tmp_path / "b.pt")
    with pytest.raises(InputError, match="no complete BDFM checkpoint"):
        load_bdfm_reference(tmp_path / "b.pt")


@pytest.mark.parametrize(
    "lost", ["mask_token", "encoder.layers.0.blocks.0.", "encoder.", "conv3d_transpose.", "frequency"]
)
@pytest.mark.parametrize("how", ["missing", "empty", "flat"])
def test_checkpoints_that_lack_something_are_refused(tmp_path: Path, lost: str, how: str) -> None:
    marks = {"conv3d_transpose_1.weight": torch.ones(16, 1, 2, 2, 2), "encoder.patch_embed.proj.weight": torch.ones(1)}
    whole = marks | {
        "mask_token": torch.zeros(1, 1, 4),
        "encoder.layers.0.blocks.0.norm1.weight": torch.ones(4),
        "encoder.layers.0.blocks.0.attn.qkv.weight": torch.ones(12, 4),
        "encoder.layers.0.blocks.0.attn.relative_position_bias_table": torch.ones(27, 2),
        "encoder.layers.0.blocks.0.mlp.fc1.weight": torch.ones(16, 4),
        "conv3d_transpose.weight": torch.ones(4, 16, 2, 2, 2),
        "frequency_decoder.blocks.0.realconv1.weight": torch.ones(1, 1, 1, 3, 3, 3),
    }
    odd = {"empty": torch.zeros(0), "flat": torch.zeros(3)}
    weights = {k: odd.get(how, v) if k.startswith(lost) else v for k, v in whole.items()}
    if how == "missing":
        weights = {k: v for k, v in whole.items() if k in marks or not k.startswith(lost)}
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(InputError) as caught:
        load_bdfm_reference(tmp_path / "a.pt")
    assert "a.pt" in str(caught.value) and "\n" not in str(caught.value)
