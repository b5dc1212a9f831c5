"""Bags of crops that cover whole cases."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.data.augmentation import RandomAffine
from bdfm_nnunet.data.batch_streams import ReproducibleBatches
from bdfm_nnunet.data.subject_bags import SubjectBags, cover, covering_starts, read_turned


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(10, 7, 5), (4, 4, 4), (3, 9, 4), (23, 4, 8)])
def test_every_voxel_lies_in_a_crop(shape: tuple[int, ...], overlap: float) -> None:
    crop = (4, 5, 4)
    seen = np.zeros(shape, dtype=int)
    for start in covering_starts(shape, crop, overlap=overlap):
        seen[tuple(slice(max(at, 0), at + side) for at, side in zip(start, crop))] += 1
    assert seen.min() >= 1


def test_without_overlap_no_crop_can_be_spared() -> None:
    assert len(covering_starts((8, 8, 9), (4, 4, 4))) == 2 * 2 * 3


def test_crops_hold_the_images() -> None:
    images = np.random.default_rng(0).normal(size=(2, 9, 6, 5)).astype(np.float32)
    crops, starts = cover(images, (4, 8, 4))
    for content, (z, y, x) in zip(crops, starts):
        inside = content[:, :, -y : 6 - y]
        assert torch.equal(inside, torch.from_numpy(images[:, z : z + 4, :, x : x + 4]))
        assert content[:, :, :-y].abs().sum() == 0 and content[:, :, 6 - y :].abs().sum() == 0


def test_turned_crops_are_pieces_of_the_turned_volume() -> None:
    """A smooth volume turned as a whole, and crop by crop about the middle of the volume."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, 24) for _ in range(3)), indexing="ij")
    volume = (torch.sin(3 * axes[0]) + axes[1] * axes[2])[None].numpy()
    matrix = RandomAffine(spacing=(1, 1, 1), p_rotation=1.0, p_scaling=0.0).draw(np.random.default_rng(4))
    assert matrix is not None
    whole = read_turned(volume, (0, 0, 0), (24, 24, 24), matrix)
    piece = read_turned(volume, (8, 6, 7), (8, 8, 8), matrix)
    expected = whole[:, 8:16, 6:14, 7:15]
    assert float((piece - expected).abs().mean()) < 0.12 * float(expected.std())  # up to half a voxel apart
    assert float((piece - torch.from_numpy(volume)[:, 8:16, 6:14, 7:15]).abs().mean()) > 0.2 * float(expected.std())


class _Cases:
    """Five cases in memory, each filled with its own number."""

    identifiers = tuple(f"case{number}" for number in range(5))
    source_folder = "memory"

    def load_case(self, key: str) -> Any:
        return np.full((1, 6, 6, 6), float(key[-1]) + 1, dtype=np.float32), None, None, {}


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_each_pass_shows_every_case_once(batch: int) -> None:
    bags = SubjectBags(_Cases(), _Cases.identifiers, batch_size=batch, share=slice(None), crop=(4, 4, 4), crops=2)  # type: ignore[arg-type]
    keys = [key for number in range(20) for key in bags.generate_numbered_batch(number)["keys"]]
    passes = [keys[at : at + 5] for at in range(0, len(keys) - 4, 5)]
    assert all(set(each) == set(_Cases.identifiers) for each in passes)
    assert len({tuple(each) for each in passes}) > 1  # not in the same order


def test_processes_share_a_batch_and_images_fit_their_names() -> None:
    parts = [slice(0, 2), slice(2, 3)]
    alone, *shared = (
        SubjectBags(_Cases(), _Cases.identifiers, batch_size=3, share=part, crop=(4, 4, 4), crops=8)  # type: ignore[arg-type]
        for part in (slice(None), *parts)
    )
    for number in range(4):
        whole = alone.generate_numbered_batch(number)
        found = [each.generate_numbered_batch(number) for each in shared]
        assert whole["keys"] == [key for part in found for key in part["keys"]]
        assert [float(bag.max()) for bag in whole["data"]] == [float(key[-1]) + 1 for key in whole["keys"]]


def test_a_batch_depends_on_its_number_alone() -> None:
    options: dict[str, Any] = {"crop": (4, 4, 4), "crops": 3, "shift": 0.5}
    bags = SubjectBags(_Cases(), _Cases.identifiers, batch_size=2, share=slice(None), **options)  # type: ignore[arg-type]
    stream = ReproducibleBatches(bags, 7)
    first, again, other = stream[0, 5], stream[3, 5], stream[0, 6]
    assert isinstance(first, dict) and isinstance(again, dict) and isinstance(other, dict)
    assert first["keys"] == again["keys"] and torch.equal(first["data"], again["data"])
    assert not torch.equal(first["data"], other["data"])


def test_few_crops_of_a_case_are_drawn_anew_in_each_step() -> None:
    bags = SubjectBags(_Gradient(), ["case0"], batch_size=1, share=slice(None), crop=(4, 4, 4), crops=1)  # type: ignore[arg-type]
    stream = ReproducibleBatches(bags, 1)
    corners = Counter(float(stream[0, number]["data"].flatten()[0]) for number in range(80))  # type: ignore[index]
    assert len(corners) == 8


def test_processes_together_show_what_one_would_show() -> None:
    """The same crops, moved and turned alike, whichever process shows a case."""
    affine = RandomAffine(spacing=(1, 1, 1), p_rotation=0.7, p_scaling=0.7)
    options: dict[str, Any] = {"batch_size": 5, "crop": (4, 4, 4), "crops": 3, "shift": 0.5, "affine": affine}
    alone, *shared = (
        ReproducibleBatches(SubjectBags(_Gradient(), _Cases.identifiers, share=part, **options), 3, rank)  # type: ignore[arg-type]
        for rank, part in enumerate((slice(None), slice(0, 3), slice(3, 5)))
    )
    for number in range(3):
        whole, *parts = (each[0, number] for each in (alone, *shared))
        assert torch.equal(whole["data"], torch.cat([part["data"] for part in parts]))  # type: ignore[index]
        assert len({float(bag.sum()) for bag in whole["data"]}) == 5  # type: ignore[index]


class _Gradient(_Cases):
    def load_case(self, key: str) -> Any:
        return np.arange(512, dtype=np.float32).reshape(1, 8, 8, 8), None, None, {}
