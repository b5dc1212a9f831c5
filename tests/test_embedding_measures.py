import math

import pytest
import torch

from bdfm_nnunet.embedding_measures import (
    alignment,
    effective_rank,
    knn_accuracy,
    knn_regression,
    pair_accuracy,
    uniformity,
)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_alignment_and_uniformity_by_loops() -> None:
    first, second = _noise(5, 3), _noise(5, 3, seed=1)
    a, b = ([row / row.norm() for row in view] for view in (first, second))
    expected = sum(float((x - y).square().sum()) for x, y in zip(a, b, strict=True)) / 5
    assert float(alignment(first, second)) == pytest.approx(expected, rel=1e-5)
    terms = [math.exp(-2 * float((a[i] - a[j]).square().sum())) for i in range(5) for j in range(i)]
    assert float(uniformity(first)) == pytest.approx(math.log(sum(terms) / len(terms)), rel=1e-5)


def test_uniformity_of_a_full_sphere_is_below_that_of_a_cap() -> None:
    sphere = _noise(400, 64)
    assert -4 < float(uniformity(sphere)) < -3.5 < float(uniformity(sphere + 3)) < 0


def test_measures_do_not_depend_on_length() -> None:
    first, second = _noise(6, 4), _noise(6, 4, seed=1)
    for measure in (alignment, pair_accuracy):
        torch.testing.assert_close(measure(7 * first, 0.1 * second), measure(first, second))
    torch.testing.assert_close(effective_rank(9 * first), effective_rank(first))


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_effective_rank_of_equal_directions(rank: int) -> None:
    basis = torch.linalg.qr(_noise(8, 8))[0][:rank]
    embeddings = torch.cat([basis, -basis]) + 5  # centred they are rank directions of one length
    assert float(effective_rank(embeddings)) == pytest.approx(rank, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_rank(dtype: torch.dtype) -> None:
    collapsed = (torch.full((20, 8), 0.1) * (1 + 1e-8 * _noise(20, 8))).to(dtype)
    collapsed[3, 2] += torch.finfo(dtype).eps * 0.1
    assert effective_rank(collapsed) == 0
    assert effective_rank(torch.zeros(3, 2)) == 0


def test_pair_accuracy_by_hand() -> None:
    first = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    second = torch.tensor([[1.0, 0.1], [0.1, 1.0], [-1.0, 0.0]])
    assert float(pair_accuracy(first, second)) == pytest.approx(4 / 6)


@pytest.mark.parametrize("pairs", [1, 2, 50])
def test_pair_accuracy_of_collapsed_embeddings_is_chance(pairs: int) -> None:
    same = torch.ones(pairs, 3)
    assert float(pair_accuracy(same, same)) == pytest.approx(1 / (2 * pairs - 1))


def test_pairs_are_not_sought_among_others_of_the_group() -> None:
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # two scans of one patient, alike
    groups = torch.tensor([5, 5, -1])
    assert pair_accuracy(same, same) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert pair_accuracy(same, same, groups=groups) == 1
    assert pair_accuracy(same, same, groups=torch.tensor([-1, -1, 2])) < 1
    alike = torch.ones(3, 2)
    assert pair_accuracy(alike, alike, groups=groups) == pytest.approx((1 / 3 + 1 / 3 + 1 / 5) / 3)


def _slow_votes(units: torch.Tensor, values: list[float], own: int, k: int, allowed: list[int]) -> dict[float, float]:
    scores = sorted(((float(units[own] @ units[j]), j) for j in allowed), reverse=True)[:k]
    votes: dict[float, float] = {}
    for score, j in scores:
        votes[values[j]] = votes.get(values[j], 0.0) + math.exp(score / 0.07)
    return votes


@pytest.mark.parametrize("k", [1, 3, 50])
def test_votes_by_loops(k: int) -> None:
    embeddings, labels = _noise(30, 3), torch.arange(30) % 3
    embeddings[:, 0] += labels
    groups = torch.arange(30) // 2
    units = embeddings / embeddings.norm(dim=1, keepdim=True)
    values, hits, errors = [float(label) for label in labels], 0, 0.0
    for i in range(30):
        votes = _slow_votes(units, values, i, k, [j for j in range(30) if j // 2 != i // 2])
        hits += max(votes, key=lambda label: votes[label]) == values[i]
        mean = sum(label * weight for label, weight in votes.items()) / sum(votes.values())
        errors += abs(mean - values[i])
    assert float(knn_accuracy(embeddings, labels, groups=groups, neighbours=k)) == pytest.approx(hits / 30)
    found = knn_regression(embeddings, labels.float(), groups=groups, neighbours=k)
    assert float(found) == pytest.approx(errors / 30, rel=1e-4)


def test_probe_against_a_reference() -> None:
    train, test = _noise(8, 4), _noise(5, 4, seed=1)
    nearest = (test / test.norm(dim=1, keepdim=True) @ (train / train.norm(dim=1, keepdim=True)).T).argmax(1)
    ages = torch.arange(8.0)
    assert knn_accuracy(test, nearest, reference=(train, torch.arange(8)), neighbours=1) == 1
    assert knn_regression(test, nearest + 0.5, reference=(train, ages), neighbours=1) == pytest.approx(0.5)


def test_unknown_values_take_no_part() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.05], [0.0, 1.0], [0.1, 1.0]])
    assert knn_accuracy(embeddings, torch.tensor([0, 0, -1, 1, 1]), neighbours=1) == 1
    ages = torch.tensor([60.0, 60.0, math.nan, 20.0, 20.0])
    assert knn_regression(embeddings, ages, neighbours=1) == 0
    reference = (embeddings, ages)
    assert knn_regression(embeddings[2:3], torch.tensor([60.0]), reference=reference, neighbours=1) == 0
    labelled = (embeddings, torch.tensor([0, 0, -1, 1, 1]))
    assert knn_accuracy(embeddings[2:3], torch.tensor([0]), reference=labelled, neighbours=1) == 1


def test_samples_without_neighbours_are_left_out() -> None:
    alone = torch.eye(2)
    assert knn_accuracy(alone, torch.tensor([0, 1]), groups=torch.tensor([4, 4])).isnan()
    assert knn_regression(alone[:1], torch.ones(1)).isnan() and knn_accuracy(alone, torch.tensor([-1, -1])).isnan()


def test_no_gradient_flows() -> None:
    embeddings = _noise(6, 3).requires_grad_()
    labels = torch.arange(6) % 2
    values = [
        alignment(embeddings, embeddings), uniformity(embeddings), effective_rank(embeddings),
        pair_accuracy(embeddings, embeddings), knn_accuracy(embeddings, labels), knn_regression(embeddings, labels),
    ]  # fmt: skip
    assert not any(value.requires_grad for value in values)
