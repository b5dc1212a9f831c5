"""Ways to store a preprocessed case: what they cost on the disk, and how fast a crop of one channel is read from them.

The case is made up on a real brain template, full-size, planned and preprocessed by `bdfm plan`; the files are in the
memory of the machine, and one thread reads.

    python benchmarks/layouts.py [--quick] [--patch 96] [--rounds 60] [--folder DIR]
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from blosc2 import Codec, Filter
from loader import prepare
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from bdfm_nnunet.data.crops import open_images, read_crop
from harness import Result, Spread, Table, numbers, options, parse, prose

LAYOUTS: dict[str, dict[str, Any]] = {
    "blocks of 32³, LZ4HC": {"blocks": (32, 32, 32), "chunks": (96, 128, 128)},
    "blocks of 16³, LZ4HC": {"blocks": (16, 16, 16), "chunks": (64, 64, 64)},
    "blocks of 16 x 16 x 48, LZ4HC": {"blocks": (16, 16, 48), "chunks": (48, 48, 48)},
    "blocks of 16 x 16 x 48, LZ4HC, shuffled": {
        "blocks": (16, 16, 48), "chunks": (48, 48, 48), "filters": [Filter.SHUFFLE]
    },
    "blocks of 32³, LZ4": {"blocks": (32, 32, 32), "chunks": (96, 128, 128), "codec": Codec.LZ4},
    "blocks of 16 x 16 x 48, BLOSCLZ": {"blocks": (16, 16, 48), "chunks": (48, 48, 48), "codec": Codec.BLOSCLZ},
    "blocks of 32³, ZSTD 1": {"blocks": (32, 32, 32), "chunks": (96, 128, 128), "codec": Codec.ZSTD, "clevel": 1},
    "blocks of all channels, 32 x 32 x 8": {"blocks": (32, 32, 8), "chunks": (64, 64, 64), "channels": 4},
}  # fmt: skip
"""What the files could look like; the last is how nnU-Net stored them before 2.8."""


def compare(dataset: Any, patch: int, root: Path, *, crops: int) -> Table:
    """Measure size, time to write and time to read a crop of each layout."""
    key = dataset.identifiers[0]
    images = open_images(dataset, key)[:]
    rng = np.random.default_rng(0)
    places = [[int(rng.integers(size - patch + 1)) for size in images.shape[1:]] for _ in range(crops)]
    out = np.empty((1, patch, patch, patch), dtype=np.float32)
    table = Table(
        "One case, stored in other ways (nnU-Net 2.8 chooses the first)",
        ["layout", "MiB", "s to write", "ms a one-channel crop"],
        note="No way reads much faster from a file that is not much larger, so `bdfm plan` leaves nnU-Net's files as "
        "they are: an epoch read from a disk or a network costs what the files hold.",
    )
    for name, layout in LAYOUTS.items():
        chosen = dict(layout)
        depth = chosen.pop("channels", 1)
        shapes = {
            part: (depth, *(min(n, size) for n, size in zip(chosen.pop(part), images.shape[1:])))
            for part in ("blocks", "chunks")
        }
        path = root / "layout.b2nd"
        path.unlink(missing_ok=True)
        cparams = {"codec": Codec.LZ4HC, "clevel": 5, "filters": [Filter.NOFILTER], "nthreads": 1} | chosen
        start = time.perf_counter()
        blosc2.asarray(images, urlpath=str(path), cparams=cparams, **shapes)
        written = time.perf_counter() - start
        stored = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, **dataset.mmap_kwargs)
        taken = []
        for number, place in enumerate(places):
            start = time.perf_counter()
            read_crop(stored, slice(number % 4, number % 4 + 1), place, out=out)
            taken.append(1e3 * (time.perf_counter() - start))
        middle = Spread(float(np.median(taken)), float(np.quantile(taken, 0.1)), float(np.quantile(taken, 0.9)))
        table.rows.append([name, f"{path.stat().st_size / 2**20:.1f}", f"{written:.2f}", str(middle)])
    return table


def main() -> None:
    """Measure and write the result."""
    parser = options(__doc__, rounds=60)
    parser.add_argument("--size", type=numbers, default=[240, 240, 155], help="voxels (default: 240,240,155)")
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--folder", type=Path, help="keeps the made-up cases here, for another run")
    settings = parse(parser, quick={"rounds": 10})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    result = Result("Layouts of stored cases", prose(__doc__), vars(settings), ("numpy", "blosc2", "nnunetv2"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = prepare((settings.folder or Path(temporary)).resolve(), cases=2, size=settings.size)
        dataset = nnUNetDatasetBlosc2(str(folder / "nnUNetPlans_3d_fullres"))
        result.tables.append(compare(dataset, settings.patch, Path(temporary), crops=settings.rounds))
    result.write(settings.json)


if __name__ == "__main__":
    main()
