"""Draw docs/figures/made_up_heads.png: python benchmarks/made_up_heads.py HEALTHY TUMOURS [-o FILE.png].

HEALTHY and TUMOURS are data sets that `bdfm synthesise` made from the same maps and seed, the second one with
--lesions: the same heads without and with tumours, which push the tissue aside.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.images.volumes import read_volume

COLUMNS = 6
DEFAULT = Path(__file__).parents[1] / "docs" / "figures" / "made_up_heads.png"


def main() -> None:
    """Draw the cases whose lesions change most of a slice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("healthy", type=Path)
    parser.add_argument("tumours", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=DEFAULT)
    settings = parser.parse_args()
    cases = sorted(path.name[: -len("_0000.nii.gz")] for path in (settings.tumours / "imagesTr").glob("*_0000.nii.gz"))
    found = []
    for case in cases:
        well, sick, second = (
            _values(folder, case, channel)
            for folder, channel in ((settings.healthy, 0), (settings.tumours, 0), (settings.tumours, 1))
        )
        change = np.abs(well / well[well > 0].mean() - sick / sick[sick > 0].mean()).sum(axis=(0, 1))
        place = int(change.argmax())
        found.append((float(change.max()), [image[:, :, place] for image in (well, sick, second)]))
    found.sort(key=lambda entry: -entry[0])
    _draw([slices for _, slices in found[:COLUMNS]], settings.out)


def _values(folder: Path, case: str, channel: int) -> NDArray[np.float32]:
    path = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
    return read_volume(path, str(path)).array.astype(np.float32)


def _draw(columns: list[list[NDArray[np.float32]]], out: Path) -> None:
    figure, axes = plt.subplots(3, len(columns), figsize=(1.5 * len(columns), 5.2), facecolor="black")
    for column, slices in enumerate(columns):
        for row, image in enumerate(slices):
            axes[row, column].imshow(image.T, cmap="gray", vmin=0, vmax=np.percentile(image[image > 0], 99.5))
            axes[row, column].axis("off")
    figure.tight_layout(pad=0.2)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=64, facecolor="black")


if __name__ == "__main__":
    main()
