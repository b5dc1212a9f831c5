"""Clips of runs: every frame once, the brain inside, and batches that depend on seed, number and place alone."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet.data.clip_batches import ClipPairs, Clips, clip_corner, clip_starts, read_clip, run_clips
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import SequenceHeader

BACKGROUND = -3.0


class MadeUpRuns:
    """Runs in memory whose voxels say where and when they are.

    Attributes:
        shapes: run -> voxels and frames.
        boxes: run -> box of its brain; by default all of it.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], **boxes: list[list[int]]) -> None:
        self.shapes, self.boxes = shapes, boxes
        self.read: list[tuple[str, int, int, Any]] = []

    def header(self, case: str) -> SequenceHeader:
        shape = self.shapes[case]
        box = self.boxes.get(case, [[0, size] for size in shape[:3]])
        return SequenceHeader(
            shape=shape, spacing=(2.0,) * 3, repetition_time=0.8, affine=np.diag([2.0, 2, 2, 1]).tolist(),
            brain_box=box, brain_voxels=1, mask="given", background=BACKGROUND, mean=0.0, std=1.0,
            source_repetition_time=0.8, source_frames=shape[3],
        )  # fmt: skip

    def voxels(self, case: str) -> np.ndarray:
        shape = self.shapes[case]
        return (np.arange(np.prod(shape)) + 10000 * list(self.shapes).index(case)).reshape(shape).astype(np.float32)

    def mask(self, case: str, box: Any = None) -> np.ndarray:
        part = tuple(slice(*pair) for pair in box)
        return (self.voxels(case)[..., 0] // self.shapes[case][3] % 3 > 0)[part]

    def clip(self, case: str, start: int, frames: int, box: Any = None) -> np.ndarray:
        assert 0 <= start <= self.shapes[case][3] - frames
        self.read.append((case, start, frames, box))
        return self.voxels(case)[(*(slice(*pair) for pair in box), slice(start, start + frames))]


@pytest.mark.parametrize("stride", [None, 1, 3, 20, 33])
@pytest.mark.parametrize("length", [1, 4, 20])
def test_clips_cover_a_run(length: int, stride: int | None) -> None:
    for frames in range(1, 45):
        starts = clip_starts(frames, length, stride)
        shown = [list(range(start, min(start + length, frames))) for start in starts]
        seen = [frame for clip in shown for frame in clip]
        assert all(shown), "a clip is empty"
        if stride is None:
            assert seen == list(range(frames))  # every frame once, in order
        elif stride <= length:
            assert sorted(set(seen)) == list(range(frames))
            assert len(shown) == 1 or max(shown[-2]) < frames - 1, "the last clip shows nothing new"
        else:
            assert starts == list(range(0, frames, stride)) and len(seen) == len(set(seen))


def test_clips_of_nothing_are_refused() -> None:
    for numbers in ((0, 4), (4, 0), (4, 4, 0)):
        with pytest.raises(ValueError, match="expected 1 or more"):
            clip_starts(*numbers)


@pytest.mark.parametrize(
    ("box", "expected"),
    [([0, 5], 0), ([9, 15], 8), ([16, 20], 12), ([0, 20], 6), ([3, 13], 4)],
)
def test_the_brain_is_in_the_clip(box: list[int], expected: int) -> None:
    header = MadeUpRuns({"a": (20, 20, 20, 5)}, a=[box] * 3).header("a")
    corner = clip_corner(header, (8, 8, 8))
    assert corner == (expected,) * 3
    rng = np.random.default_rng(0)
    places = {clip_corner(header, (8, 8, 8), rng)[0] for _ in range(200)}
    if box[1] - box[0] <= 8:
        assert places == {expected} and expected <= box[0] and expected + 8 >= box[1]
    else:
        assert places == set(range(box[0], box[1] - 8 + 1))


def test_a_smaller_run_lies_in_the_middle_of_its_background() -> None:
    runs = MadeUpRuns({"a": (5, 20, 8, 6)}, a=[[0, 5], [10, 17], [2, 3]])
    clip, brain = read_clip(runs, "a", 2, (8, 8, 8, 3))
    assert clip.shape == (1, 8, 8, 8, 3) and clip.dtype == torch.float32 and brain.shape == (8, 8, 8)
    np.testing.assert_array_equal(clip[0, 2:7], runs.voxels("a")[:, 9:17, :, 2:5])  # as published: more before
    np.testing.assert_array_equal(brain[2:7], runs.mask("a", [[0, 5], [9, 17], [0, 8]]))
    for outside in (clip[0, :2], clip[0, 7:]):
        assert (outside == BACKGROUND).all()
    assert not brain[:2].any() and not brain[7:].any() and brain.any()


def test_all_clips_of_a_run() -> None:
    runs = MadeUpRuns({"a": (4, 4, 4, 10)})
    clips = list(run_clips(runs, "a", (4, 4, 4, 4)))
    assert [clip.shape[-1] for clip, _ in clips] == [4, 4, 2]
    np.testing.assert_array_equal(torch.cat([clip for clip, _ in clips], -1)[0], runs.voxels("a"))
    assert [len(list(run_clips(runs, "a", (4, 4, 4, length), stride=2))) for length in (4, 12)] == [4, 1]


RUNS: dict[str, tuple[int, ...]] = {"a": (6, 6, 6, 12), "b": (6, 6, 6, 30), "c": (6, 6, 6, 19)}


def _clips(kind: type[Clips] = Clips, share: slice = slice(0, 4), **changes: Any) -> Any:
    settings: dict[str, Any] = {"size": (4, 4, 4, 5), "batch_size": 4, "share": share, "seed": 1, "stream": 2}
    return kind(MadeUpRuns(RUNS), list(RUNS), **settings | changes)


def test_batches_are_a_function_of_seed_stream_number_and_place() -> None:
    whole = _clips().generate_numbered_batch(3)
    assert whole["data"].shape == (4, 1, 4, 4, 4, 5) and whole["brain"].shape == (4, 4, 4, 4)
    assert whole["brain"].dtype == torch.bool and len(whole["keys"]) == 4
    parts = [_clips(share=slice(*ends)).generate_numbered_batch(3) for ends in ((0, 1), (1, 4))]
    assert torch.equal(torch.cat([part["data"] for part in parts]), whole["data"])
    assert [key for part in parts for key in part["keys"]] == whole["keys"]
    again = pickle.loads(pickle.dumps(_clips()))
    again.generate_numbered_batch(7)
    np.random.seed(99)  # noqa: NPY002 (nothing hangs on the global generators)
    assert torch.equal(again.generate_numbered_batch(3)["data"], whole["data"])
    for other in (_clips(seed=2), _clips(stream=3)):
        assert not torch.equal(other.generate_numbered_batch(3)["data"], whole["data"])
    assert not torch.equal(_clips().generate_numbered_batch(4)["data"], whole["data"])


def test_all_runs_starts_and_places_occur() -> None:
    clips = _clips()
    for number in range(60):
        clips.generate_numbered_batch(number)
    seen = [(case, start, box[0][0]) for case, start, _, box in clips.runs.read]
    assert {case for case, *_ in seen} == set(RUNS)
    assert {start for case, start, _ in seen if case == "a"} == set(range(12 - 5 + 1))
    assert {first for *_, first in seen} == {0, 1, 2}  # the brain is larger than the clip


def test_a_short_run_shortens_the_clips_of_its_batch_in_every_process() -> None:
    runs = MadeUpRuns({"long": (4, 4, 4, 30), "short": (4, 4, 4, 3)})
    lengths = {}
    for share in (slice(0, 1), slice(1, 3)):
        settings: Any = {"size": (4, 4, 4, 8), "batch_size": 3, "share": share, "seed": 0, "stream": 0}
        clips = Clips(runs, ["long", "short"], **settings)
        lengths[share.start] = [clips.generate_numbered_batch(number)["data"].shape[-1] for number in range(20)]
    assert lengths[0] == lengths[1] and set(lengths[0]) == {3, 8}


def test_two_clips_of_a_run_share_as_few_frames_as_can_be() -> None:
    pairs = _clips(ClipPairs)
    batch = pairs.generate_numbered_batch(0)
    assert batch["data"].shape == (4, 2, 4, 4, 4, 5) and batch["brain"].shape == (4, 2, 4, 4, 4)
    for number in range(40):
        pairs.generate_numbered_batch(number)
    read = pairs.runs.read
    gaps = {}
    for (case, first, *_), (other, second, *_) in zip(read[::2], read[1::2], strict=True):
        assert case == other
        gaps.setdefault(case, []).append(second - first)
    assert min(map(abs, gaps["b"])) == 5 and max(map(abs, gaps["b"])) > 15
    assert {min(found) < 0 < max(found) for found in gaps.values()} == {True}  # in either order
    short = _clips(ClipPairs, size=(4, 4, 4, 12))
    for number in range(20):
        short.generate_numbered_batch(number)
    starts = {(case, start) for case, start, frames, _ in short.runs.read if frames == 12 and case == "c"}
    assert starts == {("c", 0), ("c", 7)}


def test_two_clips_of_a_subject_are_of_its_other_run_on_this_side() -> None:
    pairs = ClipPairs(
        MadeUpRuns(RUNS), ["a", "b"], subjects={"a": 0, "b": 0, "c": 0}, size=(4, 4, 4, 5), batch_size=4,
        share=slice(0, 4), seed=0, stream=0,
    )  # fmt: skip
    for number in range(10):
        pairs.generate_numbered_batch(number)
    read = pairs.runs.read
    assert all({one[0], two[0]} == {"a", "b"} for one, two in zip(read[::2], read[1::2], strict=True))


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """Octants of 4 voxels of 2 mm as eight regions, and a rim of background, with its first axis to the left."""
    labels = np.zeros((10, 8, 8), dtype=np.int16)
    labels[2:] = np.arange(1, 9).reshape(2, 2, 2).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    affine = np.diag([-2.0, 2, 2, 1])
    affine[0, 3] = 2 * 9
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "atlas.nii.gz")
    return tmp_path / "atlas.nii.gz"


def test_regions_of_an_atlas_come_through_its_affine(atlas: Path) -> None:
    runs = MadeUpRuns({"a": (10, 8, 8, 5)})
    settings: Any = {"batch_size": 1, "share": slice(0, 1), "seed": 0, "stream": 0, "atlas": atlas}
    regions = Clips(runs, ["a"], size=(12, 8, 4, 5), **settings).generate_numbered_batch(0)["regions"]
    (corner,) = {clip_corner(runs.header("a"), (12, 8, 4), np.random.default_rng((0, 0, 0, 0)))[:2]}
    assert regions.shape == (1, 12, 8, 4) and corner == (-1, 0)
    labels = nib.load(atlas).get_fdata()[::-1]  # x of the run goes to the right
    found = regions[0, 1:11].numpy()
    assert any(np.array_equal(found, labels[..., first : first + 4]) for first in range(5))
    assert not regions[0, 0].any() and not regions[0, 11].any()


def test_atlases_that_do_not_fit_are_sentences(atlas: Path, tmp_path: Path) -> None:
    runs = MadeUpRuns({"a": (10, 8, 8, 5)})
    settings: Any = {"size": (8, 8, 8, 5), "batch_size": 1, "share": slice(0, 1), "seed": 0, "stream": 0}
    nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.int16), np.eye(4)), tmp_path / "one.nii.gz")
    nib.save(nib.Nifti1Image(np.arange(64.0).reshape(4, 4, 4) / 7, np.eye(4)), tmp_path / "parts.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no atlas")
    for name, words in (
        ("one", "regions"), ("parts", "whole-number labels"), ("text", "not a gzip file"), ("missing", "missing"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            Clips(runs, ["a"], **settings, atlas=tmp_path / f"{name}.nii.gz").generate_numbered_batch(0)
    header = replace(runs.header("a"), affine=[[2, 0, 0, 500], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    runs.header = lambda case: header  # type: ignore[method-assign]
    with pytest.raises(InputError, match=r"no region of .*atlas.nii.gz lies where run a does"):
        Clips(runs, ["a"], **settings, atlas=atlas).generate_numbered_batch(0)
