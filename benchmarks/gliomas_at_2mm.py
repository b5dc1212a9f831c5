"""Make the patients of BRATS 2013 small enough for a processor: python benchmarks/gliomas_at_2mm.py SOURCE TARGET.

SOURCE has a folder for each patient with t1c, flair, seg (1 necrosis, 2 oedema, 3 non-enhancing, 4 enhancing) and
brain (a mask), .nii.gz on one grid of 1 mm. TARGET gets images of 2 mm that are 0 outside of the brain, and labels in
which necrosis and non-enhancing core are one, as in BraTS since 2017.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SMOOTHING_MM = 0.8
EMPTY = 0.3
"""Values below, beside the smoothed edge of the brain, are set to 0; z-scored images lie some units above that."""
NON_ENHANCING, NECROSIS = 3, 1


def main() -> None:
    """Convert all patients of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    settings = parser.parse_args()
    for patient in sorted(path for path in settings.source.iterdir() if path.is_dir()):
        out = settings.target / patient.name
        out.mkdir(parents=True, exist_ok=True)
        brain = sitk.GetArrayFromImage(sitk.ReadImage(str(patient / "brain.nii.gz"))) > 0
        for name in ("t1c", "flair", "seg"):
            image = sitk.ReadImage(str(patient / f"{name}.nii.gz"))
            small = small_labels(image, brain) if name == "seg" else small_image(image, brain)
            sitk.WriteImage(small, str(out / f"{name}.nii.gz"))


def small_image(image: sitk.Image, brain: np.ndarray) -> sitk.Image:
    """Return an image at 2 mm that is 0 outside of the brain."""
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    shifted = _like(image, (values - values.min()) * brain)
    found = _halved(sitk.DiscreteGaussian(shifted, [SMOOTHING_MM**2] * 3), sitk.sitkLinear)
    small = sitk.GetArrayFromImage(found)
    return _like(found, np.where(small < EMPTY, 0, small).astype(np.float32))


def small_labels(image: sitk.Image, brain: np.ndarray) -> sitk.Image:
    """Return labels at 2 mm, those inside of the brain, with necrosis and non-enhancing core as one."""
    values = np.rint(sitk.GetArrayFromImage(image)).astype(np.uint8) * brain
    return _halved(_like(image, np.where(values == NON_ENHANCING, NECROSIS, values)), sitk.sitkLabelGaussian)


def _like(image: sitk.Image, values: np.ndarray) -> sitk.Image:
    found = sitk.GetImageFromArray(values)
    found.CopyInformation(image)
    return found


def _halved(image: sitk.Image, interpolator: int) -> sitk.Image:
    size = [-(-count // 2) for count in image.GetSize()]
    spacing = [2 * step for step in image.GetSpacing()]
    origin = image.TransformContinuousIndexToPhysicalPoint([0.5] * 3)
    return sitk.Resample(image, size, sitk.Transform(), interpolator, origin, spacing, image.GetDirection())


if __name__ == "__main__":
    main()
