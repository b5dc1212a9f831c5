"""The recipe of docs/subjects.md runs as it stands, on a made-up cohort laid out like UCSF-PDGM."""

import csv
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.results import read_result
from bdfm_nnunet.trainers import nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared
from tests.training.trainings import checkpoint, make_trainer

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "subjects.md"
TINY = "--set training.epochs=1 --set training.iterations_per_epoch=2 --set training.workers=0"
HEADER = (
    "ID,Sex,Age at MRI,WHO CNS Grade,Final pathologic diagnosis,MGMT status,1p/19q,IDH,1-dead 0-alive,OS,BraTS21 ID"
)


def commands() -> Iterator[str]:
    """The lines of the recipe; what is said to be done for each fold, once for each."""
    section = PAGE.read_text().split("## UCSF-PDGM from download to table\n")[1]
    for line in section.split("```\n")[1].splitlines():
        loop = re.fullmatch(r"for (\w+) in ([\d ]+); do (.+); done", line)
        yield from [loop[3].replace(f"${loop[1]}", value) for value in loop[2].split()] if loop else [line]


def words_of(line: str) -> list[str]:
    """The words of a command as a shell makes them of it."""
    words = [os.path.expandvars(word) for word in shlex.split(line)]
    return [found for word in words for found in (sorted(glob(word)) if "*" in word else [word])]


def download(root: Path) -> None:
    """Fifteen patients, one of whom has a follow-up with a row of its own; ids of three digits in the table."""
    random, grid = np.random.default_rng(0), np.indices((20, 22, 18)) - 9.0
    rows = [HEADER]
    for number in range(1, 16):
        mutant = number % 3 == 0
        idh = "IDH1 p.R132H" if mutant else "wildtype"
        facts = (
            f"{'MF'[number % 2]},{40 + number},{2 + number % 3},x,positive,intact,{idh},{number % 2},{100 * number},"
        )
        rows.append(f"UCSF-PDGM-{number:03d},{facts}")
        for ending in ("", "_FU016d")[: 2 if number == 4 else 1]:
            case = f"UCSF-PDGM-{number:04d}{ending}"
            if ending:
                rows.append(f"{case},{facts}")
            folder = root / "PKG - UCSF-PDGM Version 5" / "UCSF-PDGM-v5" / f"{case}_nifti"
            folder.mkdir(parents=True)
            for name in ("T1", "T1c", "T2", "FLAIR"):
                image = (np.square(grid).sum(0) < 80) * random.uniform(50, 100, grid.shape[1:])
                image[8:11, 8:11, 8:11] *= 3 if mutant else 1
                nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / f"{case}_{name}.nii.gz")
    (root / "PKG - UCSF-PDGM Version 5" / "UCSF-PDGM-metadata_v5.csv").write_text("\n".join(rows) + "\n")


def test_from_download_to_table(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretraining = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "recipe", {})
    pretraining.run_training()
    monkeypatch.chdir(tmp_path)
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / variable).mkdir(exist_ok=True)
        monkeypatch.setenv(variable, str(tmp_path / variable))
    shutil.copy(checkpoint(pretraining), tmp_path / "pretrained.pth")
    download(tmp_path / "data")
    for line in commands():
        line = line.replace("/data/", f"{tmp_path}/data/") + (f" {TINY}" if "--variant" in line else "")
        if name := re.match(r'([A-Z]+)="?([^"]+)"?$', line):
            monkeypatch.setenv(name[1], os.path.expandvars(name[2]))
            continue
        line += " -device cpu" if line.startswith("bdfm train") else ""
        if "-i NEW" in line:
            new = tmp_path / "NEW"
            new.mkdir()
            for image in (tmp_path / "nnUNet_raw").glob("*/imagesTr/UCSF-PDGM-0004*"):
                shutil.copy(image, new)
        program, *words = words_of(line)
        assert program == "bdfm" and main(words) == 0, line
    check_outputs(tmp_path)


def check_outputs(folder: Path) -> None:
    """Every patient is scored once, the groups are there, and new images have maps."""
    joined = read_predictions(folder / "idh_scores" / "subjects.csv")
    assert len(joined.cases) == 16 and len(set(joined.patients)) == 15
    found = read_result(folder / "idh_scores" / "result.json").extra["targets"]["idh"]
    assert found["scores"]["auc"]["patients"] == 15 and set(found["groups"]) >= {"sex", "age"}
    by_sex = found["groups"]["sex"]
    assert set(by_sex["groups"]) == {"F", "M"} and set(by_sex["differences"]) == {"F", "M"} - {by_sex["reference"]}
    assert all({"auc", "brier"} <= set(each) for each in by_sex["differences"].values())
    rows = list(csv.DictReader((folder / "idh_scores" / "scores.csv").read_text().splitlines()))
    assert {row["group_by"] for row in rows} >= {"", "sex", "age"}
    new = read_predictions(folder / "new.csv")
    assert new.cases == ("UCSF-PDGM-0004", "UCSF-PDGM-0004_FU016d") and len(set(new.patients)) == 1
    assert "idh spread" in new.columns and len(list((folder / "maps").glob("*_idh.nii.gz"))) == 2
