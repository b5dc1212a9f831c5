"""Tiny 4-D runs in MNI space, and downloads of them in the layout of every release."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE, FRAMES, TR = (23, 27, 23), 14, 1.6
AFFINE = np.array([[-8.0, 0, 0, 88], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
"""Of the field of view of FSL's MNI152 grid, in voxels of 8 mm; x runs to the left."""


def brain(shape: Sequence[int] = SHAPE, affine: np.ndarray = AFFINE) -> np.ndarray:
    """An ellipsoid where the template's brain is."""
    where = np.indices(shape[:3]).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3]
    away = (((where - (0, -22, 10)) / (68, 84, 62)) ** 2).sum(axis=1)
    return (away < 1).reshape(shape[:3])


def frames(seed: int = 0, count: int = FRAMES) -> np.ndarray:
    """Frames that differ in space and time, zero outside of the brain, (x, y, z, t)."""
    random = np.random.default_rng(seed)
    still = random.integers(600, 1400, SHAPE)[..., None]
    values = still + random.integers(-80, 80, (*SHAPE, count))
    return np.where(brain()[..., None], values, 0).astype(np.int16)


def save(
    path: Path,
    values: np.ndarray,
    *,
    affine: np.ndarray = AFFINE,
    tr: float | None = TR,
    unit: str = "sec",
    code: int = 4,
) -> Path:
    """Writes a NIfTI file; a run with its repetition time, if any."""
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if values.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr or 0))
        image.header.set_xyzt_units("mm", unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def confounds(
    count: int = FRAMES, *, non_steady: Sequence[int] = (), displacement: float = 0.1, old: bool = False
) -> str:
    """A table of fMRIPrep, of today or with its old names."""
    motion, steady = ("FramewiseDisplacement", "NonSteadyStateOutlier{:02d}") if old else (
        "framewise_displacement", "non_steady_state_outlier{:02d}"
    )  # fmt: skip
    names = ["std_dvars", motion, *(steady.format(i) for i in range(len(non_steady)))]
    rows = [
        ["n/a" if t == 0 else "1.5", "n/a" if t == 0 else str(displacement), *(str(int(t == at)) for at in non_steady)]
        for t in range(count)
    ]
    return "\n".join("\t".join(row) for row in [names, *rows]) + "\n"


class Runs:
    """Writes a download and keeps what must come of it: case id to patient."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.patients: dict[str, str] = {}
        self.seed = 0

    def run(self, path: str, case: str = "", patient: str = "", **more: Any) -> None:
        self.seed += 1
        save(self.root / path, frames(self.seed), **more)
        if case:
            self.patients[case] = patient or case

    def mask(self, path: str) -> None:
        save(self.root / path, brain().astype(np.uint8))

    def text(self, path: str, content: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(content)

    def json(self, path: str, **content: Any) -> None:
        self.text(path, json.dumps(content))


def fmriprep(p: Runs, subjects: Sequence[str] = ("01", "02"), *, old: bool = False) -> None:
    for subject in subjects:
        case = f"sub-{subject}_task-rest"
        stem, space = f"sub-{subject}/func/{case}", "space-MNI152NLin2009cAsym"
        if old:
            p.run(f"{stem}_bold_{space}_preproc.nii.gz", case, f"sub-{subject}")
            p.mask(f"{stem}_bold_{space}_brainmask.nii.gz")
            p.text(f"{stem}_bold_confounds.tsv", confounds(non_steady=[0], old=True))
        else:
            p.run(f"{stem}_{space}_res-2_desc-preproc_bold.nii.gz", case, f"sub-{subject}", tr=1.0)
            p.mask(f"{stem}_{space}_res-2_desc-brain_mask.nii.gz")
            p.json(f"{stem}_{space}_res-2_desc-preproc_bold.json", RepetitionTime=TR)
            p.text(f"{stem}_desc-confounds_timeseries.tsv", confounds(non_steady=[0, 1]))
            p.run(f"{stem}_desc-preproc_bold.nii.gz")  # in the space of the scanner: of no role
    p.text("participants.tsv", "participant_id\tage\tsite\tfamily\nsub-01\t30\tUlm\tF1\nsub-02\t31\tBonn\tF1\n")


def _hcp(p: Runs, folder: str, patient: str, run: str, clean: str) -> None:
    top = f"{folder}/MNINonLinear/Results/{run}"
    p.run(f"{top}/{run}.nii.gz", f"{folder}_{run}", patient)
    p.run(f"{top}/{run}_{clean}_clean.nii.gz")
    p.mask(f"{top}/brainmask_fs.2.nii.gz")
    motion = np.random.default_rng(0).normal(0, 0.05, (FRAMES, 12))
    p.text(f"{top}/Movement_Regressors.txt", "\n".join("  ".join(f"{x:.6f}" for x in row) for row in motion))


def _hcp_ya(p: Runs) -> None:
    _hcp(p, "100307", "100307", "rfMRI_REST1_LR", "hp2000")
    _hcp(p, "100408", "100408", "tfMRI_MOTOR_RL", "hp2000")


def _abcd(p: Runs) -> None:
    case = "sub-NDARINVABC12345_ses-baselineYear1Arm1_task-rest_run-1"
    p.run(f"x/{case}_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz", case, "NDARINVABC12345")
    p.mask(f"x/{case}_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz")


def _ukb(p: Runs) -> None:
    p.run("1000011_20227_2_0/fMRI/rfMRI.ica/filtered_func_data_clean.nii.gz", code=1)
    p.run("1000011_20227_2_0/fMRI/rfMRI.ica/filtered_func_data_clean_MNI.nii.gz", "1000011_20227_2_0", "1000011")
    p.run("flat/1000029.nii.gz", "1000029", "1000029")


def _adhd(p: Runs) -> None:
    for kind in ("wmrda", "snwmrda", "sfnwmrda"):
        case = "0010001_session_1_rest_1"
        p.run(f"KKI/0010001/{kind}{case}.nii.gz", case if kind == "wmrda" else "", "0010001")
    p.text("KKI/KKI_phenotypic.csv", "ScanDir ID,Site,DX\n0010001,3,0\n")


def _cobre(p: Runs) -> None:
    p.run("fmri_0040000.nii.gz", "0040000", "0040000")
    p.run("0040001/session_1/rest_1/rest.nii.gz")


def _bids(p: Runs) -> None:
    p.run(
        "sub-01/ses-1/func/sub-01_ses-1_task-rest_run-01_bold.nii.gz", "sub-01_ses-1_task-rest_run-01", "sub-01", tr=1
    )
    p.run("sub-01/ses-1/func/sub-01_ses-1_task-rest_run-01_sbref.nii.gz")
    p.run("derivatives/x/sub-01_task-rest_bold.nii.gz")
    p.json("task-rest_bold.json", RepetitionTime=TR)


TREES: Mapping[str, Callable[[Runs], None]] = {
    "fmri-hcp-ya": _hcp_ya,
    "fmri-hcp-a": lambda p: _hcp(p, "HCA6000030_V1_MR", "HCA6000030", "rfMRI_REST1_AP", "hp0"),
    "fmri-hcp-d": lambda p: _hcp(p, "HCD0001305_V1_MR", "HCD0001305", "rfMRI_REST1a_AP", "hp0"),
    "fmri-hcp-ep": lambda p: _hcp(p, "1001_01_MR", "1001", "rfMRI_REST1_AP", "hp0"),
    "fmri-abcd": _abcd,
    "fmri-ukb": _ukb,
    "fmri-adhd200": _adhd,
    "fmri-cobre": _cobre,
    "fmri-ucla": lambda p: fmriprep(p, old=True),
    "fmri-tcp": fmriprep,
    "fmri-fmriprep": fmriprep,
    "fmri-bids": _bids,
    "fmri-folder": lambda p: p.run("a/b.nii.gz", "a_b", "a_b"),
}
