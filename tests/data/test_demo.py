"""The made-up cohort as files."""

import json
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.data.demo import demo_grid, draw_cohort, make_cohort
from bdfm_nnunet.errors import InputError

SMALL = {"spacing": 5.0, "shape": (32, 40, 30)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    return out, make_cohort(out, cases=3, seed=7, second_visits=1, **SMALL)


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


def test_layout_is_that_of_brats_2023(cohort):
    _, folders = cohort
    assert [folder.name for folder in folders] == [
        "BraTS-GLI-00000-000",
        "BraTS-GLI-00000-001",
        "BraTS-GLI-00001-000",
    ]
    for folder in folders:
        files = {path.name.removeprefix(folder.name) for path in folder.iterdir()}
        assert files == {"-t1n.nii.gz", "-t1c.nii.gz", "-t2w.nii.gz", "-t2f.nii.gz", "-seg.nii.gz"}


def test_geometry_is_that_of_brats_with_the_asked_spacing(cohort):
    image = sitk.ReadImage(str(cohort[1][0] / "BraTS-GLI-00000-000-t2f.nii.gz"))
    assert image.GetSize() == (32, 40, 30) and image.GetSpacing() == (5.0, 5.0, 5.0)
    assert image.GetOrigin() == (0.0, -239.0, 0.0)
    assert np.allclose(image.GetDirection(), np.eye(3).ravel())
    assert image.GetPixelID() == sitk.sitkInt16


def test_head_is_upright_and_faces_the_right_way(tmp_path):
    """LPS: the cerebellum, the part of the brain farthest down at the back, has high y and low z."""
    folder = make_cohort(tmp_path, cases=1, seed=0, spacing=4.0)[0]
    brain = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{folder.name}-t1n.nii.gz"))).T > 0
    assert brain.shape == (60, 60, 39)
    low = np.argwhere(brain[:, :, 5])
    whole = np.argwhere(brain)
    assert low[:, 1].mean() > whole[:, 1].mean() + 2
    assert abs(whole[:, 0].mean() - 29.5) < 3


def test_cohort_says_that_its_lesions_are_synthetic(cohort):
    assert "LESIONS ARE SYNTHETIC" in (cohort[0] / "README.txt").read_text()
    about = json.loads((cohort[0] / "cohort.json").read_text())
    assert about["lesions"] == "synthetic" and about["seed"] == 7 and len(about["names"]) == 3


def test_same_arguments_give_the_same_files_with_any_number_of_workers(cohort, tmp_path):
    again = make_cohort(tmp_path, cases=3, seed=7, second_visits=1, workers=2, **SMALL)
    assert contents(tmp_path) == contents(cohort[0])
    assert [folder.name for folder in again] == [folder.name for folder in cohort[1]]


def test_seed_and_first_patient_make_other_patients(cohort, tmp_path):
    make_cohort(tmp_path / "seed", cases=1, seed=8, **SMALL)
    make_cohort(tmp_path / "later", cases=1, seed=7, first_patient=1, **SMALL)
    known = contents(cohort[0])
    assert contents(tmp_path / "seed")["BraTS-GLI-00000-000-t1n.nii.gz"] != known["BraTS-GLI-00000-000-t1n.nii.gz"]
    later = contents(tmp_path / "later")
    assert {name: known[name] for name in later} == later and len(later) == 5


def test_second_visit_is_the_same_head_with_a_larger_lesion(cohort):
    def volume(visit, channel):
        name = f"BraTS-GLI-00000-{visit}"
        return sitk.GetArrayFromImage(sitk.ReadImage(str(cohort[0] / name / f"{name}-{channel}.nii.gz")))

    assert ((volume("000", "t1n") > 0) == (volume("001", "t1n") > 0)).all()
    assert (volume("001", "seg") > 0).sum() > (volume("000", "seg") > 0).sum() > 0
    assert (volume("000", "t1n") != volume("001", "t1n")).any()


def test_unlabelled_cohort_has_the_same_images_and_no_segmentation(cohort, tmp_path):
    make_cohort(tmp_path, cases=1, seed=7, labelled=False, **SMALL)
    unlabelled = contents(tmp_path)
    assert len(unlabelled) == 4
    assert {name: contents(cohort[0])[name] for name in unlabelled} == unlabelled


def test_every_case_has_a_lesion():
    for _, subject in draw_cohort(cases=10, seed=2):
        assert subject.lesions


def test_grid_takes_one_or_three_spacings():
    assert demo_grid(2).shape == (120, 120, 78)
    assert demo_grid((1, 1, 5)).shape == (240, 240, 31)
    assert demo_grid(2.0, (40, 41, 42)).shape == (40, 41, 42)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cases": 0}, "at least one case"),
        ({"cases": 3, "second_visits": 2}, "at most half as many second visits"),
        ({"cases": 1, "spacing": 0.0}, "between 0.5 and 10 mm"),
        ({"cases": 1, "spacing": (1.0, 2.0)}, "one or three numbers"),
        ({"cases": 1, "shape": (4, 40, 40)}, "at least 8 voxels"),
    ],
)
def test_impossible_cohorts_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        make_cohort(tmp_path / "out", seed=0, **settings)
    assert not (tmp_path / "out").exists()


def test_progress_shows_a_bar(tmp_path, capfd):
    make_cohort(tmp_path, cases=1, seed=0, **SMALL)
    assert "made-up cases" not in capfd.readouterr().err
    make_cohort(tmp_path, cases=1, seed=0, progress=True, **SMALL)
    assert "1/1" in capfd.readouterr().err


def test_needs_neither_torch_nor_nnunet():
    code = "import sys, bdfm_nnunet.data.demo\nprint(sorted({'torch', 'nnunetv2', 'nilearn'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
