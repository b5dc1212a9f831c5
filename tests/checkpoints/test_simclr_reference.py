"""Agreement with the public 3D-Neuro-SimCLR model, whose recorded outputs BDFM_GOLDEN names, and what is refused."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from bdfm_nnunet.checkpoints import SimclrReference, load_simclr_reference, prepare_for_simclr
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import Projector, ResNet18
from tests.checkpoints.simclr_weights import OUTPUTS, needs_outputs, weights_of
from tests.checkpoints.test_simclr_preparation import template

# Single precision loses digits on the way back to the first convolution: its recorded gradient is 8.9e-3 away from the
# one in double precision (norms of other gradients up to 1.7e-3), and two processors 6e-4 from one another.
TOLERANCES = {"encoder.conv1.weight": 1e-2}
NARROW = OUTPUTS / "simclr_resnet18.narrow_checkpoint.tar"


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(OUTPUTS / "simclr_resnet18.safetensors")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((OUTPUTS / "simclr_resnet18.json").read_text())
    return facts


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    with torch.device("meta"):
        model = SimclrReference(ResNet18(), Projector(512))
    return weights_of(model)


@pytest.fixture
def model(released: dict[str, Tensor]) -> SimclrReference:
    return load_simclr_reference(released)


def _agree(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert ((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)).item() < tolerance


# --------------------------------------------------------------------------------------------- the recorded outputs


@needs_outputs
def test_the_formula_is_the_recorded_one(released: dict[str, Tensor], facts: dict[str, Any]) -> None:
    assert [[name, list(value.shape), str(value.dtype)[6:]] for name, value in released.items()] == facts["state_dict"]
    for name, values in facts["first_values"].items():
        torch.testing.assert_close(released[name].flatten()[:3], torch.tensor(values), rtol=0, atol=0)
    for name, total in facts["sum_abs"].items():
        assert released[name].double().abs().sum().item() == pytest.approx(total, rel=1e-12)


@needs_outputs
@pytest.mark.parametrize("size", ["even", "odd", "min"])
def test_features_and_projection(model: SimclrReference, golden: dict[str, Tensor], size: str) -> None:
    with torch.no_grad():
        features = model.features(golden[f"x_{size}"])
        _agree(features, golden[f"eval_features_{size}"], 1e-5)
        _agree(model.project(features), golden[f"eval_projection_{size}"], 1e-5)


@needs_outputs
def test_every_stage(model: SimclrReference, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        _agree(model.encoder.conv1(golden["x_min"])[:, :1], golden["eval_min_conv1_ch0"], 1e-5)
        finest, *stages = model.encoder(golden["x_min"])
        _agree(model.encoder.maxpool(finest), golden["eval_min_stem"], 1e-5)
    for number, stage in enumerate(stages, start=1):
        _agree(stage, golden[f"eval_min_layer{number}"], 1e-5)


@needs_outputs
def test_the_bias_of_the_shortcuts_counts(
    released: dict[str, Tensor], golden: dict[str, Tensor], facts: dict[str, Any]
) -> None:
    without = {n: v * 0 if n.endswith("downsample.0.bias") else v for n, v in released.items()}
    with torch.no_grad():
        features = load_simclr_reference(without).features(golden["x_even"])
    expected = golden["eval_features_even"]
    moved = ((features - expected).norm() / expected.norm()).item()
    assert moved == pytest.approx(facts["relative_error_if_shortcut_bias_dropped_eval"], rel=1e-2)


def _nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """The loss row by row, mean over both views of each pair."""
    views, pairs = functional.normalize(torch.cat([first, second]), dim=1), len(first)
    scores = (views @ views.T / temperature).fill_diagonal_(-torch.inf)
    partners = torch.arange(2 * pairs).roll(pairs)
    return functional.cross_entropy(scores, partners)


def _step(model: SimclrReference, golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """One forward per view and the loss of the pairs, as the public code has it."""
    found: dict[str, Tensor] = {}
    for name, view in (("i", "view1"), ("j", "view2")):
        found[f"h{name}"] = model.features(golden[view])
        found[f"z{name}"] = model.project(found[f"h{name}"])
    for value in found.values():
        value.retain_grad()
    found["loss"] = _nt_xent(found["zi"], found["zj"])
    found["loss"].backward()
    return found


@needs_outputs
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_training_with_one_forward_per_view(
    model: SimclrReference, golden: dict[str, Tensor], facts: dict[str, Any], precision: torch.dtype
) -> None:
    """In double precision no processor changes a digit: what differs then is the rounding of the recorded values."""
    found = _step(model.train().to(precision), {name: value.to(precision) for name, value in golden.items()})
    assert found.pop("loss").item() == pytest.approx(facts["train"]["loss"], rel=1e-4)
    for name, value in found.items():
        _agree(value.detach(), golden[f"train_{name}"], 1e-4)
        assert value.grad is not None
        _agree(value.grad, golden[f"train_grad_{name}"], 1e-4)
    parameters, state = dict(model.named_parameters()), model.state_dict()
    norms = facts["train"]["grad_norms"]
    assert set(norms) == set(parameters)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        if norms[name] > 1e-5:  # those of the shortcuts' biases are rounding errors
            assert parameter.grad.norm().item() == pytest.approx(norms[name], rel=2e-3), name
    for name, value in golden.items():
        kind, _, key = name.partition(".")
        if kind == "train_after":
            _agree(state[key], value, 1e-4)
        elif kind == "train_grad" and value.norm() > 1e-5:
            grad = parameters[key].grad
            assert grad is not None
            _agree(grad, value, TOLERANCES.get(key, 1e-4))
    assert state["encoder.bn1.num_batches_tracked"] == 9  # 7 and two views


@needs_outputs
def test_both_views_in_one_forward(model: SimclrReference, golden: dict[str, Tensor]) -> None:
    views = torch.cat([golden["view1"], golden["view2"]])
    _agree(model.train().features(views).detach(), golden["train_joint_h"], 1e-4)


@needs_outputs
@pytest.mark.slow
def test_four_steps_of_adam(model: SimclrReference, golden: dict[str, Tensor], facts: dict[str, Any]) -> None:
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-4)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(_step(model, golden)["loss"].item())
        optimizer.step()
    assert losses == pytest.approx(facts["train"]["losses_of_4_adam_steps"], rel=1e-4)
    with torch.no_grad():
        _agree(model.eval().features(golden["x_min"]), golden["after_4_steps_eval_features_min"], 2e-2)


@needs_outputs
def test_a_packed_checkpoint_of_other_widths(golden: dict[str, Tensor]) -> None:
    model = load_simclr_reference(NARROW)
    assert sum(parameter.numel() for parameter in model.parameters()) == 529_880 and not model.training
    with torch.no_grad():
        features = model.features(golden["x_even"])
        _agree(features, golden["narrow_eval_features_even"], 1e-5)
        _agree(model.project(features), golden["narrow_eval_projection_even"], 1e-5)


@needs_outputs
@pytest.mark.slow
def test_a_whole_volume(model: SimclrReference, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        _agree(model.features(prepare_for_simclr(*template())), golden["full_features"], 1e-3)


# -------------------------------------------------------------------------------------------- without these outputs


@pytest.fixture(scope="module")
def narrow() -> dict[str, Tensor]:
    model = SimclrReference(ResNet18(features=(2, 3, 4, 5)), Projector(5, 6, 7))
    return weights_of(model)


def _packed(weights: dict[str, Tensor], prefix: str = "module.") -> dict[str, Any]:
    named = {prefix + name: value for name, value in weights.items()}
    return {"epoch": 150, "model_state_dict": named, "optimizer_state_dict": {"state": {}, "param_groups": []}}


@pytest.mark.parametrize("prefix", ["module.", "", "module._orig_mod."])
def test_every_packing_gives_the_same(tmp_path: Path, narrow: dict[str, Tensor], prefix: str) -> None:
    torch.save(_packed(narrow, prefix), tmp_path / "a.tar")
    images = torch.randn(2, 1, 16, 17, 18)
    expected = load_simclr_reference(narrow)
    before = expected.features(images)
    for source in (tmp_path / "a.tar", str(tmp_path / "a.tar"), _packed(narrow, prefix)):
        model = load_simclr_reference(source)
        assert not model.training and torch.equal(model.features(images), before)
        assert torch.equal(model.project(before), expected.project(before))
    assert before.shape == (2, 5) and expected.project(before).shape == (2, 7)


def test_an_encoder_alone_has_no_projection(narrow: dict[str, Tensor]) -> None:
    encoder = {name: value for name, value in narrow.items() if name.startswith("encoder.")}
    images = torch.randn(1, 1, 16, 16, 16)
    for weights in (encoder, {name.removeprefix("encoder."): value for name, value in encoder.items()}):
        model = load_simclr_reference(weights)
        assert torch.equal(model(images), load_simclr_reference(narrow).features(images))
        with pytest.raises(InputError, match="an encoder alone"):
            model.project(torch.zeros(1, 5))


def test_what_was_given_is_not_shared(narrow: dict[str, Tensor]) -> None:
    model = load_simclr_reference(narrow)
    before = narrow["encoder.bn1.running_mean"].clone()
    model.train().features(torch.randn(2, 1, 16, 16, 16))
    assert torch.equal(narrow["encoder.bn1.running_mean"], before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_becomes_single(narrow: dict[str, Tensor]) -> None:
    halves = {name: value.half() if value.is_floating_point() else value for name, value in narrow.items()}
    assert all(parameter.dtype is torch.float32 for parameter in load_simclr_reference(halves).parameters())


@pytest.mark.parametrize("shape", [(1, 16, 16, 16), (1, 2, 16, 16, 16)])
def test_other_images_are_refused(narrow: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a batch of 1 channel"):
        load_simclr_reference(narrow).features(torch.zeros(shape))


def _faults(weights: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Any], str]]:
    def without(*names: str) -> dict[str, Tensor]:
        return {name: value for name, value in weights.items() if name not in names}

    first = "encoder.conv1.weight"
    yield "a bias", without("encoder.layer3.0.downsample.0.bias"), "lacks encoder.layer3.0.downsample.0.bias"
    yield "the first", without(first), f"lacks {first}"
    yield "half a projector", without("projector.2.weight"), "lacks projector.2.weight"
    yield "a buffer", without("encoder.bn1.num_batches_tracked"), "lacks encoder.bn1.num_batches_tracked"
    yield "more", weights | {"encoder.fc.weight": torch.zeros(1, 5)}, "also holds encoder.fc.weight"
    yield "a shape", weights | {"encoder.bn1.weight": torch.ones(7)}, r"encoder.bn1.weight has the shape \(7,\)"
    yield "a kernel", weights | {first: torch.ones(2, 1, 3, 3, 3)}, r"expected \(2, 1, 7, 7, 7\)"
    yield "a flat kernel", weights | {first: torch.ones(3)}, "no checkpoint of 3D-Neuro-SimCLR"
    yield "a number", weights | {"encoder.layer1.1.conv2.weight": torch.tensor(1.0)}, "no checkpoint of"
    yield "NaN", weights | {"encoder.bn1.weight": torch.tensor([1.0, torch.nan])}, "not finite"
    yield "nothing", {}, "no named tensors"
    yield "another network", {"layers.0.blocks.0.attn.qkv.weight": torch.ones(3, 1)}, f"lacks {first}"
    yield "meta", weights | {first: torch.ones(2, 1, 7, 7, 7, device="meta")}, "no values"


def test_faulty_weights_are_refused_in_one_sentence(tmp_path: Path, narrow: dict[str, Tensor]) -> None:
    for number, (what, weights, message) in enumerate(_faults(narrow)):
        sources: list[Any] = [weights]
        if what != "meta":
            torch.save(_packed(weights), tmp_path / f"{number}.tar")
            sources.append(tmp_path / f"{number}.tar")
        for source in sources:
            with pytest.raises(InputError, match=message) as caught:
                load_simclr_reference(source)
            assert "\n" not in str(caught.value), what
            assert isinstance(source, dict) or f"{number}.tar" in str(caught.value)


def test_archives_and_pieces_of_files_are_refused(tmp_path: Path, narrow: dict[str, Tensor]) -> None:
    torch.save(_packed(narrow), tmp_path / "a.pth")
    with tarfile.open(tmp_path / "real.tar", "w") as archive:
        archive.add(tmp_path / "a.pth", arcname="a.pth")
    with tarfile.open(tmp_path / "real.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "cut.tar").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.tar").write_bytes(b"")
    messages = {"real.tar": "unpack it", "real.tar.gz": "unpack it", "cut.tar": "copy it anew", "empty.tar": "empty"}
    for name, message in {**messages, "missing.tar": "missing.tar"}.items():
        with pytest.raises(InputError, match=message) as caught:
            load_simclr_reference(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
