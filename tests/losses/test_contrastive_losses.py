import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from bdfm_nnunet.losses.contrastive_losses import NegativeQueue, chance_level, directions, nt_xent, standardised_columns

OUTPUTS = Path(os.environ.get("BDFM_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
needs_outputs = pytest.mark.skipif(
    not (OUTPUTS / "simclr_resnet18.safetensors").is_file(),
    reason="the reference outputs are not here: name their folder with BDFM_GOLDEN",
)


def slow_nt_xent(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    temperature: float = 0.5,
    decoupled: bool = False,
    queue: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
    queue_groups: torch.Tensor | None = None,
    same_group: str = "negative",
) -> float:
    """The definition, letter by letter: loops over anchors and over what they are compared with."""
    count, further = len(first), 0 if queue is None else len(queue)
    vectors = [*first, *second, *(queue if queue is not None else ())]
    owners = [-1] * (2 * count + further) if groups is None else [*groups.tolist(), *groups.tolist()]
    if groups is not None:
        owners += [-1] * further if queue_groups is None else queue_groups.tolist()
    losses = []
    for a in range(2 * count):
        pair = (a + count) % (2 * count)
        positives, negatives = [], []
        for j, vector in enumerate(vectors):
            if j == a:
                continue
            score = float(cosine_similarity(vectors[a].double(), vector.double(), dim=0)) / temperature
            related = owners[a] >= 0 and owners[a] == owners[j]
            if j == pair or (related and same_group == "positive"):
                positives.append(score)
            elif not (related and same_group == "exclude"):
                negatives.append(score)
        others = negatives if decoupled else negatives + positives
        if others:
            losses.append(math.log(sum(map(math.exp, others))) - sum(positives) / len(positives))
        else:
            losses.append(0.0)
    return sum(losses) / len(losses)


def _views(count: int, width: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(count, width, generator=generator)
    return first, first + 0.7 * torch.randn(count, width, generator=generator)


KEYS = torch.tensor([3, 3, -1, 5, 3, -1])
VARIANTS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.07},
    {"decoupled": True},
    {"queue": torch.randn(5, 6, generator=torch.Generator().manual_seed(9))},
    *({"groups": KEYS, "same_group": role, "temperature": 0.3} for role in ("negative", "exclude", "positive")),
    {
        "groups": KEYS, "same_group": "exclude", "decoupled": True,
        "queue": torch.ones(3, 6), "queue_groups": torch.tensor([3, -1, 5]),
    },
    {"groups": KEYS, "same_group": "positive", "queue": torch.ones(2, 6), "queue_groups": torch.tensor([3, 8])},
    {"groups": KEYS, "same_group": "positive", "decoupled": True},
    {"groups": torch.full((6,), 2), "same_group": "exclude"},
    {"groups": torch.full((6,), 2), "same_group": "exclude", "decoupled": True},
]  # fmt: skip


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options)) or "plain")
@pytest.mark.parametrize("count", [6, 1])
def test_loss_is_that_of_slow_loops(options: dict[str, Any], count: int) -> None:
    options = {name: value[:count] if name == "groups" else value for name, value in options.items()}
    first, second = _views(count)
    expected = slow_nt_xent(first, second, **options)
    assert float(nt_xent(first, second, **options)) == pytest.approx(expected, abs=2e-6)
    assert float(nt_xent(first.double(), second.double(), **options)) == pytest.approx(expected, abs=1e-12)


def test_every_option_acts() -> None:
    first, second = _views(6)
    values = [round(float(nt_xent(first, second, **options)), 4) for options in VARIANTS]
    alike = values[4] == round(float(nt_xent(first, second, temperature=0.3)), 4)
    assert alike, "as negatives, groups change nothing"
    assert len(set(values)) == len(values) - 1  # everybody of one group leaves 0 negatives, decoupled or not
    assert values[-1] == values[-2] == 0


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options)) or "plain")
def test_gradient_is_that_of_differences(options: dict[str, Any]) -> None:
    first, second = (view.double().requires_grad_() for view in _views(6))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, **options), (first, second))


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-15, 1e20, 1e37])
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_value_and_gradient_are_finite(scale: float, temperature: float) -> None:
    first, second = _views(4)
    first[1], second[2] = first[1] * scale, second[2] * scale
    first.requires_grad_()
    second.requires_grad_()
    loss = nt_xent(first, second, temperature=temperature)
    loss.backward()
    assert loss.isfinite()
    assert first.grad is not None and second.grad is not None
    assert first.grad.isfinite().all() and second.grad.isfinite().all()
    assert first.grad[0].abs().max() > 0


def test_zero_vectors_are_unlike_everything_and_get_no_gradient() -> None:
    first, second = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 4)
    loss = nt_xent(first, second)
    loss.backward()
    assert first.grad is not None and loss.item() == pytest.approx(math.log(5)) and not first.grad.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_faults_of_the_network_are_not_hidden(bad: float) -> None:
    first, second = _views(3)
    first[1, 2] = bad
    assert nt_xent(first, second).isnan()


def test_single_precision_within_autocast() -> None:
    first, second = _views(5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(first, second, temperature=0.01)
        from_half = nt_xent(first.half(), second.half())
    assert torch.equal(inside, nt_xent(first, second, temperature=0.01)) and from_half.dtype == torch.float32


def test_no_negatives_cost_nothing() -> None:
    first, second = (view.requires_grad_() for view in _views(1))
    for options in ({}, {"decoupled": True}, {"groups": torch.tensor([1]), "same_group": "exclude"}):
        loss = nt_xent(first, second, temperature=0.01, **options)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(loss, first)
        assert loss.item() == pytest.approx(0, abs=1e-6) and gradient.abs().max() < 1e-6


def test_no_gradient_flows_into_a_queue() -> None:
    first, second = _views(3)
    queue = torch.ones(2, 6, requires_grad=True)
    assert not nt_xent(first, second, queue=queue).requires_grad
    assert nt_xent(first, second, queue=queue[:0]) == nt_xent(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"queue": torch.ones(2, 5)}, "queue must be \\(K, 6\\)"),
        ({"groups": torch.ones(3)}, "groups must be 3 whole numbers"),
        ({"groups": torch.ones(2, dtype=torch.int64)}, "groups must be 3 whole numbers"),
        ({"queue_groups": torch.ones(2, dtype=torch.int64)}, "queue_groups must be 0"),
        ({"same_group": "exclude"}, "needs groups"),
        ({"same_group": "friends"}, "expected 'negative', 'exclude' or 'positive'"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nt_xent(*_views(3), **options)


def test_views_must_be_pairs() -> None:
    with pytest.raises(ValueError, match=r"two \(N, D\), got \(3, 2\) and \(2, 2\)"):
        nt_xent(torch.ones(3, 2), torch.ones(2, 2))


@pytest.mark.parametrize("queued", [0, 7])
@pytest.mark.parametrize("decoupled", [False, True])
def test_chance_level_is_the_loss_of_equal_embeddings(queued: int, decoupled: bool) -> None:
    same, queue = torch.ones(4, 3), torch.ones(queued, 3)
    loss = nt_xent(same, same, queue=queue, decoupled=decoupled)
    assert float(loss) == pytest.approx(chance_level(4, queued=queued, decoupled=decoupled), abs=1e-6)
    assert chance_level(1, decoupled=True) == 0


def test_standardised_columns_are_those_of_batch_norm_at_any_scale() -> None:
    rows = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 30
    expected = torch.nn.BatchNorm1d(4, eps=1e-12, affine=False, dtype=torch.float64)(rows)
    for scale in (1, 1e-6, 1e6):
        found = standardised_columns(scale * rows[:5], scale * rows)
        torch.testing.assert_close(found, expected[:5], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20, 1e15])
def test_columns_without_spread_become_nought_and_have_finite_gradients(value: float) -> None:
    rows = torch.full((6, 3), value, requires_grad=True)
    found = standardised_columns(rows, rows)
    (gradient,) = torch.autograd.grad(nt_xent(found[:3], found[3:]), rows)
    assert found.abs().max() < 1e-2 and gradient.isfinite().all()


def test_directions_do_not_depend_on_length() -> None:
    first, _ = _views(4)
    for scale in (1e-11, 1e-3, 1e30):
        torch.testing.assert_close(directions(first * scale), directions(first))
    torch.testing.assert_close(directions(first).norm(dim=1), torch.ones(4))


@needs_outputs
def test_loss_and_gradients_of_the_public_model() -> None:
    from safetensors.torch import load_file

    tensors = load_file(OUTPUTS / "simclr_resnet18.safetensors")
    rows = json.loads((OUTPUTS / "simclr_resnet18.json").read_text())["nt_xent"]
    assert len(rows) == 8
    for row in rows:
        pairs, temperature = row["pairs"], row["temperature"]
        views = [tensors[f"ntx_b{pairs}_z{side}"].clone().requires_grad_() for side in (1, 2)]
        loss = nt_xent(*views, temperature=temperature)
        loss.backward()
        assert loss.item() == pytest.approx(row["loss_float64_double_loop"], abs=1e-6)
        for side, view in enumerate(views, start=1):
            name = f"ntx_b{pairs}_t{temperature:g}_grad_z{side}"
            torch.testing.assert_close(view.grad, tensors[name], rtol=1e-4, atol=1e-6, msg=name)


def _put(queue: NegativeQueue, *values: float, groups: list[int] | None = None) -> None:
    rows = torch.tensor(values).reshape(-1, 1)
    queue.put(rows, groups=None if groups is None else torch.tensor(groups))


def test_a_queue_keeps_the_newest() -> None:
    queue = NegativeQueue(4, 1)
    seen: list[float] = []
    for size in (1, 2, 3, 1, 9, 0, 2):
        values = [float(len(seen) + number) for number in range(size)]
        seen += values
        _put(queue, *values, groups=[int(value) for value in values])
        kept = sorted(queue.embeddings.flatten().tolist())
        assert kept == seen[-4:] and sorted(queue.groups.tolist()) == [int(value) for value in seen[-4:]]


def test_a_queue_is_not_filled_in_evaluation_and_holds_no_graph() -> None:
    queue = NegativeQueue(2, 1)
    queue.put(torch.ones(1, 1, requires_grad=True) * 2)
    queue.eval()
    _put(queue, 5.0)
    assert queue.embeddings.tolist() == [[2.0]] and not queue.embeddings.requires_grad


def test_a_queue_goes_on_from_a_checkpoint() -> None:
    queue, other = NegativeQueue(3, 1), torch.nn.Sequential(NegativeQueue(3, 1))
    _put(queue, 1.0, 2.0, groups=[4, -1])
    other.load_state_dict({f"0.{name}": value.clone() for name, value in queue.state_dict().items()})
    loaded = other[0]
    assert isinstance(loaded, NegativeQueue) and loaded.embeddings.tolist() == [[1.0], [2.0]]
    for each in (queue, loaded):
        _put(each, 3.0, 4.0)
    assert torch.equal(queue.embeddings, loaded.embeddings) and queue.groups.tolist() == [-1, -1, -1]
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in queue.state_dict().items())


def test_an_impossible_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        NegativeQueue(0, 3)
