import pytest
import torch

from bdfm_nnunet.networks.skip_decoder import SkipDecoder, on_padded

CHANNELS, STRIDES = (4, 6, 8), ((2, 2), (1, 2))


def _decoder(**changes: object) -> SkipDecoder:
    torch.manual_seed(0)
    settings = {"convs": 1, "deep_supervision": True} | changes
    return SkipDecoder(CHANNELS, STRIDES, 3, **settings)  # type: ignore[arg-type]


def _features() -> list[torch.Tensor]:
    return [torch.randn(2, c, *size) for c, size in zip(CHANNELS, [(8, 16), (4, 8), (4, 4)], strict=True)]


@pytest.mark.parametrize("widths", [None, (2, 5)])
def test_every_stage_has_the_size_of_its_skip(widths: tuple[int, int] | None) -> None:
    decoder, features = _decoder(widths=widths), _features()
    outputs = decoder(features)
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 8, 16), (2, 3, 4, 8)]
    kernels = [layer.weight.shape[1] for layer in decoder.seg_layers]  # type: ignore[union-attr,index]
    assert kernels == [*(widths or CHANNELS[:2])][::-1]
    decoder.deep_supervision = False
    assert torch.equal(decoder(features)[0], outputs[0])


def test_widths_that_are_those_of_the_skips_change_nothing() -> None:
    features = _features()
    for ours, default in zip(_decoder(widths=CHANNELS[:2])(features), _decoder()(features), strict=True):
        assert torch.equal(ours, default)


@pytest.mark.parametrize("changes", [{"widths": (4,)}, {"convs": (1, 1, 1)}])
def test_one_number_per_stage(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="2 stages"):
        _decoder(**changes)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 9)])
def test_padding_is_seen_as_zeros_and_cut_off_at_every_resolution(size: tuple[int, int]) -> None:
    images, seen = torch.rand(1, 1, *size) + 1, []

    def run(padded: torch.Tensor) -> list[torch.Tensor]:
        seen.append(padded)
        return [padded, padded[..., ::2, ::4]]

    full, coarse = on_padded(images, (4, 8), run)
    assert torch.equal(full, images) and tuple(coarse.shape[2:]) == (-(-size[0] // 2), -(-size[1] // 4))
    (padded,) = seen
    assert all(have % step == 0 and have - step < want for have, want, step in zip(padded.shape[2:], size, (4, 8)))
    assert padded.count_nonzero() == images.numel()
