import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from bdfm_nnunet.networks import SwinUNet

KWARGS = {
    "strides": [[1, 1, 1], [2, 4, 4], [1, 2, 2]],
    "features_per_stage": [8, 16, 32],
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": [4, 4, 4],
}


def _network(channels: int = 2, classes: int = 3, **changes: object) -> SwinUNet:
    torch.manual_seed(0)
    return SwinUNet(channels, classes, **(KWARGS | changes))  # type: ignore[arg-type]


def test_outputs_follow_the_strides_as_nnunet_expects() -> None:
    outputs = _network(deep_supervision=True)(torch.randn(1, 2, 8, 32, 32))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, 8, 32, 32), (1, 3, 4, 8, 8)]


def test_deep_supervision_is_switched_at_the_decoder() -> None:
    network = _network(deep_supervision=True).eval()
    images = torch.randn(1, 2, 8, 32, 32)
    finest = network(images)[0]
    network.decoder.deep_supervision = False
    assert torch.equal(network(images), finest)


@pytest.mark.parametrize("size", [(7, 30, 33), (8, 32, 32), (3, 5, 6)])
def test_any_size_comes_back(size: tuple[int, ...]) -> None:
    network = _network(deep_supervision=True)
    outputs = network(torch.randn(1, 2, *size))
    assert tuple(outputs[0].shape[2:]) == size
    assert tuple(outputs[1].shape[2:]) == tuple(-(-n // step) for n, step in zip(size, (2, 4, 4), strict=True))


def test_nnunet_builds_it_from_plans() -> None:
    network = get_network_from_plans(
        "bdfm_nnunet.networks.swin_unet.SwinUNet", KWARGS, [], 4, 3, allow_init=True, deep_supervision=True
    )
    assert isinstance(network, SwinUNet) and network.decoder.deep_supervision
    assert network.encoder.in_channels == 4


def test_nnunet_loads_its_weights_for_other_classes(tmp_path) -> None:
    torch.save({"network_weights": _network(classes=3).state_dict()}, tmp_path / "a.pth")
    network = _network(classes=5)
    torch.nn.init.zeros_(network.stem.convs[0][0].weight)
    load_pretrained_weights(network, str(tmp_path / "a.pth"))
    assert torch.equal(network.stem.convs[0][0].weight, _network().stem.convs[0][0].weight)


def test_two_axes() -> None:
    network = _network(strides=[[1, 1], [4, 4], [2, 2]], window_size=[4, 4])
    assert network(torch.randn(1, 2, 32, 32)).shape == (1, 3, 32, 32)


def test_convolutions_per_decoder_stage() -> None:
    counts = [len(stage.convs) for stage in _network(n_conv_per_stage_decoder=[3, 1]).decoder.stages]
    assert counts == [3, 1]


def test_settings_reach_the_encoder() -> None:
    network = _network(drop_path_rate=0.3, mlp_ratio=2.0, gradient_checkpointing=True, legacy=True)
    stage = network.encoder.stages[-1]
    assert stage.checkpointing and stage.blocks[-1].drop_path == pytest.approx(0.3)
    assert stage.blocks[-1].mlp[0].out_features == 64 and stage.blocks[-1].attn.legacy


def test_every_parameter_learns() -> None:
    network = _network(deep_supervision=True)
    sum(output.square().mean() for output in network(torch.randn(1, 2, 8, 32, 32))).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": [[2, 2, 2], [4, 4, 4], [2, 2, 2]]},
        {"features_per_stage": [8, 16]},
        {"n_conv_per_stage_decoder": [1]},
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must start with ones|decoder has 2 stages"):
        _network(**changes)


def test_compiles_as_one_graph_with_the_same_results() -> None:
    torch._dynamo.reset()  # other sizes compiled before would make sizes symbols, which break the graph at the windows
    network = _network().eval()
    images = torch.randn(1, 2, 8, 32, 32)
    results = []
    for run in (network, torch.compile(network, fullgraph=True, dynamic=False, backend="aot_eager")):
        network.zero_grad()
        output = run(images)
        output.square().mean().backward()
        gradients = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
        results.append((output.detach(), gradients))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-3)
    assert len(results[0][1]) > 50
