import torch

from bdfm_nnunet.data.views import mirrored


def test_mirrored_reverses_the_axes_that_were_drawn() -> None:
    images = torch.arange(3 * 2 * 3 * 4 * 5).reshape(3, 2, 3, 4, 5)
    flips = torch.tensor([[False, False, False], [True, False, True], [False, True, False]])
    result = mirrored(images, flips)
    assert torch.equal(result[0], images[0])
    assert torch.equal(result[1], images[1].flip(1, 3))
    assert torch.equal(result[2], images[2].flip(2))
    result.zero_()
    assert images.any()
