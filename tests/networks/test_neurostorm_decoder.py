import pytest
import torch

from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.neurostorm_decoder import NeurostormDecoder, PatchExpanding


def test_channels_become_neighbours() -> None:
    torch.manual_seed(0)
    expanding = PatchExpanding(6, 5, (2, 3, 1))
    tokens = torch.randn(2, 3, 2, 4, 6)
    out = expanding(tokens)
    assert out.shape == (2, 6, 6, 4, 5)
    wide = tokens @ expanding.expand.weight.T
    for x, y, t in ((0, 0, 0), (3, 5, 1), (5, 2, 3)):
        number = (x % 2) * 3 + y % 3
        expected = expanding.norm(wide[1, x // 2, y // 3, t, 5 * number : 5 * number + 5])
        torch.testing.assert_close(out[1, x, y, t], expected)


@pytest.mark.parametrize("options", [{}, {"legacy": True, "both_directions": True, "gradient_checkpointing": True}])
def test_it_mirrors_the_encoder(options: dict[str, bool]) -> None:
    encoder = NeurostormEncoder(
        2, image_size=(8, 8, 4, 6), patch_size=(2, 2, 1, 1), features=(4, 6, 8), depths=(1, 3, 2),
        window_size=(2, 2, 2, 4), merging=((2, 2, 1, 1), (2, 2, 2, 1)), mlp_ratio=3, **options,
    )  # fmt: skip
    decoder = NeurostormDecoder(encoder)
    assert [len(stage.blocks) for stage in decoder.stages] == [3, 1]
    assert [each.expand.weight.shape for each in decoder.expanding] == [(8 * 6, 8), (4 * 4, 6)]
    block = decoder.stages[0].blocks[1]
    assert (block.window_size, block.shifted, block.legacy) == ((2, 2, 2, 4), True, bool(options))
    assert (block.mamba.reverse_gate is not None, decoder.stages[0].checkpointing) == (bool(options), bool(options))
    assert block.mlp[0].weight.shape == (18, 6)
    images = decoder(encoder(torch.randn(1, 2, 8, 8, 4, 5))[-1])
    assert images.shape == (1, 2, 8, 8, 4, 5)
    images.square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
