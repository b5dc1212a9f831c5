r"""Real tumours for lesions.py: DeepMedic's example data, four or six patients of BRATS 2013 (CC BY-NC-SA 3.0).

https://github.com/deepmedic/deepmedic has them under examples/dataForExamples, standardised and skull-stripped, with a
background below 0. Images are raised so that the background is 0, and averaged to 2 mm; a voxel of 2 mm is tumour where
half of it is. Then, with nnU-Net's folders set:

    python benchmarks/lesion_data.py deepmedic/examples/dataForExamples tree
    bdfm convert folder tree -d 71 --name Brats2013 --image T1c='{case}/t1c' --image FLAIR='{case}/flair' \
        --label '{case}/seg' --labels 1=necrosis,2=oedema,3=non_enhancing,4=enhancing
    bdfm plan -d 71 -p Small --network swin --gpu-memory 0.05

and write the folds into splits_final.json of nnUNet_preprocessed, the last one for the search of the rates:

    [{"train": ["pat0001", "pat0002"], "val": ["pat0003", "pat0004"]},
     {"train": ["pat0003", "pat0004"], "val": ["pat0001", "pat0002"]},
     {"train": ["pat0001"], "val": ["pat0002"]}]
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

IMAGES = {"t1c": "T1c_subtrMeanDivStd", "flair": "Flair_subtrMeanDivStd"}
LABELS, BRAIN = "OTMultiClass", "brainmask"
FACTOR, CLASSES = 2, 5


def blocks(volume: NDArray[Any]) -> NDArray[Any]:
    """Return the voxels of each block of 2 x 2 x 2, (X, Y, Z, 8); what is left over at the end is cut off."""
    halves = [size // FACTOR for size in volume.shape]
    whole = volume[tuple(slice(FACTOR * half) for half in halves)]
    parts = whole.reshape(halves[0], FACTOR, halves[1], FACTOR, halves[2], FACTOR)
    return parts.transpose(0, 2, 4, 1, 3, 5).reshape(*halves, FACTOR**3)


def prepare(source: Path, out: Path) -> None:
    """Write the images and the labels of a patient at 2 mm."""
    images: dict[str, Any] = {name: nibabel.load(source / f"{file}.nii.gz") for name, file in IMAGES.items()}
    brain = blocks(np.asarray(nibabel.load(source / f"{BRAIN}.nii.gz").dataobj) > 0)
    inside = brain.mean(-1) >= 0.5
    affine = images["t1c"].affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.full(3, 0.5)
    affine[:3, :3] *= FACTOR
    out.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        values = np.asarray(image.dataobj, dtype=np.float32)
        sums = (blocks(values - values.min() + 0.01) * brain).sum(-1)
        mean = np.where(inside, sums / np.maximum(brain.sum(-1), 1), 0).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(mean, affine), out / f"{name}.nii.gz")
    labels = blocks(np.asarray(nibabel.load(source / f"{LABELS}.nii.gz").dataobj))
    counts = np.stack([(labels == value).sum(-1) for value in range(CLASSES)], -1)
    tumour = (counts[..., 1:].sum(-1) >= FACTOR**3 // 2) & inside
    found = np.where(tumour, counts[..., 1:].argmax(-1) + 1, 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(found, affine), out / "seg.nii.gz")


def main() -> int:
    """Prepare every patient with labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with the folders brats_2013_patNNNN_1, at any depth")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args()
    for labels in sorted(options.source.rglob(f"{LABELS}.nii.gz")):
        if (named := re.search(r"pat\d+", labels.parent.name)) is not None:
            prepare(labels.parent, options.out / named[0])
            print(named[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
