"""The published preparation of a run: its golden frames, and its rules one by one."""

import os
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion.writing.published_preparation import padded_clip, published_preparation

GOLDEN = Path(os.environ.get("BDFM_GOLDEN", "")) / "neurostorm_small.safetensors"


@pytest.mark.skipif(not GOLDEN.is_file(), reason="BDFM_GOLDEN does not name the golden tensors")
@pytest.mark.parametrize("kind", ["nomask", "mask"])
def test_golden(kind: str) -> None:
    from safetensors.numpy import load_file

    golden = load_file(GOLDEN)
    mask = golden["prep.mask"] > 0 if kind == "mask" else None
    frames, scale = published_preparation(golden[f"prep.{kind}.raw"], (4.0, 4.0, 4.0), 1.6, mask)
    assert scale == pytest.approx(float(golden[f"prep.{kind}.scale"].item()), rel=1e-5)
    expected = golden[f"prep.{kind}.frames_int8"].transpose(1, 2, 3, 0).astype(int)
    steps = np.abs(frames[::2].astype(int) - expected)
    assert steps.max() <= 1 and (steps == 0).mean() >= 0.999
    clip = padded_clip(frames[..., 3:7], scale)
    expected = golden[f"prep.{kind}.clip_3_to_7_padded_sub"][0].astype(np.float32)
    np.testing.assert_allclose(clip[::3, ::3, ::3, ::2], expected, atol=1.1 * scale)


def _by_torch(values: np.ndarray, sizes: tuple[int, ...]) -> np.ndarray:
    import torch
    from torch.nn.functional import interpolate

    frames = torch.from_numpy(values).permute(3, 0, 1, 2)[:, None]
    frames = interpolate(frames, sizes[:3], mode="trilinear")[:, 0].permute(1, 2, 3, 0)
    flat = interpolate(frames.reshape(1, -1, values.shape[3]), sizes[3], mode="linear")
    return flat.reshape(sizes).numpy()


def test_it_does_what_its_steps_say() -> None:
    """A slow transcription of the rules, with torch's own resizing."""
    random = np.random.default_rng(0)
    values = random.normal(100, 40, (9, 52, 7, 5)).astype(np.float32)
    mask = random.random((9, 52, 7)) > 0.4
    sizes = (18, 104, 14, 8)
    frames = _by_torch(values, sizes)[:, 4:100]
    brain = _by_torch(mask[..., None].astype(np.float32), (*sizes[:3], 1))[:, 4:100, :, 0] > 0
    frames[~brain] = 0
    frames[frames < 0] = 0
    inside = frames[brain]
    frames = (frames - inside.mean()) / inside.std(ddof=1)
    frames[~brain] = frames[brain].min()
    found, scale = published_preparation(values, (4.0, 4.0, 4.0), 1.28, mask)
    assert found.shape == (18, 96, 14, 8) and np.abs(found).max() == 127
    np.testing.assert_allclose(found * scale, frames, atol=0.51 * scale)


def test_without_a_mask_zeros_are_background_frame_by_frame() -> None:
    values = np.random.default_rng(0).uniform(50, 90, (6, 6, 6, 4)).astype(np.float32)
    values[0, 0, 0, 2] = 0
    found, _ = published_preparation(values, (2.0, 2.0, 2.0), 0.8)
    assert found[0, 0, 0, 2] == found.min() < found[0, 0, 0, 1]


def test_a_clip_is_padded_by_the_larger_half_before() -> None:
    frames = np.random.default_rng(0).integers(-127, 128, (91, 96, 5, 2)).astype(np.int8)
    clip = padded_clip(frames, 0.5)
    assert clip.shape == (96, 96, 96, 2)
    np.testing.assert_array_equal(clip[3:94, :, 46:51], frames * 0.5)
    assert (clip[:3] == frames[0, 0, 0, 0] * 0.5).all() and (clip[..., 51:, :] == frames[0, 0, 0, 0] * 0.5).all()
