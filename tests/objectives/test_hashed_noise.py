import torch

from bdfm_nnunet.objectives.hashed_noise import normal_noise


def test_noise_is_normal_and_uncorrelated() -> None:
    noise = normal_noise(torch.tensor([3, 2**61 + 5, 2**40]), (40, 41, 40)).double()
    assert noise.isfinite().all()
    values = noise.flatten(1)
    assert values.mean(1).abs().max() < 0.02 and (values.std(1) - 1).abs().max() < 0.02
    shares = [(values.abs() < bound).double().mean() for bound in (1, 2, 3)]
    assert all(abs(s - e) < 0.005 for s, e in zip(shares, (0.6827, 0.9545, 0.9973)))
    assert torch.corrcoef(values).fill_diagonal_(0).abs().max() < 0.02
    for axis in (1, 2, 3):
        product = (noise.narrow(axis, 0, 39) * noise.narrow(axis, 1, 39)).mean()
        assert product.abs() < 0.02
    half = values.shape[1] // 2
    assert (values[:, :half] * values[:, half : 2 * half]).mean().abs() < 0.02


def test_noise_depends_on_all_bits_of_the_seed_and_on_nothing_else() -> None:
    seeds = torch.tensor([12345 ^ (1 << bit) for bit in range(62)] + [12345])
    noise = normal_noise(seeds, (30,))
    assert len({tuple(row.tolist()) for row in noise}) == 63
    assert torch.equal(normal_noise(seeds[7:8], (30,))[0], noise[7])
    assert normal_noise(seeds[:1], (3, 5)).shape == (1, 3, 5)
