from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.readers.public_bdfm_reader import PUBLIC_BDFM, PublicBdfmReader
from bdfm_nnunet.exposure import Exposure

WEIGHTS = {"conv3d_transpose_1.weight": torch.ones(1), "encoder.patch_embed.proj.weight": torch.ones(1)}


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_it_is_recognised_by_its_names(prefix: str) -> None:
    weights = {prefix + name: value for name, value in WEIGHTS.items()}
    for content in (weights, {"state_dict": weights}, {"network_weights": weights}):
        assert PublicBdfmReader().recognises(content)
    assert not PublicBdfmReader().recognises({"state_dict": dict([*weights.items()][:1])})
    assert not PublicBdfmReader().recognises({5: torch.ones(1)})  # type: ignore[dict-item]


def _exposure(tmp_path: Path, content: Any) -> Exposure:
    torch.save(content, tmp_path / "a.pt")
    return Exposure.of_checkpoint(read_checkpoint(tmp_path / "a.pt"))


def test_its_training_is_known_unless_the_file_says_better(tmp_path: Path) -> None:
    assert _exposure(tmp_path, {"state_dict": WEIGHTS}) == Exposure((PUBLIC_BDFM,))
    own = {"format": 1, "runs": [{"dataset": "Ours"}]}
    assert _exposure(tmp_path, {"state_dict": WEIGHTS, "bdfm_exposure": own}).runs == ({"dataset": "Ours"},)
    assert "a form that this version does not know" in _exposure(tmp_path, WEIGHTS | {"bdfm_exposure": 7}).note


def test_its_images_are_the_third_axis_first() -> None:
    """The public code turns (x, y, z) into (z, x, y); nnU-Net's arrays are (z, y, x)."""
    images = PublicBdfmReader().origin(WEIGHTS).images
    assert images is not None and images.normalisation == ("RescaleTo01Normalization",)
    volume = torch.arange(24).reshape(2, 3, 4)  # x, y, z
    theirs = volume[None, None].permute(0, 1, 4, 2, 3)[0, 0]
    assert torch.equal(volume.permute(2, 1, 0).permute(images.axes), theirs)
