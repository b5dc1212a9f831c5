"""Inputs that have cost teams their submissions, or could: what each is, and what is right to do with it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from bdfm_nnunet.containers.container_settings import ContainerSettings
from bdfm_nnunet.containers.made_images import Drawing, huge_file, save, spoil

Right = Literal["same", "own grid", "named", "left aside"]
"""What is right: predicted as the plain case is; predicted on a grid of its own; named on the log and not predicted;
nothing is made of it."""
REFERENCE = "Plain-00001-000"


@dataclass(frozen=True)
class HostileInput:
    """One input beside others.

    Attributes:
        what: in words.
        right: what is right to do with it.
        make: writes it into the folder of the input.
        cases: names of the results that it would have.
    """

    what: str
    right: Right
    make: Callable[[Path], None]
    cases: tuple[str, ...] = ()


def hostile_inputs(settings: ContainerSettings, drawing: Drawing, *, powerless: bool) -> list[HostileInput]:
    """Return the inputs that suit a container.

    Args:
        settings: of the container.
        drawing: of the plain case.
        powerless: whether permissions bind the user who runs it.
    """
    several = len([name for name in settings.channels if name not in settings.optional]) > 1
    groups = [_names(drawing), _files(drawing), _values(drawing), _faults(drawing), _entries(drawing)]
    without_contrast: Right = "own grid" if settings.channels[0] in settings.optional else "named"
    constant = _changed(drawing, partial(np.full_like, fill_value=7), drawing.channels[0])
    groups.append(iter([_case("a constant image", "constant", constant, without_contrast)]))
    if several:
        groups.append(_channels(drawing))
    if settings.optional and len(settings.channels) > 1:
        groups.append(_missing(drawing, settings.optional[0]))
    if powerless:
        groups.append(_permissions(drawing))
    turned: Right = "same" if settings.orientation else "own grid"
    groups.append(iter([_turned(drawing, turned)]))
    return [each for group in groups for each in group]


def _case(what: str, name: str, write: Callable[[Path], None], right: Right = "same") -> HostileInput:
    """Return an input that is one folder with a case."""

    def make(source: Path) -> None:
        folder = source / name
        folder.mkdir(parents=True, exist_ok=True)
        write(folder)

    return HostileInput(what, right, make, (Path(name).name,))


def _names(drawing: Drawing) -> Iterator[HostileInput]:
    yield _case("the plain case", REFERENCE, drawing.write)
    for what, name in (
        ("no digits in the name", "patient"),
        ("spaces in the name", "a case of two  words"),
        ("letters beyond ASCII", "Fälle 漢字 é"),
        ("a dash in front", "-rf"),
        ("a dot in front", ".hidden case"),
        ("letters that shells read", "$(touch x) `y`;'&\"|*?"),
        ("a line feed in the name", "two\nlines"),
        ("bytes that are no UTF-8", os.fsdecode(b"bad \xff\xfe bytes")),
        ("a name that ends as files do", "case.nii.gz"),
        ("a time point after treatment", "BraTS-PED-00007-100"),
        ("a folder in a folder in a folder", "batch 1/site A/deep"),
    ):
        yield _case(what, name, lambda folder: drawing.write(folder, "x"))
    yield _case("a name of 240 bytes", "n" * 240, lambda folder: drawing.write(folder, "x"))
    yield _case(
        "a name that leaves no room for an ending", "m" * 253, lambda folder: drawing.write(folder, "x"), "named"
    )

    def sessions(source: Path) -> None:
        for subject in ("sub-1", "sub-2"):
            drawing.write(source / subject / "ses-1", "")

    yield HostileInput("the same folder name of two subjects", "same", sessions, ("sub-1_ses-1", "sub-2_ses-1"))

    def together(source: Path) -> None:
        for case in ("together-A", "together-B"):
            drawing.write(source / "together", case)

    yield HostileInput("two cases in one folder", "same", together, ("together-A", "together-B"))


def _files(drawing: Drawing) -> Iterator[HostileInput]:
    first = drawing.channels[0]

    def with_entry(path: str, content: bytes = b"\0" * 64) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            drawing.write(folder)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)

        return write

    def named(ending: str) -> Callable[[Path], None]:
        return lambda folder: drawing.write(folder, **{name: f"x-{name}{ending}" for name in drawing.channels})

    def with_volume(name: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            drawing.write(folder)
            save((drawing.values(first) > 90).astype(np.uint8), drawing.affine, folder / name)

        return write

    def plain(folder: Path) -> None:
        drawing.write(folder)
        path = folder / f"{folder.name}-{first}.nii"
        save(drawing.values(first), drawing.affine, path)
        path.replace(path.with_name(path.name + ".gz"))

    def by_number(folder: Path) -> None:
        drawing.write(folder, **{name: f"x_{at:04d}.nii.gz" for at, name in enumerate(drawing.channels)})

    yield _case("left-overs of a Mac and of Windows", "left-overs",
                with_entry(f"._left-overs-{first}.nii.gz"))  # fmt: skip
    yield _case("a hidden file of a file system", "ds store", with_entry(".DS_Store"))
    yield _case("a segmentation among the images", "with label", with_volume("with label-seg.nii.gz"))
    yield _case("a volume of another kind", "with another", with_volume("with another-something.nii.gz"))
    yield _case("a text among the images", "with text", with_entry("notes.txt"))
    yield _case("files that end in .nii", "uncompressed", named(".nii"))
    yield _case("endings in capitals", "capitals", named(".NII.GZ"))
    yield _case("a broken .nii beside the .nii.gz", "beside", with_entry(f"beside-{first}.nii"))
    yield _case("no compression in spite of the name", "plain inside", plain)
    yield _case("channels by number", "numbers", by_number)


def _values(drawing: Drawing) -> Iterator[HostileInput]:
    for kind in ("uint8", "float64", ">i2", "uint32"):
        written = _changed(drawing, partial(np.ndarray.astype, dtype=kind))
        yield _case(f"values of type {kind}", f"type {kind.strip('>')}", written)

    def scaled(folder: Path) -> None:
        drawing.write(folder)
        for channel in drawing.channels:
            half = drawing.values(channel) // 2
            save(half, drawing.affine, folder / f"{folder.name}-{channel}.nii.gz", scl_slope=2, scl_inter=0)

    yield _case("a scaling in the header", "scaled", scaled)
    yield _case("an axis of one volume more", "one more axis", _changed(drawing, lambda v: v[..., None]))
    yield _case("some voxels NaN and infinite", "some NaN", _changed(drawing, lambda v: spoil(v, 0.05)), "own grid")
    tiny = replace(drawing, shape=(4, 5, 3))
    yield _case("a volume of 4 x 5 x 3 voxels", "tiny", tiny.write, "own grid")
    one = replace(drawing, shape=(30, 32, 1))
    yield _case("a volume of one slice", "one slice", one.write, "own grid")
    coarse = replace(
        drawing, spacing=tuple(step * factor for step, factor in zip(drawing.spacing, (0.7, 0.7, 3), strict=True))
    )
    yield _case("another voxel size", "coarse", coarse.write, "own grid")

    def oblique(folder: Path) -> None:
        turn = nib.eulerangles.euler2mat(0.2, 0.1, 0.3)
        affine = drawing.affine
        affine[:3, :3] = turn @ affine[:3, :3]
        for channel in drawing.channels:
            save(drawing.values(channel), affine, folder / f"{folder.name}-{channel}.nii.gz")

    yield _case("an oblique volume", "oblique", oblique, "own grid")


def _turned(drawing: Drawing, right: Right) -> HostileInput:
    """Return the plain case with its axes in another order and direction."""

    def write(folder: Path) -> None:
        for channel in drawing.channels:
            image = nib.Nifti1Image(drawing.values(channel), drawing.affine)
            turn = nib.orientations.ornt_transform(
                nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(("S", "R", "A"))
            )
            other = image.as_reoriented(turn)
            save(np.asanyarray(other.dataobj), other.affine, folder / f"{folder.name}-{channel}.nii.gz")

    return _case("axes in another order and direction", "turned", write, right)


def _changed(drawing: Drawing, change: Callable[[Any], Any], *channels: str) -> Callable[[Path], None]:
    """Return what writes a case with changed values of some channels, by default all."""

    def write(folder: Path) -> None:
        drawing.write(folder)
        for channel in channels or drawing.channels:
            save(change(drawing.values(channel)), drawing.affine, folder / f"{folder.name}-{channel}.nii.gz")

    return write


def _faults(drawing: Drawing) -> Iterator[HostileInput]:
    first = drawing.channels[0]

    def spoiled(spoiling: Callable[[Path], None]) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            drawing.write(folder)
            spoiling(folder / f"{folder.name}-{first}.nii.gz")

        return write

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[:-2000])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(bytes(content))

    def dead(path: Path) -> None:
        path.unlink()
        path.symlink_to("nowhere.nii.gz")

    def folder_instead(path: Path) -> None:
        path.unlink()
        path.mkdir()

    def pipe(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    def other_format(path: Path) -> None:
        nib.save(nib.Nifti2Image(drawing.values(first), drawing.affine), path.with_name("two.nii.gz"))
        path.with_name("two.nii.gz").replace(path)

    for what, name, spoiling in (
        ("an empty file", "empty file", lambda path: path.write_bytes(b"")),
        ("a file that was cut off", "cut file", cut),
        ("a file with one wrong byte", "one wrong byte", flip),
        ("a text called .nii.gz", "a text", lambda path: path.write_text("no image")),
        ("a link that leads nowhere", "dead link", dead),
        ("a folder called as an image", "a folder", folder_instead),
        ("a pipe called as an image", "a pipe", pipe),
        ("NIfTI-2", "nifti two", other_format),
        ("a header that announces 30000 x 30000 x 30000 voxels", "huge", lambda path: huge_file(path, drawing.affine)),
    ):
        yield _case(what, name, spoiled(spoiling), "named")
    for what, name, change in (
        ("a 4-D file", "four axes", lambda v: np.stack([v, v], -1)),
        ("no voxel that is a number", "all NaN", lambda v: spoil(v, 1)),
        ("complex numbers", "complex", lambda v: v.astype(np.complex64)),
    ):
        yield _case(what, name, _changed(drawing, change, first), "named")
    small = replace(drawing, spacing=(1e-4, 1e-4, 1e-4))
    yield _case("a voxel size of 0.0001 mm", "wrong voxel size", small.write, "named")


def _entries(drawing: Drawing) -> Iterator[HostileInput]:
    def loop(folder: Path) -> None:
        drawing.write(folder)
        (folder / "up").symlink_to(folder.parent, target_is_directory=True)
        (folder / "self").symlink_to("self")

    def labels(source: Path) -> None:
        (source / "labels" / "one").mkdir(parents=True)
        save(np.ones(drawing.shape, np.uint8), drawing.affine, source / "labels" / "one" / "seg.nii.gz")

    def archive(source: Path) -> None:
        drawing.write(source / "__MACOSX" / "copied")

    yield _case("links in a circle", "circle", loop)
    yield _case("an empty folder", "nothing inside", lambda folder: None, "named")
    yield _case("a folder with a text alone", "only text", lambda folder: _text(folder / "a.txt"), "named")
    yield HostileInput("a folder of segmentations", "left aside", labels, ("one", "labels"))
    yield HostileInput("what a Mac adds to archives", "left aside", archive, ("copied", "__MACOSX"))


def _text(path: Path) -> None:
    path.write_text("nothing to see")


def _channels(drawing: Drawing) -> Iterator[HostileInput]:
    first, second = drawing.channels[:2]

    def twice(folder: Path) -> None:
        drawing.write(folder, **{first: f"a_{first}.nii.gz"})
        save(drawing.values(first), drawing.affine, folder / f"b_{first}.nii.gz")

    yield _case("two files for one channel", "doubled", twice, "named")
    yield _case("a missing channel", "missing", lambda folder: drawing.write(folder, **{second: None}), "named")

    def other(change: Drawing) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            drawing.write(folder)
            save(change.values(second), change.affine, folder / f"{folder.name}-{second}.nii.gz")

        return write

    shape = replace(drawing, shape=tuple(size + 2 for size in drawing.shape))
    spacing = replace(drawing, spacing=tuple(step * 1.1 for step in drawing.spacing))
    turned = replace(drawing, orientation="RAS")
    yield _case("channels of two shapes", "two shapes", other(shape), "named")
    yield _case("channels of two voxel sizes", "two voxel sizes", other(spacing), "named")
    yield _case("channels that lie apart", "two places", other(turned), "named")
    order = dict(zip(drawing.channels, "9731", strict=False))
    mixed = {name: f"{order.get(name, 'z')}_{name}.nii.gz" for name in drawing.channels}
    yield _case("files in another order than channels", "order", lambda folder: drawing.write(folder, **mixed))


def _missing(drawing: Drawing, channel: str) -> Iterator[HostileInput]:
    def without(folder: Path) -> None:
        drawing.write(folder, **{channel: None})

    yield _case(f"no {channel}, which a case may lack", "lacks", without, "own grid")
    zeros = _changed(drawing, np.zeros_like, channel)
    yield _case(f"a {channel} of zeros", "zeros", zeros, "own grid")


def _permissions(drawing: Drawing) -> Iterator[HostileInput]:
    def file(folder: Path) -> None:
        drawing.write(folder)
        (folder / f"{folder.name}-{drawing.channels[0]}.nii.gz").chmod(0)

    def whole(folder: Path) -> None:
        drawing.write(folder)
        folder.chmod(0)

    yield _case("an image that must not be read", "no permission", file, "named")
    yield _case("a folder that must not be read", "closed folder", whole, "named")
