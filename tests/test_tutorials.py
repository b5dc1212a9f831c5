"""The tutorials from their first command to their last, as the pages have them, on made-up scans of a few voxels.

What differs from a reader's hour: folders, the device, memory and lengths of trainings (`STAND_IN`).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.data.demo import make_cohort
from docs.site import code_blocks
from tests import sequence_cohort
from tests.conftest import SHAPE, SPACING
from tests.dataset_conversion.run_trees import AFFINE, brain, save

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the pages are for bash")]

PAGES = Path(__file__).parents[1] / "docs" / "tutorials"
STAND_IN = """#!{python}
import json, os, subprocess, sys
from pathlib import Path

words = sys.argv[1:]
small = {{"epochs": 1, "iterations_per_epoch": 2, "val_iterations_per_epoch": 1}}


def replaced(**values):
    for name, value in values.items():
        option = "--" + name.replace("_", "-")
        if option in words:
            words[words.index(option) + 1] = value
        elif name == "steps":
            words.extend([option, value])


def run(*given):
    return subprocess.run([sys.executable, "-m", "bdfm_nnunet.cli", *given]).returncode


if words[0] == "plan":
    replaced(gpu_memory=os.environ["MEMORY"])
elif words[0] == "train":
    words += ["-device", "cpu"]
elif words[0] in ("predict", "finish"):
    words += ["-device", "cpu", "-npp", "1", "-nps", "1", "--disable_tta"]
elif words[0] == "study":
    replaced(steps="4", seeds="1", fractions="50,100")
    words += ["--rates", "1e-3"]
elif words[:2] == ["convert", "fmri-fmriprep"]:
    words += json.loads(os.environ["OF_RUNS"])
code = run(*words)
if "--dry-run" in words and code == 0:  # the page asks for the same line without it
    code = run(*(word for word in words if word != "--dry-run"))
if words[0] == "plan" and code == 0:
    number = int(words[words.index("-d") + 1])
    plans = words[words.index("-p") + 1] if "-p" in words else "BDFMPlans"
    (path,) = Path(os.environ["nnUNet_preprocessed"]).glob(f"Dataset{{number:03d}}_*/{{plans}}.json")
    content = json.loads(path.read_text())
    for settings in content["configurations"].values():
        settings["training"] = settings.get("training", {{}}) | small
    path.write_text(json.dumps(content))
sys.exit(0 if code in (3, 4) and "--rules" in words else code)  # forbidden or unknown is an answer, not a failure
"""

Reader = Callable[..., Path]


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Run what a page says, as somebody does whose scans are in `tmp_path / "data"`; return where that was done."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "bdfm"
    command.write_text(STAND_IN.format(python=sys.executable))
    command.chmod(0o755)
    work, data = tmp_path / "work", tmp_path / "data"
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "BDFM_"))}
    environment |= {
        "PATH": f"{command.parent}:{environment['PATH']}", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
        "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f",
        "OF_RUNS": str(list(map(str, sequence_cohort.OPTIONS))).replace("'", '"'),
    }  # fmt: skip
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        environment[name] = str(data / name)
        (data / name).mkdir(parents=True)

    def read(*scripts: str, memory: float = 0.05, **names: Path) -> Path:
        text = "\n".join(scripts).replace("/data/", f"{data}/")
        for name, path in names.items():
            text = text.replace(name, str(path))
        (tmp_path / "page.sh").write_text(text)
        done = subprocess.run(
            ["bash", "-ex", str(tmp_path / "page.sh")],
            cwd=work, env=environment | {"MEMORY": str(memory)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
        return work

    return read


def page(name: str) -> str:
    return "\n".join(code_blocks.blocks((PAGES / f"{name}.md").read_text(encoding="utf-8"), {"bash"}))


def scans(folder: Path, *, cases: int, seed: int) -> list[Path]:
    return make_cohort(folder, cases=cases, seed=seed, spacing=SPACING, shape=SHAPE)


def own_scans(data: Path) -> None:
    """Ten visits of nine patients with masks of two values, two other scans to predict, and their references."""
    for number, case in enumerate(scans(data / "made", cases=12, seed=3)):
        number -= 2
        name = f"p{max(number, 1):03d}_{1 + (number == 0)}"
        mask = nib.load(next(case.glob("*-seg.nii.gz")))
        values = np.minimum(np.asarray(mask.dataobj), 2).astype(np.uint8)
        for channel, (ending, source) in enumerate({"T1": "t1n", "FLAIR": "t2f"}.items()):
            path = data / "ours" / name / f"{name}_{ending}.nii.gz"
            if number < 0:
                path = data / "new" / f"scan{-number}_{channel:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(next(case.glob(f"*-{source}.nii.gz")), path)
        label = data / "ours" / name / f"{name}_mask.nii.gz"
        if number < 0:
            label = data / "new_labels" / f"scan{-number}.nii.gz"
        label.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(values, mask.affine), label)


def bids(folder: Path, *, cases: int, seed: int) -> None:
    """T1w and FLAIR of some subjects, every second of whom is a patient."""
    rows = ["participant_id\tdiagnosis\tsex"]
    for number, case in enumerate(scans(folder.with_name(f"{folder.name}_made"), cases=cases, seed=seed)):
        subject = f"sub-{number + 1:02d}"
        rows.append(f"{subject}\t{('patient', 'control')[number % 2]}\t{'MF'[number % 3 % 2]}")
        for ending, source in {"T1w": "t1n", "FLAIR": "t2f"}.items():
            path = folder / subject / "anat" / f"{subject}_{ending}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(next(case.glob(f"*-{source}.nii.gz")), path)
    (folder / "participants.tsv").write_text("\n".join(rows) + "\n")


def atlas(folder: Path) -> None:
    """Two cases with a lesion, in the layout of ATLAS R2.0."""
    for number, case in enumerate(scans(folder.with_name("atlas_made"), cases=2, seed=21)):
        name = f"sub-r001s{number + 1:03d}"
        stem = folder / "Training" / "R001" / name / "ses-1" / "anat" / f"{name}_ses-1_space-MNI152NLin2009aSym"
        stem.parent.mkdir(parents=True)
        shutil.copy(next(case.glob("*-t1n.nii.gz")), f"{stem}_T1w.nii.gz")
        mask = nib.load(next(case.glob("*-seg.nii.gz")))
        values = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(values, mask.affine), f"{stem}_label-L_desc-T1lesion_mask.nii.gz")


def pretrained(data: Path, reader: Reader) -> None:
    """Weights of a short pre-training, as pretrained.pth where the page is read."""
    scans(data / "others", cases=3, seed=8)
    made = reader(
        "bdfm convert brats2023-gli /data/others -d 910 --unlabelled && bdfm plan -d 910 --gpu-memory 1\n"
        "bdfm train 910 3d_fullres all -tr nnUNetTrainerBDFMPretrain -p BDFMPlans"
    )
    run = data / "nnUNet_results" / "Dataset910_BraTS2023GLIUnlabelled"
    shutil.copy(next(run.glob("*/fold_all/checkpoint_final.pth")), made / "pretrained.pth")


def test_own_scans(tmp_path: Path, reader: Reader) -> None:
    own_scans(tmp_path / "data")
    work = reader(page("own_scans"))
    assert len(list((tmp_path / "data" / "new_segmentations").glob("scan?.nii.gz"))) == 2
    assert (work / "scores.json").is_file() and "scan1" in (work / "page" / "report.html").read_text(encoding="utf-8")


def test_pretrain(tmp_path: Path, reader: Reader) -> None:
    data = tmp_path / "data"
    own_scans(data)
    bids(data / "archive", cases=3, seed=31)
    atlas(data / "ATLAS_2")
    first = [line for line in page("own_scans").replace("\\\n", " ").splitlines()
             if line.startswith(("bdfm convert", "bdfm plan -d 60 --gpu-memory"))]  # fmt: skip
    assert len(first) == 2
    work = reader(*first, page("pretrain"))
    assert "scratch" in (work / "studies" / "ours" / "study.md").read_text(encoding="utf-8")


def test_classify(tmp_path: Path, reader: Reader) -> None:
    data = tmp_path / "data"
    bids(data / "study", cases=20, seed=41)
    pretrained(data, reader)
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted((data / "study").glob("sub-0[12]/anat/*_T1w.nii.gz"))):
        shutil.copy(path, images / f"new{number}_0000.nii.gz")
    work = reader(page("classify"), IMAGES=images)
    assert "AUC" in (work / "scores" / "scores.md").read_text(encoding="utf-8")
    assert len((work / "new.csv").read_text().splitlines()) == 3 and len(list((work / "maps").glob("*.nii.gz"))) == 2


def test_brats(tmp_path: Path, reader: Reader) -> None:
    data = tmp_path / "data"
    scans(data / "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData", cases=10, seed=51)
    pretrained(data, reader)
    images = tmp_path / "validation"
    images.mkdir()
    for case in scans(data / "validation_made", cases=2, seed=52):
        for channel, ending in enumerate(("t1n", "t1c", "t2w", "t2f")):
            shutil.copy(next(case.glob(f"*-{ending}.nii.gz")), images / f"{case.name}_{channel:04d}.nii.gz")
    work = reader(page("brats"), VALIDATION_IMAGES=images)
    assert (work / "submission.zip").is_file() and (work / "page" / "report.html").is_file()


def test_fmri(tmp_path: Path, reader: Reader) -> None:
    data = tmp_path / "data"
    sequence_cohort.write(data / "study" / "derivatives" / "fmriprep")
    shutil.move(data / "study" / "derivatives" / "fmriprep" / "participants.tsv", data / "study")
    where = np.moveaxis(np.indices(sequence_cohort.SHAPE), 0, -1) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    regions = (1 + (where[..., 0] > 0) + 2 * (where[..., 1] > -20)) * brain()
    (tmp_path / "work").mkdir(exist_ok=True)
    save(tmp_path / "work" / "atlas.nii.gz", regions.astype(np.int16))
    text = page("fmri").replace("group=patient", "group=linked")
    work = reader(text, memory=1)
    assert (work / "scores" / "scores.md").is_file()
