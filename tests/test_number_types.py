"""bf16 is used where a device has units for it, or where the user asked for it, and nowhere else."""

import ast
import logging
from pathlib import Path

import pytest
import torch

from bdfm_nnunet import number_types
from bdfm_nnunet.number_types import multiplies_bf16, name_of, type_named

ROOT = Path(__file__).parents[1]
FEATURES = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


@pytest.mark.parametrize(("vectors", "tiles", "expected"), [(0, 0, False), (1, 0, True), (0, 1, True)])
def test_either_unit_of_a_cpu_will_do(
    vectors: bool, tiles: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for feature, there in zip(FEATURES, (vectors, tiles)):
        monkeypatch.setattr(torch.cpu, feature, lambda there=there: there, raising=False)
    assert multiplies_bf16() is expected and multiplies_bf16("mps") is False


def test_a_torch_that_does_not_tell_has_no_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    for feature in FEATURES:
        monkeypatch.delattr(torch.cpu, feature, raising=False)
    assert multiplies_bf16() is False


def test_a_card_that_emulates_bf16_has_no_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert multiplies_bf16("cuda") is False


@pytest.mark.parametrize("native", [False, True])
def test_whoever_asks_for_slow_bf16_is_told(
    native: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(number_types, "multiplies_bf16", lambda device: native)
    assert type_named("bf16", "cpu") is torch.bfloat16 and type_named("fp32", "cpu") is None
    assert [record.message for record in caplog.records] == (
        [] if native else ["this cpu has no units for bf16, which will be slow: fp32 is the faster choice"]
    )


def test_no_autocast_of_the_library_names_a_type() -> None:
    """What is computed in has gone through the detection: no default can pass it by."""
    folders = ("bdfm_nnunet", "trainers", "plans", "dataset_conversion")
    types = {
        ast.unparse(keyword.value)
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("autocast")
        for keyword in node.keywords
        if keyword.arg == "dtype"
    }
    assert types == {"self.autocast_type"}


def test_names_and_types_belong_together() -> None:
    assert [name_of(type_named(name, "cuda")) for name in ("fp32", "fp16")] == ["fp32", "fp16"]
    assert name_of(torch.bfloat16) == "bf16"
