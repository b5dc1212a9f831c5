"""One run: what is stored of it, and every fault as one sentence that leaves no file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.data.sequence_cases import SequenceCases
from bdfm_nnunet.dataset_conversion.reading.functional_layout import fmri_folder_release
from bdfm_nnunet.dataset_conversion.run_folders import convert_runs
from bdfm_nnunet.dataset_conversion.run_settings import RunSettings
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import SequenceHeader
from tests.dataset_conversion.run_trees import AFFINE, FRAMES, SHAPE, TR, brain, confounds, frames, save

SMALL: dict[str, Any] = {"spacing": 8.0, "time_step": TR, "size": 24, "min_frames": 4}


class Folder:
    """A download of one run `a`, with mask and confounds where they are written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.raw = root.parent / "nnUNet_raw"
        root.mkdir()

    def write(self, values: np.ndarray, **more: Any) -> None:
        save(self.root / "a_bold.nii.gz", values, **more)

    def mask(self, values: np.ndarray, **more: Any) -> None:
        save(self.root / "a_mask.nii.gz", values.astype(np.uint8), **more)

    def convert(self, *, template: bool = True, **settings: Any) -> CaseRecord:
        release = fmri_folder_release(
            "{case}_bold", mask="{case}_mask", confounds="{case}.tsv", template=template
        )  # fmt: skip
        chosen = RunSettings(**{**SMALL, **settings})
        (record,) = convert_runs(release, self.root, dataset_id=700, settings=chosen).records
        return record

    def stored(self) -> tuple[np.ndarray, np.ndarray, SequenceHeader]:
        cases = SequenceCases(self.raw / "Dataset700_FMRI")
        header = cases.header("a")
        return cases.clip("a", 0, header.shape[3]), cases.mask("a"), header


@pytest.fixture
def folder(tmp_path: Path, raw: Path) -> Folder:
    return Folder(tmp_path / "download")


def _expected(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Standard scores on the lattice of the template: its axes in RAS, x from -90 mm on, the run starts at -88."""
    from scipy.interpolate import RegularGridInterpolator

    where = np.indices((24, 24, 24)).reshape(3, -1).T * 8.0 + (-96, -114, -78)
    at = (np.linalg.inv(AFFINE) @ np.c_[where, np.ones(len(where))].T)[:3].T
    at = np.where((at > -0.5) & (at < np.array(SHAPE) - 0.5), np.clip(at, 0, np.array(SHAPE) - 1), np.nan)
    inside = np.isfinite(at).all(axis=1)
    both = np.concatenate([values, mask[..., None]], axis=3).astype(float)
    found = RegularGridInterpolator([np.arange(n) for n in SHAPE], both)(np.where(inside[:, None], at, 0))
    found[~inside] = 0
    found = found.reshape(24, 24, 24, -1)
    stored = found[..., -1] >= 0.5
    scores = found[..., :-1]
    scores = (scores - scores[stored].mean()) / scores[stored].std(ddof=1)
    scores[~stored] = scores[stored].min()
    return scores


@pytest.mark.parametrize("store", ["float16", "int16", "int8"])
def test_standard_scores_of_the_brain(store: str, folder: Folder) -> None:
    """By an independent interpolation; float16 and int16 keep them to 0.002, int8 to half a step."""
    values, mask = frames(), brain()
    folder.write(np.where(mask[..., None], values, 300).astype(np.int16))
    folder.mask(mask)
    record = folder.convert(store=store)
    assert record.status == "ok", record.reason
    clip, stored_mask, header = folder.stored()
    expected = _expected(np.where(mask[..., None], values, 300), mask)
    largest = np.abs(clip - expected)[stored_mask].max()
    bound = {"float16": 0.002, "int16": 0.0005, "int8": 0.51 * header.scale}[store]
    assert largest <= bound and header.largest_error <= bound
    assert header.largest_error > 0 and ("int8 changes" in " ".join(record.notes)) == (store == "int8")
    outside = clip[~stored_mask]
    assert (outside == np.float32(header.background)).all() and header.background == pytest.approx(
        expected.min(), abs=bound
    )
    assert header.brain_voxels == stored_mask.sum()
    (x0, x1), (y0, y1), (z0, z1) = header.brain_box
    assert stored_mask[x0:x1, y0:y1, z0:z1].sum() == stored_mask.sum()
    assert all(stored_mask.any(axis=axes)[[low, high - 1]].all() for axes, (low, high) in
               zip(((1, 2), (0, 2), (0, 1)), header.brain_box))  # fmt: skip
    np.testing.assert_allclose(np.diag(header.affine), [8, 8, 8, 1])


@pytest.mark.parametrize("store", ["float16", "int16"])
def test_standard_scores_of_each_voxel_show_its_changes_alone(store: str, folder: Folder) -> None:
    values = frames().astype(float)
    folder.write(values.astype(np.float32))
    folder.mask(brain())
    assert folder.convert(store=store, standardise="voxel").status == "ok"
    clip, mask, header = folder.stored()
    bound = {"float16": 0.002, "int16": 0.0005}[store]
    expected = _expected(values, brain())
    deviations = expected[mask].std(axis=1, ddof=1, keepdims=True)
    expected = (expected[mask] - expected[mask].mean(axis=1, keepdims=True)) / deviations
    assert np.abs(clip[mask] - expected).max() <= bound and 0 < header.largest_error <= bound
    assert deviations.max() > 1.1 * deviations.min()  # one deviation for all voxels would not do
    assert header.standardised == "voxel" and header.background == 0 and not clip[~mask].any()
    folder.convert(store=store)
    whole, _, run = folder.stored()
    assert (run.standardised, run.mean, run.std) == ("run", header.mean, header.std)
    assert np.abs(whole[mask].mean(axis=1)).max() > 0.1  # anatomy


def test_a_voxel_that_changes_by_rounding_alone_stays_near_zero(folder: Folder) -> None:
    values = frames().astype(np.float32)
    middle = tuple(size // 2 for size in SHAPE)
    around = tuple(slice(at - 2, at + 3) for at in middle)
    values[around] = 1000.0
    values[(*around, 0)] = np.nextafter(np.float32(1000), np.float32(2000))
    folder.write(values)
    folder.mask(brain())
    folder.convert(standardise="voxel")
    clip, mask, _ = folder.stored()
    still = mask & (np.abs(clip).max(axis=3) < 0.3)
    assert still.any() and np.abs(clip[mask & ~still]).max(axis=1).min() > 1


def test_a_flipped_and_turned_file_gives_the_same_run(folder: Folder) -> None:
    found = []
    swapped = AFFINE[:, [1, 2, 0, 3]]
    flipped = AFFINE @ np.array([[-1, 0, 0, SHAPE[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for affine, turn in (
        (AFFINE, lambda v: v),
        (flipped, lambda v: v[::-1]),
        (swapped, lambda v: np.moveaxis(v, 0, 2)),
    ):
        folder.write(np.ascontiguousarray(turn(frames())), affine=affine)
        record = folder.convert()
        found.append((folder.stored()[0], record.sha256["bold"]))
    for clip, digest in found[1:]:
        np.testing.assert_array_equal(clip, found[0][0])
        assert digest == found[0][1]  # the same scan, so that exposure and splits know it


def test_frames_before_the_steady_state_are_dropped(folder: Folder) -> None:
    values = frames()
    bright = values.copy()
    bright[..., :3] *= 3
    (folder.root / "a.tsv").write_text(confounds(non_steady=[0, 1, 2], displacement=0.2))
    folder.write(bright)
    folder.convert()
    clip, _, header = folder.stored()
    assert (header.frames_dropped, header.shape[3], header.displacement) == (3, FRAMES - 3, pytest.approx(0.2))
    (folder.root / "a.tsv").unlink()
    folder.write(values[..., 3:])
    folder.convert()
    np.testing.assert_array_equal(clip, folder.stored()[0])
    folder.write(bright)
    folder.convert(drop=3)
    np.testing.assert_array_equal(clip, folder.stored()[0])


def test_time_is_resampled(folder: Folder) -> None:
    folder.write(frames())
    folder.convert(time_step=TR / 2)
    clip, mask, header = folder.stored()
    assert header.shape[3] == 2 * FRAMES and header.repetition_time == TR / 2
    folder.convert()
    once, _, other = folder.stored()
    values = clip[mask] * header.std + header.mean
    expected = once[mask] * other.std + other.mean
    middle = (values[:, 1] + values[:, 2]) / 2  # a quarter after the first frame, a quarter before the second
    np.testing.assert_allclose(middle, (expected[:, 0] + expected[:, 1]) / 2, atol=0.003 * header.std)
    np.testing.assert_allclose(values[:, 0], expected[:, 0], atol=0.003 * header.std)


def test_the_mask_is_derived_from_all_frames(folder: Folder) -> None:
    """A brain voxel that is zero in some frames stays; one that is not zero in a few is none."""
    values = frames()
    inner, outer = np.argwhere(brain())[400], (0, 0, 0)
    values[(*inner, slice(0, 5))], values[(*outer, slice(0, 5))] = 0, 900
    folder.write(values)
    record = folder.convert(grid="own", size=0)
    _, mask, header = folder.stored()
    expected = brain()[::-1]
    np.testing.assert_array_equal(mask, expected)
    assert "not zero in more than half" in header.mask and any("brain mask derived" in note for note in record.notes)


def test_without_a_zero_background_the_bright_piece_is_taken(folder: Folder) -> None:
    noise = np.random.default_rng(5).integers(1, 60, (*SHAPE, FRAMES))
    folder.write((frames() + noise).astype(np.int16))
    folder.convert(grid="own", size=0)
    _, mask, header = folder.stored()
    assert "Otsu" in header.mask
    assert (mask == brain()[::-1]).mean() > 0.99


# ---------------------------------------------------------------------------------------------------------- faults


def _write(folder: Folder, values: np.ndarray | None = None, **more: Any) -> None:
    folder.write(frames() if values is None else values, **more)


def _cut(folder: Folder) -> None:
    _write(folder)
    path = folder.root / "a_bold.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])


def _nan(folder: Folder) -> None:
    values = frames().astype(np.float32)
    values[4, 4, 4, 9] = np.nan
    _write(folder, values)


def _with_mask(mask: Callable[[], np.ndarray], **more: Any) -> Callable[[Folder], None]:
    def write(folder: Folder) -> None:
        _write(folder)
        folder.mask(mask(), **more)

    return write


def _with_confounds(content: str) -> Callable[[Folder], None]:
    def write(folder: Folder) -> None:
        _write(folder)
        (folder.root / "a.tsv").write_text(content)

    return write


MOVED = AFFINE.copy()
MOVED[0, 3] += 4
AWAY = AFFINE.copy()
AWAY[1, 3] -= 60
STILL = np.repeat(frames()[..., :1], FRAMES, axis=3)
FAULTS: dict[str, tuple[Callable[[Folder], None], dict[str, Any], str]] = {
    "3-D": (lambda f: _write(f, frames()[..., 0]), {}, r"a_bold\.nii\.gz is 3-D \(23 x 27 x 23\)"),
    "one frame": (lambda f: _write(f, frames()[..., :1]), {}, "has one frame only"),
    "no tr": (lambda f: _write(f, tr=None), {}, "does not tell the time between its frames"),
    "ms": (lambda f: _write(f, tr=1600), {}, "if ms are meant, give --tr 1.6"),
    "too slow": (lambda f: _write(f, tr=60), {}, "is 60 s, where 0.2 to 10 s"),
    "truncated": (_cut, {}, r"a_bold\.nii\.gz is a truncated gzip file"),
    "nan": (_nan, {}, "has 1 voxels that are NaN or infinite from frame 9 on"),
    "still": (lambda f: _write(f, STILL), {}, "the same value in all frames in 100% of the voxels"),
    "zeros": (lambda f: _write(f, 0 * frames()), {}, "has no brain in the stored box"),
    "one value": (lambda f: _write(f, 0 * frames() + 7), {}, "has the same value in all frames"),
    "mask of another shape": (_with_mask(lambda: brain()[1:]), {}, r"a_mask\.nii\.gz has shape 22 x 27 x 23"),
    "mask of another place": (_with_mask(brain, affine=MOVED), {}, "has another affine"),
    "empty mask": (_with_mask(lambda: 0 * brain()), {}, "is no brain mask"),
    "mask elsewhere": (_with_mask(lambda: ~brain()), {}, "the same value in all frames in 94%"),
    "short confounds": (_with_confounds(confounds(13)), {}, r"a\.tsv has 13 rows but a_bold\.nii\.gz has 14 frames"),
    "no confounds": (_with_confounds("x"), {}, r"a\.tsv has no row of numbers"),
    "motion": (_with_confounds(confounds(displacement=0.6)), {"max_displacement": 0.5}, "of 0.6 mm, more than 0.5"),
    "motion unknown": (_write, {"max_displacement": 0.5}, "is not known .it has no table of confounds"),
    "not told": (_with_confounds("a\tb\n" + "1\t2\n" * 14), {"max_displacement": 0.5}, "does not tell it"),
    "short": (_write, {"min_frames": 15}, r"gives 14 frames of 1.6 s \(14 of 1.6 s, 0 dropped\), fewer than 15"),
    "all dropped": (_write, {"drop": 99}, "gives 0 frames"),
    "scanner": (lambda f: _write(f, code=1), {}, "lies in the space of the scanner"),
    "away": (lambda f: _write(f, affine=AWAY), {}, r"has its brain 47 mm away from that of the MNI"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_sentence_and_leaves_nothing(fault: str, folder: Folder) -> None:
    write, settings, sentence = FAULTS[fault]
    write(folder)
    record = folder.convert(**settings)
    assert record.status == "refused"
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(record.reason)
    assert "\n" not in record.reason and ": " in record.reason
    runs = folder.raw / "Dataset700_FMRI/sequencesTr"
    assert not runs.exists() or not list(runs.iterdir())
    assert not (folder.raw / "Dataset700_FMRI/dataset.json").exists()


def test_a_run_that_breaks_while_it_is_written_leaves_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    from bdfm_nnunet.dataset_conversion.writing import run_conversion

    folder.write(frames())
    with monkeypatch.context() as broken, pytest.raises(InputError, match=r"cannot write .*a_mask\.b2nd"):
        broken.setattr(run_conversion, "write_mask", lambda path, mask: (_ for _ in ()).throw(OSError(28, "full")))
        folder.convert()
    assert not list((folder.raw / "Dataset700_FMRI/sequencesTr").glob("*.json"))
    assert not list((folder.raw / "Dataset700_FMRI/sequencesTr").glob(".*"))
    assert folder.convert().status == "ok"


@pytest.mark.parametrize(
    ("field", "value"),
    [("spacing", 0.1), ("time_step", 0), ("size", 3), ("grid", "mine"), ("drop", -1), ("max_displacement", 0),
     ("min_frames", 1), ("store", "float32"), ("standardise", "frame")],
)  # fmt: skip
def test_settings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        RunSettings(**{field: value})


def test_real_scans(folder: Folder, tmp_path: Path) -> None:
    """A slab of true EPI, and a file whose header says 2000 s for 2000 ms."""
    tests = Path(nib.__file__).parent / "tests/data"
    if not (tests / "functional.nii").exists():
        pytest.skip("nibabel came without its scans")
    for name in ("functional.nii", "example_nifti2.nii.gz"):
        (folder.root / name).write_bytes((tests / name).read_bytes())
    settings = RunSettings(spacing=4, time_step=2, size=24, min_frames=2)
    report = convert_runs(fmri_folder_release(), folder.root, dataset_id=701, settings=settings)
    assert [record.status for record in report.records] == ["refused", "ok"]
    assert "give --tr 2" in report.records[0].reason
    cases = SequenceCases(report.folder)
    clip, mask = cases.clip("functional", 0, 20), cases.mask("functional")
    inside = np.argwhere(mask).mean(axis=0)
    assert clip.shape == (24, 24, 24, 20) and np.abs(inside - 11.5).max() < 3
    assert abs(clip[mask].mean()) < 1e-3 and abs(clip[mask].std() - 1) < 1e-3
