"""Clips of stored runs: the right voxels, and no more bytes from the disk than their blocks hold."""

from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
from packaging.version import Version

from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import FOLDER, SequenceHeader, write_frames, write_header, write_mask

SHAPE = (48, 48, 48, 24)
BLOCK_BYTES = 16**3 * 4 * 2
CHUNK_BYTES = 48**3 * 4 * 2
READS_BLOCKS = Version(blosc2.__version__) >= Version("4.14")
"""Blosc2 4.3, the last for Python 3.10, reads whole chunks of four frames, and the first one twice."""
HEADER = SequenceHeader(
    shape=SHAPE, spacing=(2.0, 2.0, 2.0), repetition_time=0.8, affine=np.diag([2.0, 2, 2, 1]).tolist(),
    brain_box=[[0, 48]] * 3, brain_voxels=48**3, mask="given", background=-1.0, mean=0.0, std=1.0,
    source_repetition_time=0.8, source_frames=24,
)  # fmt: skip


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**15), 2**15, SHAPE, dtype=np.int16)  # cannot be compressed


@pytest.fixture(scope="module")
def folder(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("Dataset700_Runs")
    runs = folder / FOLDER
    runs.mkdir()
    write_frames(runs / "a.b2nd", [frames], SHAPE, np.int16)
    write_mask(runs / "a_mask.b2nd", frames[..., 0] > 0)
    write_header(runs / "a.json", replace(HEADER, store="int16", scale=0.5))
    write_header(runs / "b.json", HEADER)
    (runs / "._a.json").write_text("{}")
    return folder


def _bytes_read() -> int:
    counts = Path("/proc/self/io")
    if not counts.exists():
        pytest.skip("this system does not count the bytes that a process reads")
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["rchar"])


BOXES = [None, [[0, 16], [0, 16], [0, 16]], [[10, 30], [17, 31], [32, 48]], [[47, 48], [0, 1], [20, 21]]]


@pytest.mark.parametrize(("start", "length"), [(0, 4), (5, 1), (7, 11), (0, 24)])
@pytest.mark.parametrize("box", BOXES)
def test_a_clip_reads_only_its_blocks(
    box: list[list[int]] | None, start: int, length: int, folder: Path, frames: np.ndarray
) -> None:
    cases = SequenceCases(folder)
    cases.header("a")
    before = _bytes_read()
    clip = cases.clip("a", start, length, box)
    read = _bytes_read() - before
    part = tuple(slice(low, high) for low, high in (*(box or [[0, 48]] * 3), (start, start + length)))
    np.testing.assert_array_equal(clip, frames[part].astype(np.float32) / 2)
    assert clip.dtype == np.float32
    sizes = [16, 16, 16, 4]
    blocks = np.prod([-(-each.stop // size) - each.start // size for each, size in zip(part, sizes)])
    chunks = -(-(start + length) // 4) - start // 4
    most = 1.05 * blocks * BLOCK_BYTES + 4096 * blocks if READS_BLOCKS else 1.05 * (chunks + 1) * CHUNK_BYTES
    assert read <= most + 65536
    assert read >= 0.9 * blocks * BLOCK_BYTES  # the count counts


def test_the_mask_and_its_parts(folder: Path, frames: np.ndarray) -> None:
    cases = SequenceCases(folder)
    assert cases.cases == ("a", "b")
    np.testing.assert_array_equal(cases.mask("a"), frames[..., 0] > 0)
    np.testing.assert_array_equal(cases.mask("a", BOXES[2]), frames[10:30, 17:31, 32:48, 0] > 0)


@pytest.mark.parametrize(
    ("start", "length", "box"),
    [(-1, 4, None), (21, 4, None), (0, 0, None), (0, 4, [[0, 49], [0, 4], [0, 4]]), (0, 4, [[4, 4], [0, 4], [0, 4]]),
     (0, 4, [[0, 4]])],
)  # fmt: skip
def test_what_is_outside_is_refused(start: int, length: int, box: list[list[int]] | None, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"has 24 frames, not|is not inside"):
        SequenceCases(folder).clip("a", start, length, box)


def test_missing_folders_and_files_are_sentences(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no folder sequencesTr"):
        SequenceCases(tmp_path)
    with pytest.raises(InputError, match="has no run c"):
        SequenceCases(folder, ["a", "c"])
    with pytest.raises(InputError, match=r"b\.b2nd cannot be read"):
        SequenceCases(folder, ["b"]).clip("b", 0, 4)
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(InputError, match="holds no run"):
        SequenceCases(tmp_path)
