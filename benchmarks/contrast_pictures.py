"""Draw one slice of an image as it is and with random contrasts, without labels (pre-training) and with them.

    python benchmarks/contrast_pictures.py IMAGE LABELS FIGURE.png

The picture of docs/finetuning.md is that of a post-contrast T1 and the tumour's labels of BRATS 2013, skull-stripped.
"""

import argparse
from pathlib import Path

import matplotlib
import SimpleITK as sitk
import torch
from torch import Tensor

from bdfm_nnunet.data.random_contrast import draw_contrasts, redrawn

COLUMNS = 5


def read(path: Path) -> Tensor:
    """Return a volume, (slices, rows, columns), as it lies in the file."""
    return torch.from_numpy(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype("float32"))


def cropped(*volumes: Tensor) -> list[Tensor]:
    """Return the volumes inside the smallest box about what is not 0 in the first one."""
    box = tuple(slice(int(each.min()), int(each.max()) + 1) for each in volumes[0].nonzero().unbind(1))
    return [volume[box] for volume in volumes]


def pictures(image: Tensor, labels: Tensor, *, seed: int) -> list[list[Tensor]]:
    """Return two rows of slices: the image and contrasts without labels, then the labels and contrasts with them."""
    place = int((labels > 0).sum((1, 2)).argmax())
    batch, known = image[None, None], labels[None].long()
    rows = [[image[place]], [labels[place]]]
    for number in range(COLUMNS - 1):
        for row, chosen in zip(rows, (None, known), strict=True):
            generator = torch.Generator().manual_seed(seed + number)
            count = 1 if chosen is None else int(labels.max()) + 1
            drawn = draw_contrasts(batch.shape, labels=count, generator=generator)
            row.append(redrawn(batch, drawn, chosen)[0, 0, place])
    return rows


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = pictures(*cropped(read(chosen.image), read(chosen.labels)), seed=chosen.seed)
    figure, axes = pyplot.subplots(2, COLUMNS, figsize=(9, 4.4), layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        for each, picture in zip(line, row, strict=True):
            inside = picture[picture != 0]
            low, high = inside.quantile(torch.tensor([0.005, 0.995]))
            each.imshow(torch.where(picture == 0, low, picture), cmap="gray", vmin=low, vmax=high)
            each.set_axis_off()
    axes[0, 0].set_title("image", fontsize=9)
    axes[0, 1].set_title("random contrasts, no labels", fontsize=9, loc="left")
    axes[1, 0].set_title("labels", fontsize=9)
    axes[1, 1].set_title("with labels", fontsize=9, loc="left")
    figure.savefig(chosen.figure, dpi=62)


if __name__ == "__main__":
    main()
