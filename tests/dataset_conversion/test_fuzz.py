"""Files with random faults: nothing but sentences comes out, and what is accepted is read the same by others."""

import gzip
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.dataset_conversion import convert_release
from bdfm_nnunet.dataset_conversion.release import Release, Source
from bdfm_nnunet.dataset_conversion.writing.case_record import REFUSED, CaseRecord

SHAPE = (6, 5, 4)
AFFINE = np.array([[-1.0, 0, 0, 5], [0, -1, 0, 30], [0, 0, 2, -4], [0, 0, 0, 1]])
MAP = {0: 0, 1: 1, 2: 2, 4: 3}
ENTRY = Release(
    name="fuzzed", title="fuzzed", dataset_name="Fuzzed", case_pattern=r"c\d+", patient_pattern=r"(c\d+)",
    channels={"a": Source("{case}_a"), "b": Source("{case}_b")}, label=(Source("{case}_seg"),),
    labels={1: "one", 2: "two", 4: "four"}, label_map={4: 3}, regions={"one": (1,), "two": (2,), "four": (3,)},
)  # fmt: skip
DIM, DATATYPE, PIXDIM, OFFSET, SCALING, CODES, QFORM, SFORM = 40, 70, 76, 108, 112, 252, 256, 280
"""Where the fields of a NIfTI-1 header begin."""
ODD = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 1e-20, 1e20, 3.3e38, 1e-3, float("nan"), float("inf"), -float("inf"))

Plain = bytearray
Fault = Callable[[random.Random, Plain], None]


def _floats(dice: random.Random, plain: Plain, start: int, count: int) -> None:
    at = start + 4 * dice.randrange(count)
    value = dice.choice([*ODD, dice.uniform(-300, 300)])
    plain[at : at + 4] = np.float32(value).tobytes()


def _shorts(dice: random.Random, plain: Plain, start: int, count: int, values: tuple[int, ...]) -> None:
    at = start + 2 * dice.randrange(count)
    plain[at : at + 2] = np.int16(dice.choice(values)).tobytes()


def _any_bytes(dice: random.Random, plain: Plain) -> None:
    for _ in range(dice.randint(1, 4)):
        plain[dice.randrange(352)] = dice.randrange(256)


def _voxels(dice: random.Random, plain: Plain, type_: str, values: tuple[float, ...]) -> None:
    """Voxels of another type; the label values of a good file, some changed."""
    array = np.array(dice.choices((0, 1, 2, 4), k=int(np.prod(SHAPE)))).astype(type_)
    with np.errstate(invalid="ignore", over="ignore"):
        array[: dice.randint(0, 3)] = np.array(dice.choice(values)).astype(type_)
    header = nib.Nifti1Header(bytes(plain[:348]), check=False)
    header.set_data_dtype(np.dtype(type_))
    plain[:] = header.binaryblock + bytes(plain[348:352]) + array.tobytes()


def _several(dice: random.Random, plain: Plain) -> None:
    count = dice.choice((1, 2, 3))
    plain[DIM : DIM + 10] = np.array([4, *SHAPE, count], "<i2").tobytes()
    plain += plain[352:] * (count - 1)


def _swapped(dice: random.Random, plain: Plain) -> None:
    """In the other byte order, unless another fault has made that impossible."""
    with suppress(Exception):
        image = nib.Nifti1Image.from_bytes(bytes(plain))
        header = image.header.as_byteswapped()
        values = np.asanyarray(image.dataobj.get_unscaled())
        plain[:] = header.binaryblock + bytes(4) + values.astype(header.get_data_dtype()).tobytes(order="F")


INSIDE: tuple[Fault, ...] = (
    _any_bytes,
    lambda dice, plain: _shorts(dice, plain, DIM, 8, (0, -1, 1, 2, 3, 4, 5, 6, 7, 8, 300, 32767)),
    lambda dice, plain: _shorts(dice, plain, DATATYPE, 2, (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1536)),
    lambda dice, plain: _shorts(dice, plain, CODES, 2, (0, 1, 2, 3, 4, 9, -1)),
    lambda dice, plain: _floats(dice, plain, PIXDIM, 8),
    lambda dice, plain: _floats(dice, plain, OFFSET, 1),
    lambda dice, plain: _floats(dice, plain, SCALING, 2),
    lambda dice, plain: _floats(dice, plain, QFORM, 6),
    lambda dice, plain: _floats(dice, plain, SFORM, 12),
    lambda dice, plain: _voxels(dice, plain, dice.choice(("u1", "i1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8")),
                                (3, 5, -1, 7, 255, 70000, 2**40, 2**63)),
    lambda dice, plain: _voxels(dice, plain, dice.choice(("<f4", "<f8")), (1.5, float("nan"), float("inf"), 1e300, -4)),
    lambda dice, plain: plain.__delitem__(slice(dice.randrange(len(plain)), None)),
    lambda dice, plain: plain.__iadd__(bytes(dice.randrange(50))),
    lambda dice, plain: plain.__setitem__(slice(0, 4), (540).to_bytes(4, "little")),
    _several,
    _swapped,
)  # fmt: skip


def _packed(dice: random.Random, plain: Plain) -> bytes:
    """Compressed, at times with a fault in the stream."""
    content = bytearray(gzip.compress(bytes(plain), mtime=0))
    fault = dice.randrange(12)
    if fault == 0:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    elif fault == 1:
        del content[dice.randrange(len(content)) :]
    elif fault == 2:
        content += dice.randbytes(dice.randrange(9))
    return bytes(plain) if fault == 3 else bytes(content)


def _write_case(root: Path, case: str, seed: int) -> None:
    """A good case with faults in one of its files, or in the same way in all of them."""
    dice, numbers = random.Random(seed), np.random.default_rng(seed)
    faulty = dice.choice(("a", "b", "seg", "all"))
    rolls = dice.random()
    for role in ("a", "b", "seg"):
        values = numbers.choice((0, 1, 2, 4), SHAPE) if role == "seg" else numbers.integers(0, 500, SHAPE)
        plain = bytearray(nib.Nifti1Image(values.astype(np.uint8 if role == "seg" else np.int16), AFFINE).to_bytes())
        content = gzip.compress(bytes(plain), mtime=0)
        if faulty in (role, "all"):
            same = random.Random(rolls)
            for _ in range(same.choice((0, 1, 1, 1, 2))):
                if len(plain) >= 352:
                    same.choice(INSIDE)(same, plain)
            content = _packed(same, plain)
        (root / f"{case}_{role}.nii.gz").write_bytes(content)


def _check_accepted(root: Path, folder: Path, record: CaseRecord) -> None:
    """What nnU-Net will read is what nibabel reads in the download, and all files lie on one grid."""
    images = {role: sitk.ReadImage(str(folder / target)) for role, target in record.targets.items()}
    corners = []
    for role, image in images.items():
        there = nib.load(root / record.sources[role])
        expected = np.asanyarray(there.dataobj)
        expected = expected.reshape(image.GetSize())
        values = sitk.GetArrayFromImage(image).transpose()
        if role == "label":
            whole = np.rint(expected).astype(np.int64)  # a tiny intercept in the header makes 0.999999999998 of a 1
            assert np.abs(expected - whole).max() < 1e-3
            assert record.labels == {int(value): int((whole == value).sum()) for value in np.unique(whole)}
            expected = np.vectorize(MAP.__getitem__)(whole)
            np.testing.assert_array_equal(values, expected)
        else:
            assert np.isfinite(values).all()
            largest = float(np.abs(expected).max())
            np.testing.assert_allclose(values.astype(float), expected, rtol=1e-5, atol=1e-6 * largest)
        assert list(image.GetSize()) == record.shape
        corners.append([image.TransformIndexToPhysicalPoint(at) for at in
                        [(0, 0, 0), tuple(size - 1 for size in image.GetSize())]])  # fmt: skip
    np.testing.assert_allclose(corners, np.broadcast_to(corners[0], np.shape(corners)), atol=0.02)


def _run(tmp_path: Path, seeds: range) -> list[CaseRecord]:
    root = tmp_path / "fuzzed"
    root.mkdir()
    for seed in seeds:
        _write_case(root, f"c{seed:05}", seed)
    report = convert_release(ENTRY, root, dataset_id=9)
    assert [record.case for record in report.records] == [f"c{seed:05}" for seed in seeds]
    for record in report.records:
        written = {path.name for path in report.folder.rglob(f"{record.case}*.nii.gz")}
        if record.status == REFUSED:
            assert not written
            assert any(f"{record.case}_{role}.nii.gz" in record.reason for role in ("a", "b", "seg")), record.reason
            assert ": " in record.reason and "\n" not in record.reason
        else:
            assert len(written) == 3
            _check_accepted(root, report.folder, record)
    return report.records


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_random_faults(tmp_path: Path, raw: Path) -> None:
    statuses = [record.status for record in _run(tmp_path, range(160))]
    assert 24 < statuses.count("ok") < 136 and statuses.count(REFUSED) > 24


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_many_random_faults(tmp_path: Path, raw: Path) -> None:
    assert len(_run(tmp_path, range(1000, 5000))) == 4000
