"""Headers of DICOM files: what counts as an image, and what one tells."""

import gzip
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from bdfm_nnunet.dataset_conversion.reading.dicom_tree import FoundSeries
from bdfm_nnunet.dataset_conversion.reading.series_contrasts import contrast_of
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.dicom_headers import Frame, SeriesFacts, quietly, read_header
from bdfm_nnunet.images.dicom_volumes import read_stack, stack_of
from tests.dicom_series import Series, Study, turned

OTHERS = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
STRANGERS = Path(pydicom.__file__).parent / "data" / "test_files"


@pytest.mark.parametrize("per_frame", [False, True], ids=["shared", "per frame"])
def test_multi_frame_images_tell_what_single_ones_do(per_frame: bool, tmp_path: Path) -> None:
    series = Series(Study(), direction=turned(10, 40), slope=2.0)
    single, multi = series.write(tmp_path / "single"), series.write_enhanced(tmp_path / "multi", per_frame=per_frame)
    with quietly():
        facts, frames = zip(*(header for path in single if not isinstance(header := read_header(path), str)))
        whole = read_header(multi)
    assert not isinstance(whole, str)
    assert (whole[0].echo_time, whole[0].repetition_time, whole[0].flip_angle) == (2.5, 2200, 9)
    assert (facts[0].echo_time, facts[0].repetition_time, facts[0].flip_angle) == (2.5, 2200, 9)
    names = ("position", "direction", "spacing", "size", "rescale", "thickness")
    ones = {tuple(getattr(frame, name) for name in names) for (frame,) in frames}
    assert ones == {tuple(getattr(frame, name) for name in names) for frame in whole[1]} and len(ones) == 10


@pytest.mark.parametrize(
    ("name", "kind"),
    [("rtplan.dcm", "RTPLAN"), ("liver_1frame.dcm", "SEG"), ("test-SR.dcm", "SR"), ("README.txt", ""),
     ("dicomdirtests/DICOMDIR", "DICOMDIR"), ("zipMR.gz", "")],
)  # fmt: skip
def test_files_that_are_no_images(name: str, kind: str) -> None:
    with quietly():
        assert read_header(STRANGERS / name) == kind


@pytest.mark.parametrize("head", [b"", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\x08\0\x05\0CS" + b"\xff" * 40])
def test_damaged_files_are_no_images(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(head)
    with quietly():
        assert read_header(tmp_path / "x") == ""


SYNTAXES = ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
            "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm")  # fmt: skip


def _of_nibabel(name: str, folder: Path) -> tuple[Path, SeriesFacts, list[Frame]]:
    path = folder / "image"
    path.write_bytes(gzip.decompress((OTHERS / name).read_bytes()))
    with quietly():
        header = read_header(path)
    assert not isinstance(header, str)
    return path, *header


@pytest.mark.filterwarnings("ignore:The DICOM readers are highly experimental")
def test_a_philips_image_lies_where_nibabel_says(tmp_path: Path) -> None:
    """A real multi-frame MPRAGE, tilted in two directions; its frames tell everything, its shared groups nothing."""
    from nibabel.nicom.dicomwrappers import wrapper_from_file

    path, facts, frames = _of_nibabel("philips_mprage.dcm.gz", tmp_path)
    stack = stack_of(frames, "it")
    assert (facts.modality, stack.shape, stack.plane) == ("MR", (256, 256, 176), "sagittal")
    assert contrast_of(facts).channel == "T1"
    theirs = wrapper_from_file(path)

    def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        found = np.array([affine @ (*index, 1) for index in product(*((0, size - 1) for size in shape))])[:, :3]
        return found[np.lexsort(np.round(found).T)]

    expected = corners(theirs.affine, theirs.image_shape)
    assert np.allclose(corners(stack.affine, stack.shape), expected, atol=0.01)


def test_a_siemens_mosaic_is_no_volume(tmp_path: Path) -> None:
    path, facts, frames = _of_nibabel("siemens_dwi_0.dcm.gz", tmp_path)
    series = FoundSeries(facts)
    series.add(facts, frames)
    with pytest.raises(Refusal, match="holds mosaics, all slices in one image"):
        series.stack()


def test_one_image_in_many_transfer_syntaxes_has_the_same_values() -> None:
    found = set()
    for name in SYNTAXES:
        with quietly():
            header = read_header(STRANGERS / name)
        assert not isinstance(header, str)
        (frame,) = header[1]
        higher = tuple(a + b for a, b in zip(frame.position, (0, 0, 1)))
        other = type(frame)(**{each: getattr(frame, each) for each in frame.__slots__} | {"position": higher})
        volume = read_stack(stack_of([frame, other], name), name)
        assert volume.shape == [64, 64, 2]
        found.add(volume.array.astype("<i4").tobytes())
    assert len(found) == 1
