"""The images of one case: all whole, with usable values, on one grid."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.grids import difference, distance_mm
from bdfm_nnunet.images.image_faults import Damaged, WrongAxes
from bdfm_nnunet.images.intensities import fault_of_intensities
from bdfm_nnunet.images.volumes import Volume, read_volume


def read_channels(
    paths: Sequence[Path], *, by_nibabel: bool, flat: bool = False, again: str = "convert it again"
) -> Volume:
    """Read all images of a case, one after the other, and return the first.

    Args:
        paths: NIfTI files; at least one.
        by_nibabel: whether nnU-Net reads files by nibabel whose header SimpleITK refuses.
        flat: whether to read a two-dimensional file as one slice.
        again: how to get the file again, for messages.

    Raises:
        InputError: an image is damaged, is not 3-D, has values that are not numbers or no contrast, or has another
            grid than the first.
    """
    images = each_channel(paths, by_nibabel=by_nibabel, flat=flat, again=again)
    first = next(images)
    for _ in images:
        pass
    return first


def each_channel(
    paths: Sequence[Path], *, by_nibabel: bool, flat: bool = False, again: str = "convert it again"
) -> Iterator[Volume]:
    """Yield the images of a case; arguments and errors are those of `read_channels`."""
    first: Volume | None = None
    for path in paths:
        image = read_whole(path, by_nibabel=by_nibabel, flat=flat, again=again)
        if fault := fault_of_intensities(image):
            remedy = again if fault.startswith("is empty") else "repair it"
            raise InputError(f"{path} {fault}: {remedy} or remove the case")
        first = first or image
        check_grid(image, first)
        yield image


def read_whole(path: Path, *, by_nibabel: bool, flat: bool = False, again: str = "convert it again") -> Volume:
    """Return the volume of a complete NIfTI file.

    Raises:
        InputError: the file is cut off or damaged, or is not a 3-D volume.
    """
    try:
        return read_volume(path, str(path), by_nibabel=by_nibabel, flat=flat)
    except Damaged as fault:
        raise InputError(
            f"{path} cannot be read as NIfTI, it is truncated or damaged (it {fault.what}): {again} from a whole file"
        ) from None
    except WrongAxes as fault:
        raise InputError(
            f"{path} has the shape {fault.shape}, expected one 3-D volume: split it or remove the case"
        ) from None


def check_grid(volume: Volume, reference: Volume) -> None:
    """Refuse a volume on another grid than another volume of its case.

    Raises:
        InputError: shape, voxel size or position differ.
    """
    here, there, name = volume.grid, reference.grid, Path(reference.name).name
    if volume.flat != reference.flat:
        raise InputError(
            f"{volume.name} has {2 if volume.flat else 3} axes but {name} {2 if reference.flat else 3}: save the "
            "images of a case with the same"
        )
    what = difference(here, there)
    if what == "shape":
        raise InputError(
            f"{volume.name} has the shape {here.size} but {name} {there.size}: take both from the same source"
        )
    if what:
        raise InputError(
            f"{volume.name} lies up to {distance_mm(here, there):.3g} mm from {name} (another "
            f"{'voxel size' if what == 'spacing' else 'affine'}): register the files, or remove the case"
        )
