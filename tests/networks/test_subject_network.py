"""Networks of whole subjects: pooling, what positions add, and memory."""

from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.encoders import suited_optimizer
from bdfm_nnunet.networks.subject_network import SubjectNetwork
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
