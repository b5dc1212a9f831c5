import torch
from torch import Tensor

from bdfm_nnunet.intensity_changes import blurred
from bdfm_nnunet.objectives.clip_augmentation import changed_clips, draw_clip_changes, moved
from bdfm_nnunet.objectives.view_geometry import sampled
from bdfm_nnunet.settings import SequenceSettings

CLIPS = torch.randn(3, 2, 10, 9, 8, 5, generator=torch.Generator().manual_seed(0))
_OFF = {"p_affine": 0.0, "p_noise": 0.0, "p_smoothing": 0.0}


def _draw(
    batch: int = 3, seed: int = 0, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), **options: object
) -> dict[str, Tensor]:
    settings = SequenceSettings(**_OFF | options)  # type: ignore[arg-type]
    return draw_clip_changes(
        batch, CLIPS.shape[2:], settings, spacing=spacing, generator=torch.Generator().manual_seed(seed)
    )


def test_every_frame_and_channel_is_moved_by_the_same_map() -> None:
    drawn = _draw(p_affine=1.0)
    found = changed_clips(CLIPS, drawn)
    for channel in range(2):
        for frame in range(5):
            image = CLIPS[:, channel : channel + 1, ..., frame]
            expected = sampled(image, drawn["matrix"], image.shape[2:], outside="edge")
            torch.testing.assert_close(found[:, channel : channel + 1, ..., frame], expected)
    assert not torch.isclose(found[0], changed_clips(CLIPS.flip(0), drawn)[0]).any(-1).all()


def test_noise_of_frames_is_independent_and_as_strong_as_asked_for() -> None:
    drawn = _draw(p_noise=1.0, noise=0.2)
    brain = torch.zeros(3, 10, 9, 8, dtype=torch.bool)
    brain[:, 2:8, 2:7] = True
    clips = 3 * CLIPS
    noise = (changed_clips(clips, drawn, brain=brain) - clips).movedim(-1, 1).flatten(2)  # (B, T, voxels)
    for each, clip in zip(noise, clips, strict=True):
        correlations = torch.corrcoef(each) - torch.eye(5)
        assert correlations.abs().max() < 0.1 and correlations.sum().abs() / 20 < 0.05
        for channel, deviation in enumerate(each.unflatten(1, (2, -1)).std((0, 2))):
            expected = 0.2 * clip[channel, 2:8, 2:7].std()
            torch.testing.assert_close(deviation, expected, rtol=0.05, atol=0)
    published = (changed_clips(CLIPS, drawn, same_noise=True) - CLIPS).movedim(-1, 1).flatten(2)
    torch.testing.assert_close(published, published[:, :1].expand_as(published), atol=1e-5, rtol=0)
    assert abs(published.std() - 0.2) < 0.01


def test_noise_between_frames_has_no_correlation_on_a_larger_clip() -> None:
    clip = torch.randn(1, 1, 24, 24, 24, 4, generator=torch.Generator().manual_seed(1))
    noise = (changed_clips(clip, _draw(batch=1, p_noise=1.0)) - clip).movedim(-1, 0).flatten(1)
    assert (torch.corrcoef(noise) - torch.eye(4)).abs().max() < 0.05


def test_smoothing_is_in_space_alone() -> None:
    drawn = _draw(p_smoothing=1.0, smoothing=(0.4, 0.8))
    assert ((drawn["smoothing"] >= 0.4) & (drawn["smoothing"] <= 0.8)).all() and drawn["smoothing"].std() > 0
    found = changed_clips(CLIPS, drawn)
    for frame in range(5):
        expected = blurred(CLIPS[..., frame], drawn["smoothing"][:, None].expand(-1, 3))
        torch.testing.assert_close(found[..., frame], expected)
    assert found.std() < 0.9 * CLIPS.std()


def test_without_any_part_a_clip_stays_as_it_is() -> None:
    assert torch.equal(changed_clips(CLIPS, _draw()), CLIPS)


def test_parts_are_drawn_apart_and_as_often_as_asked_for() -> None:
    all_parts = _draw(400, p_affine=0.5, p_noise=0.3, p_smoothing=0.2)
    still = (all_parts["matrix"] == torch.eye(3, 4)).flatten(1).all(1)
    assert 0.4 < still.float().mean() < 0.6
    assert 0.2 < (all_parts["noise"] > 0).float().mean() < 0.4
    assert 0.1 < (all_parts["smoothing"] > 0).float().mean() < 0.3
    without = _draw(400, p_affine=0.5, p_smoothing=0.2)
    assert torch.equal(without["matrix"], all_parts["matrix"]) and not without["noise"].any()
    assert torch.equal(without["smoothing"], all_parts["smoothing"])
    assert not torch.equal(_draw(400, seed=1, p_affine=0.5)["matrix"], all_parts["matrix"])


def test_maps_keep_to_their_angles_and_factors_in_mm() -> None:
    spacing = (1.0, 2.0, 4.0)
    matrix = _draw(300, spacing=spacing, p_affine=1.0, degrees=10.0, scaling=(0.9, 1.1))["matrix"]
    half = torch.tensor([size * step / 2 for size, step in zip(CLIPS.shape[2:5], spacing, strict=True)])
    in_mm = half[:, None] * matrix[..., :3] / half
    assert not matrix[..., 3].abs().max() > 1e-6  # about the centre
    stretched = torch.linalg.svdvals(in_mm)
    assert 0.9 - 1e-4 < stretched.min() < 0.92 and 1.08 < stretched.max() < 1.1 + 1e-4
    turned = torch.linalg.matrix_norm(in_mm - torch.diag_embed(in_mm.diagonal(dim1=1, dim2=2)))
    assert 0.1 < turned.max() < 1
    for options in ({"degrees": 0.0}, {"degrees": 0.0, "scaling": (1.0, 1.0)}):
        matrix = _draw(20, p_affine=1.0, **options)["matrix"][..., :3]
        assert torch.equal(matrix, torch.diag_embed(matrix.diagonal(dim1=1, dim2=2)))
    assert torch.equal(matrix, torch.eye(3).expand(20, 3, 3))


def test_labels_keep_their_values() -> None:
    labels = torch.randint(0, 50, (3, 1, 10, 9, 8), generator=torch.Generator().manual_seed(2)).float()
    drawn = _draw(p_affine=1.0)
    found = moved(labels, drawn["matrix"], nearest=True)
    assert torch.equal(found, found.round()) and not torch.equal(found, labels)
    assert not torch.equal(moved(labels, drawn["matrix"]), found)
