import pytest
from torch import nn

from bdfm_nnunet.checkpoints.network_functions import (
    differences,
    function_of,
    marked_functions,
    norm_of,
    summary_of,
)


@pytest.mark.parametrize(
    ("theirs", "ours", "what", "grave"),
    [
        (nn.BatchNorm3d(4), nn.InstanceNorm3d(4), "norm", True),
        (nn.GroupNorm(2, 4), nn.GroupNorm(4, 4), "norm", True),
        (nn.LayerNorm(4), nn.InstanceNorm3d(4), "norm", True),
        (nn.InstanceNorm3d(4, eps=1e-3), nn.InstanceNorm3d(4), "eps", False),
        (nn.ReLU(), nn.LeakyReLU(), "activation", True),
        (nn.LeakyReLU(0.2), nn.LeakyReLU(0.01), "activation", True),
        (nn.GELU("tanh"), nn.GELU(), "activation", True),
        (nn.Conv2d(4, 4, 3), nn.Conv3d(4, 4, 3), "axes", True),
        (nn.Conv3d(4, 4, 3, groups=2), nn.Conv3d(4, 4, 3), "groups", True),
        (nn.Conv3d(4, 4, 3, dilation=2), nn.Conv3d(4, 4, 3), "dilation", True),
        (nn.Conv3d(4, 4, 3, stride=2), nn.Conv3d(4, 4, 3), "stride", False),
        (nn.MaxPool3d(2), nn.AvgPool3d(2), "pooling", True),
        (nn.MaxPool3d(3), nn.MaxPool3d(2), "kernel_size", False),
        (nn.LayerNorm(4), nn.ReLU(), "layer", True),
    ],
)
def test_what_modules_of_one_name_compute(theirs: nn.Module, ours: nn.Module, what: str, grave: bool) -> None:
    found = {each.what: each for each in differences({"a": theirs, "b": nn.ReLU()}, {"a": ours, "c": nn.GELU()})}
    assert what in found and found[what].grave is grave
    assert not differences({"a": ours}, {"a": ours})


def test_a_difference_is_told_once_for_all_places() -> None:
    theirs, ours = nn.Sequential(*[nn.ReLU()] * 1, nn.ReLU(), nn.ReLU()), nn.Sequential(nn.GELU(), nn.GELU(), nn.ReLU())
    found = differences(dict(theirs.named_modules()), dict(ours.named_modules()))
    assert [str(each) for each in found] == [
        "activation is ReLU in the checkpoint, GELU(approximate=none) here (0 and 1 more)"
    ]


def test_norms_of_other_projects_are_known_by_name() -> None:
    from dynamic_network_architectures.building_blocks.patch_encode_decode import LayerNormNd

    assert norm_of(LayerNormNd(4)) == "layer norm" and norm_of(nn.RMSNorm(4)) == "rms norm"
    assert function_of(nn.MultiheadAttention(8, 2))["heads"] == 2
    assert function_of(nn.Linear(2, 2)) == {} == function_of(nn.Sequential())


def test_summary_and_marks() -> None:
    layers = nn.Sequential(nn.BatchNorm3d(1), nn.ReLU(), nn.BatchNorm3d(1), nn.GELU())
    assert summary_of(layers) == {"norm": "batch norm", "activation": "ReLU, GELU(approximate=none)"}
    assert marked_functions(["blocks.0.attn.q_norm.weight"]) == ["normalised queries"]
    assert marked_functions(["blocks.0.attn.qkv.weight"]) == []
