"""A loss that compares samples, in micro-batches: the gradient of the whole batch in the memory of a part."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.autograd.graph import saved_tensors_hooks

from bdfm_nnunet.losses.contrastive_losses import nt_xent
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.training.gradient_caching import add_compared_gradients
from bdfm_nnunet.training.gradients import distributed_network, micro_batches
from bdfm_nnunet.training.precision import Precision
from bdfm_nnunet.training.process_group import shares
from tests.forking import run_together
from tests.networks.zoo import network

PAIRS = 7


class _Pairs(nn.Module):
    """Two noisy views of an image, embedded, and the error of telling the mean of each image."""

    def __init__(self, encoder: nn.Module, width: int, *, tells: bool = True) -> None:
        super().__init__()
        self.encoder, self.projector, self.tell = encoder, nn.Linear(width, 5), nn.Linear(width, 1)
        self.tells = tells

    def forward(self, images: Tensor, noise: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        views = torch.cat([images, images + noise])
        pooled = self.encoder(views)[-1].flatten(2).mean(2)
        first, second = self.projector(pooled).chunk(2)
        error = (self.tell(pooled[: len(images)]).flatten() - images.flatten(1).mean(1)).square().mean()
        keys = torch.arange(len(images))
        return {"first": first, "second": second, "keys": keys}, ({"loss": error, "error": error} if self.tells else {})


def _compare(representations: Any) -> dict[str, Tensor]:
    assert representations["keys"].dtype == torch.int64
    loss = nt_xent(representations["first"], representations["second"], temperature=0.2)
    return {"loss": 3 * loss, "contrast": loss}


class _Convolutions(nn.Sequential):
    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        return [super().forward(images)]


def _batch_norm_network() -> _Pairs:
    layers = nn.Conv3d(1, 6, 3), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 8, 3), nn.BatchNorm3d(8)
    return _Pairs(_Convolutions(*layers), 8)


def _pairs(kind: str = "resenc", **changes: Any) -> _Pairs:
    torch.manual_seed(0)
    if kind == "batch_norm":
        return _batch_norm_network()
    tells = changes.pop("tells", True)
    view = encoder_of(network(kind, 1, **changes))
    return _Pairs(view.module, view.channels[-1], tells=tells)


def _batch(pairs: int = PAIRS) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(pairs, 1, 16, 16, 16, generator=generator) + torch.arange(pairs)[:, None, None, None, None]
    return {"data": images, "noise": torch.randn(pairs, 1, 16, 16, 16, generator=generator)}


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def _cached(model: Any, parts: list[Any], **options: Any) -> dict[str, Tensor]:
    options = {"samples": sum(len(part["data"]) for part in parts)} | options
    return add_compared_gradients(model, parts, lambda part: model(part["data"], part["noise"]), _compare, **options)


def _plain(model: Any, parts: list[Any]) -> dict[str, Tensor]:
    """All graphs at once, micro-batch after micro-batch, so that random numbers are drawn in the same order."""
    given = [model(part["data"], part["noise"]) for part in parts]
    weights = [len(part["data"]) / sum(len(each["data"]) for each in parts) for part in parts]
    terms = _compare({name: torch.cat([found[name] for found, _ in given]) for name in given[0][0]})
    alone = [losses["loss"] * weight for (_, losses), weight in zip(given, weights, strict=True) if losses]
    terms["loss"] = terms["loss"] + sum(alone)
    terms["loss"].backward()
    return terms


CASES = {
    "instance norm": ("resenc", {}),
    "drop path": ("swin", {"drop_path_rate": 0.5}),
    "compared alone": ("plain", {"tells": False}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 3, 7])
def test_gradient_of_the_whole_batch(case: str, count: int) -> None:
    kind, changes = CASES[case]
    parts = micro_batches(_batch(), count)
    plain, cached = _pairs(kind, **changes), _pairs(kind, **changes)
    torch.manual_seed(5)
    expected = _plain(plain, parts)
    after = torch.rand(1)
    torch.manual_seed(5)
    terms = _cached(cached, parts)
    assert torch.equal(torch.rand(1), after), "the random numbers that follow are those of one pass"
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term.detach())
    assert ("error" in terms) == changes.get("tells", True) and not terms["loss"].requires_grad
    found, wanted = _gradients(cached), _gradients(plain)
    assert set(found) == set(wanted)
    for name, gradient in wanted.items():
        scale = gradient.abs().max().clamp_min(1e-3)
        assert ((found[name] - gradient).abs().max() / scale) < 1e-5, name


def test_gradient_does_not_depend_on_the_cut() -> None:
    """Without layers that mix samples or draw, any cut gives what one forward pass gives."""
    results = []
    for count in (1, 2, 4):
        model = _pairs()
        _cached(model, micro_batches(_batch(), count))
        results.append(_gradients(model))
    for other in results[1:]:
        for name, gradient in results[0].items():
            torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


class _Kept(saved_tensors_hooks):
    """Counts the bytes that graphs hold for the backward pass, and their peak."""

    def __init__(self) -> None:
        self.held = self.peak = 0
        super().__init__(self._pack, lambda box: box.tensor)

    def _pack(self, tensor: Tensor) -> Any:
        return _Box(self, tensor)


class _Box:
    def __init__(self, owner: _Kept, tensor: Tensor) -> None:
        self.owner, self.tensor, self.size = owner, tensor, tensor.numel() * tensor.element_size()
        owner.held += self.size
        owner.peak = max(owner.peak, owner.held)

    def __del__(self) -> None:
        self.owner.held -= self.size


def _peak(pairs: int, parts: int, *, cached: bool) -> int:
    model, kept = _pairs(tells=False), _Kept()
    pieces = micro_batches(_batch(pairs), parts)
    with kept:
        (_cached if cached else _plain)(model, pieces)
    return kept.peak


def test_thirty_two_pairs_in_the_memory_of_two() -> None:
    two, plain = _peak(2, 1, cached=False), _peak(32, 1, cached=False)
    cached = _peak(32, 16, cached=True)
    assert plain > 12 * two and cached < 1.05 * two


def test_statistics_are_those_of_micro_batches_and_are_updated_once() -> None:
    """Ghost batch norm: as with any accumulation of gradients, a micro-batch is normalised by itself."""
    parts = micro_batches(_batch(), 3)
    plain, cached, whole = (_pairs("batch_norm") for _ in range(3))
    _plain(plain, parts)
    _cached(cached, parts)
    _plain(whole, [_batch()])
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(cached.named_buffers())[name], buffer, msg=name)
    counted = [int(dict(model.named_buffers())["encoder.1.num_batches_tracked"]) for model in (cached, whole)]
    assert counted == [3, 1]
    for name, gradient in _gradients(plain).items():
        torch.testing.assert_close(_gradients(cached)[name], gradient, rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.allclose(_gradients(whole)["projector.weight"], _gradients(plain)["projector.weight"], rtol=0.01)


def test_a_scaler_scales_once_and_half_precision_is_compared_in_single() -> None:
    seen: list[torch.dtype] = []

    def compare(representations: Any) -> dict[str, Tensor]:
        seen.append(representations["first"].dtype)
        return _compare(representations)

    results = []
    for scale in (1.0, 1024.0):
        model, parts = _pairs("batch_norm"), micro_batches(_batch(), 2)

        def represent(part: Any, model: Any = model) -> Any:
            found, losses = model(part["data"], part["noise"])
            return {name: value.half() if name != "keys" else value for name, value in found.items()}, losses

        def backward(loss: Tensor, scale: float = scale) -> None:
            (loss * scale).backward()

        add_compared_gradients(model, parts, represent, compare, samples=PAIRS, backward=backward)
        results.append(_gradients(model))
    assert set(seen) == {torch.float32}
    for name, gradient in results[0].items():
        torch.testing.assert_close(results[1][name] / 1024, gradient, rtol=1e-2, atol=1e-3, msg=name)


def test_parameters_of_the_comparison_are_refused() -> None:
    model, scale = _pairs(), nn.Parameter(torch.ones(()))

    def compare(representations: Any) -> dict[str, Tensor]:
        return {"loss": _compare(representations)["loss"] * scale}

    parts = micro_batches(_batch(), 2)
    with pytest.raises(ValueError, match="has a trainable parameter"):
        add_compared_gradients(model, parts, lambda part: model(part["data"], part["noise"]), compare, samples=PAIRS)


def _train(rank: int, folder: str) -> None:
    world = 2
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    sizes = shares(PAIRS, world)
    mine = {name: value[sum(sizes[:rank]) : sum(sizes[: rank + 1])] for name, value in _batch().items()}
    found = {}
    for count in (1, 2):
        wrapped = distributed_network(_pairs(), torch.device("cpu"))
        terms = _cached(wrapped, micro_batches(mine, count), samples=PAIRS, world=world)
        found[str(count)] = {"gradients": _gradients(wrapped.module), "contrast": terms["contrast"]}
    normed = distributed_network(_pairs("batch_norm"), torch.device("cpu"))
    _cached(normed, [mine], samples=PAIRS, world=world)
    buffers = {name: value.clone() for name, value in normed.module.named_buffers()}
    torch.save({"plain": found, "normed": _gradients(normed.module), "buffers": buffers}, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_processes_compare_all_samples(tmp_path: Path) -> None:
    run_together(_train, 2, str(tmp_path))
    alone = _pairs()
    terms = _plain(alone, [_batch()])
    normed = _pairs("batch_norm")
    _plain(normed, [_batch()])
    for rank in range(2):
        loaded = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for found in loaded["plain"].values():
            torch.testing.assert_close(found["contrast"], terms["contrast"].detach())
            _assert_close(found["gradients"], _gradients(alone))
        _assert_close(loaded["normed"], _gradients(normed), share=1e-4)  # sums over all voxels in another order
        _assert_close(loaded["buffers"], dict(normed.named_buffers()), share=1e-4)


def _assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], *, share: float = 1e-5) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= share * value.abs().max().clamp_min(1), name


def test_functions_run_within_the_precision() -> None:
    within = Precision(torch.bfloat16, torch.device("cpu")).within(torch.mm)
    assert within(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16
