from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints.soundness import DEEPEST, fault_of_structure, fault_of_weights

ONE = {"a.weight": torch.ones(4, 3)}


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_floating_weights_and_counting_buffers_are_sound(kind: torch.dtype) -> None:
    buffers = {
        "norm.num_batches_tracked": torch.tensor(3),
        "attn.relative_position_index": torch.zeros(4, 4, dtype=torch.int64),
        "mask_token.initialised": torch.tensor(True),
        "attn_mask": torch.zeros(2, dtype=torch.bool),
        "empty": torch.zeros(0),
    }
    assert not fault_of_weights({name: value.to(kind) for name, value in ONE.items()} | buffers)


def _quantised(_: Any) -> Any:
    return torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda w: w * float("nan"), "not finite"),
        (lambda w: torch.where(torch.eye(4, 3) > 0, float("-inf"), w), "not finite"),
        (lambda w: w.double() * 1e300, "not finite"),  # in single precision, which networks have
        (lambda w: w.to(torch.complex64), "complex64"),
        (lambda w: w.to(torch.int8), "int8"),
        (lambda w: w.to(torch.int64), "int64"),
        (lambda w: w > 0, "bool"),
        (lambda w: w.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.Tensor.to_sparse, "sparse"),
        (torch.Tensor.to_sparse_csr, "sparse"),
        (_quantised, "quantised"),
        (lambda w: w.to("meta"), "no values"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_is_no_weight_is_named(change: Any, fault: str) -> None:
    found = fault_of_weights({"b.weight": torch.ones(2)} | {name: change(value) for name, value in ONE.items()})
    assert found.startswith("a.weight") and fault in found


@pytest.mark.parametrize("name", [5, None, ("a", "b"), "line\nbreak", "\udcff", "x" * 1000])
def test_names_are_texts(name: Any) -> None:
    assert "expected a text" in fault_of_weights({name: torch.ones(1)})


def test_ten_thousand_views_of_one_memory_are_not_walked_through() -> None:
    memory = torch.zeros(1 << 20)
    views = {f"w{number}": memory[number:] for number in range(10_000)}
    assert "times over" in fault_of_weights(views)
    aliases = {f"w{number}": memory for number in range(10_000)}
    assert not fault_of_weights(aliases)


def test_more_elements_than_memory() -> None:
    giant = torch.zeros(1).as_strided((10**9, 10**4), (0, 0))
    assert "shows more elements" in fault_of_structure({"anything": [{"deep": giant}]}, 1000)
    assert not fault_of_structure({"a": torch.zeros(10).expand(1, 10)}, 1000)


def test_tensors_that_grew_beyond_their_file() -> None:
    """PyTorch enlarges what a tensor claims to lie in, with whatever the memory holds."""
    assert "larger than the file" in fault_of_structure({"a": torch.zeros(1000)}, 3999)
    assert not fault_of_structure({"a": torch.zeros(1000)}, 4000)


def test_what_holds_itself() -> None:
    table: dict[str, Any] = {}
    table["model"] = [(table,)]
    assert "holds itself" in fault_of_structure(table, 100)
    shared = [1, 2]
    assert not fault_of_structure({"a": shared, "b": [shared, shared]}, 100)


def test_too_deep_and_too_often() -> None:
    deep: Any = 0
    often: Any = ["word"]
    for _ in range(DEEPEST + 2):
        deep, often = [deep], [often, often]
    assert "nested deeper" in fault_of_structure({"a": deep}, 100)
    often = ["word"]
    for _ in range(40):
        often = [often, often]
    assert "over and over" in fault_of_structure({"a": often}, 100)


def test_a_tensor_alone(tmp_path: Path) -> None:
    assert not fault_of_structure(torch.zeros(3), 100)
