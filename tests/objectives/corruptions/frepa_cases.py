"""The volumes of the slow version of the corrected corruptions and losses."""

from dataclasses import dataclass
from typing import Any

import torch

from tests.golden_outputs import golden_numbers, golden_tensors

SHAPES = ["24x32x40", "15x27x33", "16x20x18"]


@dataclass(frozen=True)
class Case:
    """Tensors and facts of one volume; `tensor` gives one as (1, *shape), `image` as (1, 1, *shape)."""

    shape: str
    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @property
    def spacing(self) -> list[float]:
        return self.facts["spacing_zyx_mm"]

    def tensor(self, name: str) -> torch.Tensor:
        return self.tensors[f"{self.shape}.{name}"][None]

    def image(self, name: str) -> torch.Tensor:
        return self.tensor(name)[None]


def case(shape: str) -> Case:
    facts = golden_numbers("frepa_corrected")["cases"]
    found = next(one for one in facts if "x".join(map(str, one["shape"])) == shape)
    return Case(shape, golden_tensors("frepa_corrected"), found)


def assert_agrees(ours: torch.Tensor, expected: torch.Tensor, *, tolerance: float = 1e-5) -> None:
    """Within a share of the largest value."""
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= tolerance * expected.abs().max()
