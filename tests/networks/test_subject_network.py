"""Networks of whole subjects: pooling, what positions add, and memory."""

from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.encoders import suited_optimizer
from bdfm_nnunet.networks.subject_network import SubjectNetwork, build_subject_network
from tests.networks.tiny_storm import SIZES, tiny_storm
from tests.networks.zoo import network


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("kind", ["swin", "resenc", "plain", "resnet18"])
def test_contributions_add_up_to_the_outputs(kind: str, pooling: Any) -> None:
    net = SubjectNetwork(encoder_of(network(kind, 2)), 3, pooling=pooling).eval()
    bags = torch.rand(2, 3, 2, 32, 32, 32)
    with torch.no_grad():
        outputs, parts = net(bags), net.contributions(bags)
    assert parts.shape[:3] == (2, 3, 3) and parts.ndim == 6
    assert torch.allclose(parts.sum((1, 3, 4, 5)) + net.head.bias, outputs, atol=1e-5)
    assert parts.std() > 0


def test_the_order_of_crops_does_not_matter_but_their_content_does() -> None:
    net = SubjectNetwork(encoder_of(network("resenc", 1)), 1, pooling="attention").eval()
    bags = torch.rand(1, 4, 1, 32, 32, 32)
    changed = bags.clone()
    changed[:, 2, :, 8:24] += 3
    with torch.no_grad():
        assert torch.allclose(net(bags), net(bags[:, [2, 0, 3, 1]]), atol=1e-5)
        assert not torch.allclose(net(bags), net(changed), atol=1e-4)


def test_crops_in_parts_give_the_same_gradient() -> None:
    together = SubjectNetwork(encoder_of(network("resenc", 1)), 2, pooling="attention")
    apart = SubjectNetwork(encoder_of(network("resenc", 1)), 2, pooling="attention", crops_at_once=2)
    apart.load_state_dict(together.state_dict())
    bags = torch.rand(1, 5, 1, 32, 32, 32)
    for net in (together, apart):
        net(bags).square().sum().backward()
    own = dict(apart.named_parameters())
    for name, parameter in together.named_parameters():
        assert parameter.grad is not None and own[name].grad is not None, name
        assert torch.allclose(own[name].grad, parameter.grad, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("kind", ["swin", "resenc"])
def test_it_is_trained_by_adamw(kind: str) -> None:
    assert suited_optimizer(SubjectNetwork(encoder_of(network(kind, 1)), 1)) == "adamw"


def test_batch_norms_see_all_crops_at_once() -> None:
    assert SubjectNetwork(encoder_of(network("resnet18", 1)), 1, crops_at_once=1).crops_at_once is None


@pytest.mark.parametrize("kind", ["swin", "resenc"])
def test_weights_of_a_segmentation_network_fit(kind: str, tmp_path: Any) -> None:
    source = network(kind, 1)
    torch.save({"network_weights": source.state_dict()}, tmp_path / "weights.pth")
    net = SubjectNetwork(encoder_of(network(kind, 1)), 1)
    report = load_pretrained(net, tmp_path / "weights.pth")
    assert report.encoder_share == 1
    images = torch.rand(1, 1, 32, 32, 32)
    wanted = encoder_of(source).module.eval()(images)[-1]
    assert torch.equal(net.encoder.eval()(images)[-1], wanted)


def _of_runs(**options: Any) -> SubjectNetwork:
    encoder = tiny_storm()
    torch.manual_seed(1)
    return SubjectNetwork(encoder_of(encoder), 3, **options).eval()


RUN_HEADS: list[dict[str, Any]] = [{}, {"pooling": "attention"}, {"head": "v1"}, {"head": "v2"}, {"head": "v3"}]


@pytest.mark.parametrize("options", RUN_HEADS, ids=str)
def test_clips_of_a_run_are_computed_alone_and_averaged(options: dict[str, Any]) -> None:
    net, clips = _of_runs(**options), torch.randn(2, 3, 1, 8, 8, 8, 4)
    with torch.no_grad():
        outputs, vectors = net(clips), net.embeddings(clips)
        alone = [net(clips[:, at : at + 1]) for at in range(3)]
        assert outputs.shape == (2, 3) and net.shows_clips
        assert torch.allclose(outputs, torch.stack(alone).mean(0), atol=1e-5) and outputs.std() > 0
        assert torch.allclose(net.head(vectors), outputs, atol=1e-5)
        assert net(clips[:1, :1, ..., :3]).shape == (1, 3)  # one shorter clip of one run keeps all outputs
        parts = SubjectNetwork(encoder_of(net), 3, crops_at_once=2, **options).eval()
        parts.load_state_dict(net.state_dict())
        assert torch.allclose(parts(clips), outputs, atol=1e-5)


@pytest.mark.parametrize("options", RUN_HEADS, ids=str)
def test_contributions_of_clips_add_up_to_the_outputs(options: dict[str, Any]) -> None:
    net, clips = _of_runs(**options), torch.randn(2, 3, 1, 8, 8, 8, 4)
    if options.get("head") == "v3":
        with pytest.raises(ValueError, match="no sums"):
            net.contributions(clips)
        return
    with torch.no_grad():
        parts, outputs, bias = net.contributions(clips), net(clips), net.head.bias
        if options.get("head") == "v2":
            bias = bias + net.head.weight @ net.neck.bias  # type: ignore[union-attr, operator]
    assert parts.shape == (2, 3, 3, 2, 2, 2, 4) and parts.std() > 0
    assert torch.allclose(parts.sum((1, 3, 4, 5, 6)) + bias, outputs, atol=1e-5)


def test_heads_of_clips_are_for_runs_alone() -> None:
    with pytest.raises(ValueError, match="head v1 is for runs"):
        SubjectNetwork(encoder_of(network("resenc", 1)), 2, head="v1")


def test_the_first_head_is_linear_after_the_plain_mean() -> None:
    net, clips = _of_runs(head="v1"), torch.randn(2, 1, 1, 8, 8, 8, 4)
    with torch.no_grad():
        plain = net.encoder(clips[:, 0])[-1].flatten(2).mean(2)
        assert torch.allclose(net(clips), plain @ net.head.weight.T + net.head.bias, atol=1e-6)
        assert not torch.allclose(_of_runs()(clips), net(clips))


def test_a_network_of_runs_from_plans() -> None:
    names = {"image_size": "input_shape", "features": "features_per_stage"}
    sizes = {names.get(key, key): value for key, value in SIZES.items() if key not in ("patch_size", "merging")}
    sizes["strides"] = ((1, 1, 1, 1), (2, 2, 2, 1), (2, 2, 2, 1))
    architecture = {
        "network_class_name": "bdfm_nnunet.networks.neurostorm_network.NeuroSTORM", "arch_kwargs": sizes,
        "_kw_requires_import": [],
    }  # fmt: skip
    configuration = {"architecture": architecture, "batch_size": 2}
    built = build_subject_network(configuration, inputs=1, outputs=1, pooling="mean", head="v3", dropout=0.2)
    assert built.neck is not None and built.crops_at_once == 2 and built.dropout.p == 0.2
    names_of_encoder = {name for name in built.state_dict() if name.startswith("encoder.")}
    assert names_of_encoder == {f"encoder.{name}" for name in tiny_storm().state_dict()}
    wide = {"architecture": {**architecture, "arch_kwargs": {**sizes, "features_per_stage": (2, 4)}}, "batch_size": 2}
    with pytest.raises(InputError, match=r"mine\.json: head v3 has 8 heads"):
        build_subject_network(wide, inputs=1, outputs=1, pooling="mean", head="v3", name="mine.json")
