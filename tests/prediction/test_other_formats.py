"""Images in every format that nnU-Net's readers take, good ones beside the reader itself and bad ones of each kind."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images import foreign_headers
from bdfm_nnunet.prediction.case_images import check_cases
from bdfm_nnunet.prediction.images_wanted import ImagesWanted
from bdfm_nnunet.prediction.other_formats import check_by_reader

SIZE = (7, 9, 11)
"""Along z, y, x."""
Save = Callable[[Path], Any]


def noise(*shape: int, kind: Any = np.float32) -> Any:
    values = np.random.default_rng(5).integers(1, 200, shape or SIZE)
    return values.astype(kind)


def itk(values: Any, *, spacing: Any = None, vectors: bool = False, **settings: Any) -> Save:
    def save(path: Path) -> None:
        image = sitk.GetImageFromArray(values, isVector=vectors)
        image.SetSpacing(spacing or tuple(1.0 + axis / 2 for axis in range(image.GetDimension())))
        image.SetOrigin(settings.get("origin", (3.0, -4.0, 5.0, 0.0)[: image.GetDimension()]))
        sitk.WriteImage(image, str(path), settings.get("packed", False))

    return save


def picture(values: Any) -> Save:
    return lambda path: Image.fromarray(values).save(path)


def tiff(values: Any, spacing: Any = None, **settings: Any) -> Save:
    def save(path: Path) -> None:
        tifffile.imwrite(path, values, **settings)
        if spacing is not None:
            path.with_name("a.json").write_text(json.dumps(spacing))

    return save


def wanted(ending: str, reader: Any, channels: int = 1, *, flat: bool = False) -> ImagesWanted:
    spacing, names = (1.0,) * (2 if flat else 3), [f"c{channel}" for channel in range(channels)]
    return ImagesWanted(names, 2, ending, reader, reader is not SimpleITKIO, spacing, (0, 1, 2), flat)


def files(folder: Path, ending: str, *saves: Save) -> list[str]:
    paths = [folder / f"a_{channel:04d}{ending}" for channel in range(len(saves))]
    for path, save in zip(paths, saves):
        save(path)
    return [str(path) for path in paths]


RGB = noise(9, 11, 3, kind=np.uint8)
RGBA = np.concatenate([RGB, np.full((9, 11, 1), 255, np.uint8)], axis=-1)
GOOD: dict[str, tuple[str, Any, int, list[Save]]] = {
    "png": (".png", NaturalImage2DIO, 1, [picture(noise(9, 11, kind=np.uint8))]),
    "png, 16 bits": (".png", NaturalImage2DIO, 1, [picture(noise(9, 11, kind=np.uint16) * 300)]),
    "png, two channels": (".png", NaturalImage2DIO, 2, [picture(noise(9, 11, kind=np.uint8))] * 2),
    "png, colours": (".png", NaturalImage2DIO, 3, [picture(RGB)]),
    "png, opaque": (".png", NaturalImage2DIO, 4, [picture(RGBA)]),
    "bmp": (".bmp", NaturalImage2DIO, 3, [picture(RGB)]),
    "tif, flat": (".tif", NaturalImage2DIO, 1, [tiff(noise(9, 11))]),
    "tif": (".tif", Tiff3DIO, 2, [tiff(noise(), {"spacing": [3, 1, 0.5]}), tiff(noise() + 1)]),
    "tiff without spacing": (".tiff", Tiff3DIO, 1, [tiff(noise(kind=np.uint16))]),
    "nrrd": (".nrrd", SimpleITKIO, 2, [itk(noise()), itk(noise(), packed=True)]),
    "nrrd, flat": (".nrrd", SimpleITKIO, 1, [itk(noise(9, 11))]),
    "mha": (".mha", SimpleITKIO, 2, [itk(noise()), itk(noise(kind=np.int16), packed=True)]),
    "mha, reoriented": (".mha", SimpleITKIOWithReorient, 1, [itk(noise())]),
    "gipl": (".gipl", SimpleITKIO, 1, [itk(noise())]),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_good_images_are_taken_as_nnunet_reads_them(name: str, tmp_path: Path) -> None:
    ending, reader, channels, saves = GOOD[name]
    paths = files(tmp_path, ending, *saves)
    size, spacing = check_by_reader(paths, None, wanted(ending, reader, channels))
    values, properties = reader().read_images(paths)
    assert (channels, *size) == values.shape and values.std() > 0
    np.testing.assert_allclose(spacing, properties["spacing"])
    check_cases([paths], [None], wanted(ending, reader, channels, flat=size[0] == 1), workers=1)


def cut(save: Save, share: float) -> Save:
    def damaged(path: Path) -> None:
        save(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return damaged


def replaced(save: Save, old: bytes, new: bytes) -> Save:
    def changed(path: Path) -> None:
        save(path)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))

    return changed


def raw(content: bytes) -> Save:
    return lambda path: path.write_bytes(content)


def with_voxel(value: float, kind: Any = np.float32) -> Any:
    values = noise(kind=kind)
    values[3, 3, 3] = value
    return values


def huge_tiff(path: Path) -> None:
    """The header of 600,000 x 600,000 voxels, and nothing else."""
    entries = [(256, 4, 1, 600_000), (257, 4, 1, 600_000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 600_000), (279, 4, 1, 4)]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + bytes(4))


GRAY, VOLUME = picture(noise(9, 11, kind=np.uint8)), itk(noise())
ELSEWHERE = "lie in other files"
OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" \
DimensionOrder="XYZCT" Type="uint8" SizeX="11" SizeY="9" SizeZ="2" SizeC="1" SizeT="1"><TiffData FirstZ="0" IFD="0">\
<UUID FileName="a_0000.tif">urn:uuid:1</UUID></TiffData><TiffData FirstZ="1" IFD="0"><UUID FileName="../b.tif">\
urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
Bad = tuple[str, Any, int, list[Save], str]
BAD: dict[str, Bad] = {
    "png, cut off": (".png", NaturalImage2DIO, 1, [cut(GRAY, 0.6)], "cannot be read"),
    "png, no bytes": (".png", NaturalImage2DIO, 1, [raw(b"")], "cannot be read"),
    "png, text": (".png", NaturalImage2DIO, 1, [raw(b"no picture\n" * 9)], "cannot be read"),
    "png, colours for one channel": (".png", NaturalImage2DIO, 1, [picture(RGB)], "hold 3 channels, the model needs 1"),
    "png, gray for colours": (".png", NaturalImage2DIO, 3, [GRAY], "hold 1 channels, the model needs 3"),
    "png, transparent": (".png", NaturalImage2DIO, 3, [picture(RGBA)], "hold 4 channels, the model needs 3"),
    "png, gray and alpha": (
        ".png", NaturalImage2DIO, 2, [lambda path: Image.fromarray(RGB).convert("LA").save(path)], "cannot be read"
    ),
    "png, other sizes": (
        ".png", NaturalImage2DIO, 2, [GRAY, picture(noise(9, 12, kind=np.uint8))], "another shape than"
    ),
    "png, empty": (".png", NaturalImage2DIO, 1, [picture(np.full((9, 11), 7, np.uint8))], "is empty"),
    "tif, four axes": (".tif", Tiff3DIO, 1, [tiff(noise(2, *SIZE))], "Only 3D images are supported"),
    "tif, flat for volumes": (".tif", Tiff3DIO, 1, [tiff(noise(9, 11))], "Only 3D images are supported"),
    "tif, pages for pictures": (".tif", NaturalImage2DIO, 7, [tiff(noise())], "cannot be read"),
    "tif, cut off": (".tif", Tiff3DIO, 1, [cut(tiff(noise()), 0.5)], "cannot be read"),
    "tif, cut off and packed": (".tif", Tiff3DIO, 1, [cut(tiff(noise(), compression="zlib"), 0.7)], "cannot be read"),
    "tif, no bytes": (".tif", Tiff3DIO, 1, [raw(b"")], "cannot be read"),
    "tif, NaN": (".tif", Tiff3DIO, 1, [tiff(with_voxel(np.nan))], "has 1 voxels that are NaN or infinite"),
    "tif, beyond single precision": (
        ".tif", Tiff3DIO, 1, [tiff(with_voxel(1e300, np.float64))], "has 1 voxels that are NaN or infinite"
    ),
    "tif, complex": (".tif", Tiff3DIO, 1, [tiff(noise().astype(np.complex64))], "complex"),
    "tif, empty": (".tif", Tiff3DIO, 1, [tiff(np.zeros(SIZE, np.float32))], "is empty"),
    "tif, other sizes": (".tif", Tiff3DIO, 2, [tiff(noise()), tiff(noise(7, 9, 10))], "another shape than"),
    "tif, sizes beyond memory": (".tif", Tiff3DIO, 1, [huge_tiff], "asks in its header for 335.3 GiB of voxels"),
    "tif, voxels elsewhere": (
        ".tif", Tiff3DIO, 1, [tiff(noise(9, 11, kind=np.uint8), description=OME, metadata=None)], ELSEWHERE
    ),
    **{
        f"tif, spacing {spacing}": (".tif", Tiff3DIO, 1, [tiff(noise(), spacing)], sentence)
        for spacing, sentence in [
            ({}, "spacing is missing"), ([1, 1, 1], "expected a table"), ({"spacing": "111"}, "expected a list"),
            ({"spacing": [1, 1]}, "three numbers above 0"), ({"spacing": [1, 0, 1]}, "three numbers above 0"),
            ({"spacing": [1, -1, 1]}, "three numbers above 0"), ({"spacing": [1, "1", 1]}, "expected a number"),
            ({"spacing": [1, float("nan"), 1]}, "expected a number"),
        ]
    },
    **{
        f"{ending[1:]}, {name}": (ending, SimpleITKIO, channels, saves, sentence)
        for ending in (".nrrd", ".mha")
        for name, channels, saves, sentence in [
            ("cut off", 1, [cut(VOLUME, 0.6)], "cannot be read"),
            ("cut off and packed", 1, [cut(itk(noise(), packed=True), 0.6)], "cannot be read"),
            ("no bytes", 1, [raw(b"")], "is no "),
            ("text", 1, [raw(b"no image\n" * 9)], "is no "),
            ("NaN", 1, [itk(with_voxel(np.nan))], "has 1 voxels that are NaN or infinite"),
            ("infinite", 1, [itk(with_voxel(np.inf))], "has 1 voxels that are NaN or infinite"),
            ("empty", 1, [itk(np.ones(SIZE, np.uint8))], "is empty (every voxel is 1)"),
            ("four axes", 2, [itk(noise(2, *SIZE))], "expected one number per voxel of a single 2-D or 3-D image"),
            ("vectors", 3, [itk(noise(*SIZE, 3), vectors=True)], "voxels of several numbers"),
            ("colours", 9, [itk(RGB, vectors=True)], "voxels of several numbers"),
            ("complex", 1, [itk(noise().astype(np.complex64))], "complex"),
            ("too many channels", 1, [VOLUME, VOLUME], "hold 2 channels, the model needs 1"),
            ("other sizes", 2, [VOLUME, itk(noise(7, 9, 10))], "another shape than"),
            ("other voxel sizes", 2, [VOLUME, itk(noise(), spacing=(1.0, 1.5, 2.1))], "another voxel size"),
            ("elsewhere", 2, [VOLUME, itk(noise(), origin=(3.0, -4.0, 45.0))], "lies up to 40 mm from a_0000"),
            ("flat ones elsewhere", 2, [itk(noise(9, 11)), itk(noise(9, 11), origin=(3.0, 6.0))], "up to 10 mm from"),
            ("flat ones of other voxels", 2, [itk(noise(9, 11)), itk(noise(9, 11), spacing=(2.0, 1.5))], "voxel size"),
        ]
    },
    "gipl, cut off": (".gipl", SimpleITKIO, 1, [cut(VOLUME, 0.6)], "is truncated"),
    "mha, sizes beyond memory": (
        ".mha", SimpleITKIO, 1, [replaced(VOLUME, b"DimSize = 11 9 7", b"DimSize = 65535 65535 9")], "asks in its"
    ),
    "nrrd, sizes beyond memory": (
        ".nrrd", SimpleITKIO, 1, [replaced(VOLUME, b"sizes: 11 9 7", b"sizes: 65535 65535 9")], "asks in its header"
    ),
    "mha, size of no number": (
        ".mha", SimpleITKIO, 1, [replaced(VOLUME, b"ElementSpacing = 1 ", b"ElementSpacing = nan ")], "not a number"
    ),
    "mha, position of no number": (
        ".mha", SimpleITKIO, 1, [replaced(VOLUME, b"Offset = 3 ", b"Offset = inf ")], "not a number"
    ),
    "mha, position of no number at all": (
        ".mha", SimpleITKIO, 1, [replaced(VOLUME, b"TransformMatrix = 1 ", b"TransformMatrix = x ")], "not a number"
    ),
    "nrrd, position of no number": (
        ".nrrd", SimpleITKIO, 1, [replaced(VOLUME, b"space origin: (3,", b"space origin: (nan,")], "a_0000.nrrd"
    ),
    "nrrd, size of no number": (
        ".nrrd", SimpleITKIO, 1, [replaced(VOLUME, b"directions: (1,", b"directions: (inf,")], "a_0000.nrrd"
    ),
    "mha, no size": (
        ".mha", SimpleITKIO, 1, [replaced(VOLUME, b"ElementSpacing = 1 ", b"ElementSpacing = 0 ")], "a_0000.mha"
    ),
    **{
        f"mha, voxels in {other}": (
            ".mha", SimpleITKIO, 1, [replaced(VOLUME, b"DataFile = LOCAL", b"DataFile = " + other)], ELSEWHERE
        )
        for other in (b"/dev/zero", b"../x.raw", b"LIST", b"x%03d.raw 1 7 1")
    },
    **{
        f"nrrd, voxels in {other}": (
            ".nrrd", SimpleITKIO, 1, [replaced(VOLUME, b"encoding: raw", b"encoding: raw\n" + other)], ELSEWHERE
        )
        for other in (b"data file: /dev/zero", b"Datafile: x.raw", b"data file: LIST\nx.raw", b"DATA FILE:x%d 1 7 1")
    },
    "mha, two places of voxels": (
        ".mha", SimpleITKIO, 1,
        [replaced(VOLUME, b"ElementDataFile", b"\rElementDataFile = /dev/zero\nElementDataFile")], "is no MetaImage"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_one_sentence(name: str, tmp_path: Path) -> None:
    ending, reader, channels, saves, sentence = BAD[name]
    paths = files(tmp_path, ending, *saves)
    with pytest.raises(InputError) as caught:
        check_by_reader(paths, None, wanted(ending, reader, channels))
    message = str(caught.value)
    assert sentence in message and "\n" not in message and ": " in message
    assert str(tmp_path / "a") in message


@pytest.mark.parametrize("ending", [".png", ".tif", ".nrrd", ".mha", ".gipl"])
def test_a_pipe_is_no_image(ending: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"a_0000{ending}")
    with pytest.raises(InputError, match="is a named pipe"):
        check_by_reader([str(tmp_path / f"a_0000{ending}")], None, wanted(ending, SimpleITKIO))


def test_the_spacing_beside_a_tiff_is_a_regular_file(tmp_path: Path) -> None:
    paths = files(tmp_path, ".tif", tiff(noise()))
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.json is a named pipe"):
        check_by_reader(paths, None, wanted(".tif", Tiff3DIO))


def test_the_stage_before_lies_where_the_images_do(tmp_path: Path) -> None:
    (path,) = files(tmp_path, ".nrrd", VOLUME)
    for name, save in (("same", VOLUME), ("other", itk(noise(), origin=(0.0, 0.0, 0.0)))):
        save(tmp_path / f"{name}.nrrd")
    check_by_reader([path], str(tmp_path / "same.nrrd"), wanted(".nrrd", SimpleITKIO))
    with pytest.raises(InputError, match=r"other\.nrrd lies up to"):
        check_by_reader([path], str(tmp_path / "other.nrrd"), wanted(".nrrd", SimpleITKIO))


def test_the_limit_is_the_memory_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = files(tmp_path, ".nrrd", VOLUME)
    needed = 4 * int(np.prod(SIZE))
    monkeypatch.setattr(foreign_headers, "memory_bytes", lambda: foreign_headers.COPIES * needed - 1)
    with pytest.raises(InputError, match="asks in its header"):
        foreign_headers.check_header(Path(path))
    monkeypatch.setattr(foreign_headers, "memory_bytes", lambda: foreign_headers.COPIES * needed)
    foreign_headers.check_header(Path(path))
