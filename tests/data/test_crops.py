from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from bdfm_nnunet.data.augmentation import RandomAffine
from bdfm_nnunet.data.batch_streams import seeded
from bdfm_nnunet.data.crops import UnlabelledCrops, open_images, read_crop
from bdfm_nnunet.errors import InputError
from tests.data.conftest import PATCH, SHAPES, rewrite, volume, without_labels


def _crops(dataset: Any, **settings: Any) -> UnlabelledCrops:
    return UnlabelledCrops(dataset, **({"batch_size": 8, "patch_size": PATCH} | settings))


def _drawn(source: UnlabelledCrops, seed: int = 0) -> dict[str, Any]:
    with seeded(seed):
        return source.generate_train_batch()


def _corners(batch: dict[str, Any]) -> list[tuple[int, ...]]:
    """(channel, x, y, z) of the first voxel of each crop, which its value tells."""
    places = []
    for key, crop in zip(batch["keys"], batch["data"]):
        offset = int(crop.flatten()[0]) - 2**21 * list(SHAPES).index(key)
        places.append(tuple(int(i) for i in np.unravel_index(offset, SHAPES[key])))
    return places


@pytest.mark.parametrize("single_channel", [True, False])
def test_crops_equal_slices_of_the_whole_volume(dataset: Any, single_channel: bool) -> None:
    channels_seen = set()
    for seed in range(4):
        batch = _drawn(_crops(dataset, single_channel=single_channel), seed)
        assert batch["data"].dtype == torch.float32
        assert batch["data"].shape == (8, 1 if single_channel else 4, *PATCH)
        for key, crop, (channel, *start) in zip(batch["keys"], batch["data"], _corners(batch)):
            inside = tuple(slice(s, s + p) for s, p in zip(start, PATCH))
            channels = slice(channel, channel + 1) if single_channel else slice(None)
            np.testing.assert_array_equal(crop, volume(key)[(channels, *inside)])
            channels_seen.add(channel)
    assert channels_seen == ({0, 1, 2, 3} if single_channel else {0})


def test_crops_fill_a_volume_evenly_and_centre_on_labels(dataset: Any) -> None:
    anywhere = [
        start for seed in range(8) for _, *start in _corners(_drawn(_crops(dataset, oversample_foreground=0), seed))
    ]
    assert len({tuple(start) for start in anywhere}) > 60
    centred = [_corners(_drawn(_crops(dataset, oversample_foreground=1), seed)) for seed in range(4)]
    starts = np.array([start for batch in centred for _, *start in batch])
    assert (starts <= 29 - 24).all()  # labels lie in 20 to 29, half a patch is 24


def test_without_labels_crops_lie_anywhere(preprocessed: Path) -> None:
    without_labels(preprocessed)
    source = _crops(nnUNetDatasetBlosc2(str(preprocessed)), oversample_foreground=1)
    starts = np.array([start for seed in range(4) for _, *start in _corners(_drawn(source, seed))])
    assert (starts.max(axis=0) > 10).all()


def test_only_the_chunk_under_the_crop_is_decompressed(preprocessed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others, the labels included, are ruined: who reads one gets an error."""
    key, start = "case_0", (3, 2, 5)
    rewrite(preprocessed, key, chunks=(1, 64, 64, 64), blocks=(1, 32, 32, 32), cparams={"filters": []})
    dataset = nnUNetDatasetBlosc2(str(preprocessed), [key])
    (preprocessed / f"{key}_seg.b2nd").write_bytes(b"")
    images = open_images(dataset, key)
    chunks = [images.schunk.get_chunk(n) for n in range(images.schunk.nchunks)]
    per_channel = len(chunks) // 4
    damaged = images.copy(urlpath=str(preprocessed / "damaged.b2nd"))
    for number in range(len(chunks)):
        if number != per_channel * 2:  # the first chunk of the third channel, in which the crop lies
            damaged.schunk.update_chunk(number, _ruined(chunks[number]))
    out = np.empty((1, *PATCH), dtype=np.float32)
    read_crop(damaged, slice(2, 3), start, out=out)
    np.testing.assert_array_equal(out, volume(key)[(slice(2, 3), *(slice(s, s + p) for s, p in zip(start, PATCH)))])
    for channel, corner in ((1, start), (2, (20, 2, 5)), (2, (3, 2, 40))):
        with pytest.raises(RuntimeError):
            read_crop(damaged, slice(channel, channel + 1), corner, out=out)


def _ruined(chunk: bytes) -> bytes:
    head = 32
    return chunk[:head] + bytes(255 for _ in chunk[head:])


def test_layouts_of_older_versions_are_read(preprocessed: Path) -> None:
    """Before 2.8 a block held all channels."""
    dataset = nnUNetDatasetBlosc2(str(preprocessed))
    before = _drawn(_crops(dataset))
    for key in SHAPES:
        rewrite(preprocessed, key, chunks=(4, 64, 64, 64), blocks=(4, 16, 16, 16))
    after = _drawn(_crops(dataset))
    assert torch.equal(before["data"], after["data"])
    assert blosc2.open(str(preprocessed / "case_0.b2nd")).blocks[0] == 4


def test_volumes_smaller_than_the_patch_lie_in_its_middle(dataset: Any) -> None:
    batch = _drawn(_crops(dataset, patch_size=(100, 48, 100), single_channel=False, oversample_foreground=0))
    for key, crop in zip(batch["keys"], batch["data"].numpy()):
        _, x, _, z = SHAPES[key]
        before_x, before_z = -((x - 100) // 2), -((z - 100) // 2)
        inside = crop[:, before_x : before_x + x, :, before_z : before_z + z]
        start = int(np.argwhere(volume(key)[0, 0, :, 0] == inside[0, 0, 0, 0])[0, 0])
        np.testing.assert_array_equal(inside, volume(key)[:, :, start : start + 48])
        assert np.count_nonzero(crop) == np.count_nonzero(inside)


@pytest.mark.parametrize("start", [(-5, 60, 10), (-48, 0, 0), (200, 0, 0), (69, 65, 89)])
def test_what_lies_outside_is_zero(start: tuple[int, ...]) -> None:
    whole = volume("case_0") + 1
    out = np.full((4, *PATCH), -1, dtype=np.float32)
    read_crop(whole, slice(None), start, out=out)
    padded = np.pad(whole, [(0, 0), *[(200, 300)] * 3])
    np.testing.assert_array_equal(
        out, padded[(slice(None), *(slice(s + 200, s + 200 + p) for s, p in zip(start, PATCH)))]
    )


def test_flips_are_drawn_only_on_request(dataset: Any) -> None:
    assert set(_drawn(_crops(dataset))) == {"data", "keys"}
    plain, mirrored = _drawn(_crops(dataset)), _drawn(_crops(dataset, mirror=True))
    assert torch.equal(plain["data"], mirrored["data"]) and plain["keys"] == mirrored["keys"]
    flips = torch.cat([_drawn(_crops(dataset, mirror=True), seed)["flips"] for seed in range(40)])
    assert flips.shape == (320, 3) and flips.dtype == torch.bool
    assert ((flips.float().mean(0) - 0.5).abs() < 0.1).all()


@pytest.mark.parametrize("patch", [PATCH, (47, 30, 33)])
def test_turned_crops_keep_their_place(dataset: Any, patch: tuple[int, ...]) -> None:
    """Without rotation and at scale 1 the crops are the ones that are read directly."""
    plain = _drawn(_crops(dataset, patch_size=patch, batch_size=1, oversample_foreground=0))
    still = RandomAffine(spacing=(1, 1, 1), p_rotation=1, degrees=0, p_scaling=1, scaling=(1, 1))
    turned = _drawn(_crops(dataset, patch_size=patch, batch_size=1, oversample_foreground=0, affine=still))
    torch.testing.assert_close(turned["data"], plain["data"], rtol=1e-5, atol=1)
    wide = RandomAffine(spacing=(1, 1, 1), p_rotation=1, p_scaling=1, scaling=(1.2, 1.4))
    other = _drawn(_crops(dataset, patch_size=patch, batch_size=1, oversample_foreground=0, affine=wide))
    assert other["keys"] == plain["keys"] and not torch.allclose(other["data"], plain["data"], rtol=0.01)


def test_oversampling_reads_properties_only_where_it_needs_them(preprocessed: Path) -> None:
    for path in preprocessed.glob("*.pkl"):
        path.unlink()
    dataset = nnUNetDatasetBlosc2(str(preprocessed))
    _drawn(_crops(dataset, oversample_foreground=0))
    with pytest.raises(InputError, match=r"case case_\d in .* cannot be read .*case_\d.pkl.*`bdfm plan`"):
        _drawn(_crops(dataset, oversample_foreground=1))


@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
@pytest.mark.parametrize("single_channel", [True, False])
def test_damaged_cases_are_named(preprocessed: Path, damage: str, single_channel: bool) -> None:
    for key in SHAPES:
        path = preprocessed / f"{key}.b2nd"
        content = path.read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(content[: 0 if damage == "empty" else len(content) // 2])
    source = _crops(nnUNetDatasetBlosc2(str(preprocessed), list(SHAPES)), single_channel=single_channel)
    with pytest.raises(
        InputError, match=r"case case_\d in .* cannot be read .*: delete its files there and preprocess"
    ):
        source.generate_train_batch()


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_files_are_closed_and_nothing_is_kept(dataset: Any) -> None:
    source = _crops(dataset)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for seed in range(10):
        _drawn(source, seed)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert ".b2nd" not in Path("/proc/self/maps").read_text()
