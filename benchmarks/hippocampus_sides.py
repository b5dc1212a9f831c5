"""Make the data set of docs/studies/hippocampus_side.toml: python benchmarks/hippocampus_sides.py SOURCE TARGET.

SOURCE is the hippocampus data set of the Medical Segmentation Decathlon in nnUNet_raw (`bdfm convert msd-hippocampus`),
TARGET the folder of a new data set there. It gets images and labels at 2 mm, half of them, drawn at random, mirrored
from left to right, and sides.csv: `side`, whether a case is mirrored, and `volume` of the label in ml.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SEED = 44
HALF = (2, 2, 2)


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    settings = parser.parse_args()
    for part in ("imagesTr", "labelsTr"):
        (settings.target / part).mkdir(parents=True)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (settings.source / "labelsTr").glob("*.nii.gz"))
    chosen = set(np.random.default_rng(SEED).permutation(cases)[: len(cases) // 2].tolist())
    rows = [write_case(case, settings.source, settings.target, mirror=case in chosen) for case in cases]
    with (settings.target / "sides.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["case", "side", "volume"], *rows])
    names = ("channel_names", "labels", "numTraining", "file_ending", "overwrite_image_reader_writer", "licence")
    dataset = json.loads((settings.source / "dataset.json").read_text(encoding="utf-8"))
    kept = {name: dataset[name] for name in names if name in dataset}
    (settings.target / "dataset.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")


def write_case(case: str, source: Path, target: Path, *, mirror: bool) -> list[str | float]:
    """Write image and label of a case at 2 mm, and return its row of the table."""
    image = sitk.ReadImage(str(source / "imagesTr" / f"{case}_0000.nii.gz"), sitk.sitkFloat32)
    label = sitk.ReadImage(str(source / "labelsTr" / f"{case}.nii.gz"), sitk.sitkUInt8)
    volume = float((sitk.GetArrayViewFromImage(label) > 0).sum() * np.prod(label.GetSpacing()) / 1000)
    small = sitk.BinShrink(image, HALF)
    small_label = sitk.Resample(label, small, sitk.Transform(), sitk.sitkNearestNeighbor)
    for each, path in ((small, f"imagesTr/{case}_0000.nii.gz"), (small_label, f"labelsTr/{case}.nii.gz")):
        sitk.WriteImage(mirrored(each) if mirror else each, str(target / path))
    return [case, "mirrored" if mirror else "as acquired", round(volume, 4)]


def mirrored(image: sitk.Image) -> sitk.Image:
    """Return an image whose first axis, from left to right, is turned round on the same grid."""
    found = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)[..., ::-1]))
    found.CopyInformation(image)
    return found


if __name__ == "__main__":
    main()
