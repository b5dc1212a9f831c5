"""Every voxel of an image is hidden when it is rebuilt, and comes from the mask that is chosen for it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
from bdfm_nnunet.data.batch_streams import generator_of
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.probes.masked_model import MaskedModel
from bdfm_nnunet.probes.whole_rebuilding import rebuild_whole, windows
from bdfm_nnunet.settings import PretrainingSettings
from tests.networks.zoo import network

CROP = (16, 16, 16)
CHECKPOINT = checkpoint_of(Path("made-up.pth"), {"weight": torch.zeros(2)})


class Spy(MaskedImageModelling):
    """Rebuilds each voxel as 100 where it was hidden, and as NaN where it was seen."""

    def reconstruct(
        self, images: torch.Tensor, *, mask: torch.Tensor, only_pixel: bool = False
    ) -> dict[str, torch.Tensor]:
        self.shown.append((images, mask))
        hidden = mask
        for axis, step in enumerate(self.patch_size, start=1):
            hidden = hidden.repeat_interleave(step, dim=axis)
        return {"pixel": torch.where(hidden[:, None], 100.0, math.nan).expand(images.shape), "frequency": 0 * images}


def _model(channels: int = 1, kind: type[MaskedImageModelling] = Spy, **settings: Any) -> MaskedModel:
    torch.manual_seed(0)
    objective = kind(encoder_of(network("swin", channels)), PretrainingSettings(**settings)).eval()
    objective.shown = []
    return MaskedModel(objective=objective, checkpoint=CHECKPOINT, crop=CROP, single_channel=channels == 1)


def _image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("size", [(16, 16, 16), (20, 35, 12)])
def test_every_voxel_was_hidden_when_it_was_rebuilt(ratio: float, size: tuple[int, ...]) -> None:
    model, image = _model(mask_ratio=ratio), _image(2, *size)
    found = rebuild_whole(model, image, torch.ones(size, dtype=torch.bool), generator=generator_of(0))
    assert torch.equal(found.image, torch.full((2, *size), 100.0))
    shares = [mask.float().mean().item() for _, mask in model.objective.shown]
    assert max(shares) == min(shares) == pytest.approx(ratio, abs=0.01)  # that of the training, in every pass
    assert 0.5 * ratio < found.hidden.float().mean() < min(1.5 * ratio, 1)


def test_channels_are_images_or_one_image() -> None:
    image = _image(2, *CROP)
    everything = torch.ones(CROP, dtype=torch.bool)
    for model, shape in ((_model(), (2, 1, *CROP)), (_model(2), (1, 2, *CROP))):
        found = rebuild_whole(model, image, everything, generator=generator_of(0))
        assert {images.shape for images, _ in model.objective.shown} == {torch.Size(shape)}
        assert torch.equal(model.objective.shown[0][0].reshape(2, *CROP), image) and found.image.shape == image.shape


def test_windows_without_anything_wanted_stay_as_they_are() -> None:
    image, wanted = _image(1, 32, 16, 16), torch.zeros(32, 16, 16, dtype=torch.bool)
    wanted[20, 3, 4] = True
    model = _model()
    found = rebuild_whole(model, image, wanted, generator=generator_of(0))
    assert torch.equal(found.image[:, :16], image[:, :16]) and not found.hidden[:16].any()
    assert (found.image[:, 16:] == 100).all() and len(model.objective.shown) == 2


def test_the_mean_of_what_is_visible_fills_the_rest() -> None:
    model, image = _model(mask_ratio=0.5), _image(1, *CROP)
    found = rebuild_whole(model, image, torch.ones(CROP, dtype=torch.bool), generator=generator_of(0))
    means = sorted(found.filled.unique().tolist())
    expected = []
    for images, mask in model.objective.shown:
        hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        expected.append(images[:, 0][~hidden].mean().item())
    assert means == pytest.approx(sorted(expected), abs=1e-6)


def test_the_generator_decides_the_masks() -> None:
    model = _model(kind=MaskedImageModelling, decoder_channels=8)
    with torch.no_grad():
        for parameter in model.objective.parameters():
            parameter.normal_(std=0.2)
    image, everything = _image(1, *CROP), torch.ones(CROP, dtype=torch.bool)
    found = [rebuild_whole(model, image, everything, generator=generator_of(key)).image for key in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    other = rebuild_whole(model, image, everything, generator=generator_of(0), output="frequency").image
    assert not torch.equal(found[0], other)


def test_windows_cover_evenly() -> None:
    assert list(windows((16, 40), (16, 16))) == [(0, 0), (0, 12), (0, 24)]
    assert list(windows((5,), (16,))) == [(-6,)]
