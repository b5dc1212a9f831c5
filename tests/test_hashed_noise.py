import pytest
import torch

from bdfm_nnunet.hashed_noise import draw_keys, normal_field, uniform_field

KEYS = draw_keys(4, generator=torch.Generator().manual_seed(5))


def _lowbias32(value: int) -> int:
    value = ((value ^ (value >> 16)) * 0x7FEB352D) % 2**32
    value = ((value ^ (value >> 15)) * 0x846CA68B) % 2**32
    return value ^ (value >> 16)


def test_uniform_values_are_those_of_the_hash() -> None:
    field = uniform_field(KEYS, (3, 5), stream=7)
    for sample in range(4):
        first, second = KEYS[sample].tolist()
        start = _lowbias32(first + 14)
        for number in range(15):
            mixed = _lowbias32((_lowbias32(number ^ start) + second) % 2**32)
            assert field[sample].flatten()[number].item() == (mixed >> 8) / 2**24


def test_a_sample_depends_on_its_numbers_alone() -> None:
    for field in (uniform_field, normal_field):
        whole = field(KEYS, (6, 7))
        assert torch.equal(field(KEYS[2:3], (6, 7))[0], whole[2])
        assert len({tuple(row.tolist()) for row in whole.flatten(1)}) == 4
        assert not torch.equal(field(KEYS, (6, 7), stream=1), whole)


def test_uniform_values_are_uniform_and_independent() -> None:
    fields = torch.stack([uniform_field(KEYS, (2**16,), stream=stream) for stream in range(3)]).flatten(0, 1)
    assert fields.min() >= 0 and fields.max() < 1
    counts = torch.stack([torch.histc(field, 32, 0, 1) for field in fields])
    chi_square = ((counts - 2048) ** 2 / 2048).sum(1)  # 31 degrees of freedom
    assert chi_square.min() > 5 and chi_square.max() < 75
    neighbours = torch.cat([fields, fields.roll(1, 1), fields.roll(256, 1)])
    correlation = torch.corrcoef(neighbours).fill_diagonal_(0)
    assert correlation.abs().max() < 0.025  # six standard deviations


def test_normal_values_are_normal() -> None:
    field = normal_field(KEYS, (2**16,))
    assert torch.isfinite(field).all()
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert field.pow(power).mean(1).sub(moment).abs().max() < 5 * (spread / 2**16) ** 0.5


@pytest.mark.parametrize("field", [uniform_field, normal_field])
def test_its_spectrum_is_white(field: object) -> None:
    values = field(KEYS[:1], (64, 64))[0]  # type: ignore[operator]
    power = torch.fft.fft2((values - values.mean()) / values.std()).abs().square() / 64**2
    assert power.max() < 16 and power.reshape(8, 8, 64).mean((0, 1)).sub(1).abs().max() < 0.6


def test_generator_decides() -> None:
    again = draw_keys(4, generator=torch.Generator().manual_seed(5))
    assert torch.equal(again, KEYS) and len(KEYS.flatten().unique()) == 8


@pytest.mark.parametrize("number", [0, 1])
def test_every_bit_of_the_numbers_counts(number: int) -> None:
    keys = torch.tensor([[12345, 67890]]).repeat(32, 1)
    keys[:31, number] ^= 1 << torch.arange(31)
    fields = normal_field(keys, (30, 3))
    assert len({tuple(field.flatten().tolist()) for field in fields}) == 32
