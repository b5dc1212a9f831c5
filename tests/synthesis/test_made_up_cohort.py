import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bdfm_nnunet.cli import main
from bdfm_nnunet.dataset_conversion.split_checks import check_splits
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.patients import groups, read_cases
from bdfm_nnunet.synthesis import made_up_cohort
from bdfm_nnunet.synthesis.made_up_cohort import draw_and_write, synthesise
from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings
from bdfm_nnunet.synthesis.tissue_tables import HEAD

CLASSES = {2: "white", 41: "white", 3: "grey", 42: "grey"}
SETTINGS = SynthesisSettings(channels=("t1", "t2"), tissues=HEAD, contrasts="named", classes=CLASSES, spacing=2.0)


def draw(maps: Path, **changes: Any) -> Any:
    return synthesise(maps, **{"dataset_id": 801, "images": 5, "settings": SETTINGS, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*Tr/*")}


def test_a_data_set_as_nnunet_wants_it(tiny_maps: Path, nnunet_dirs: Path) -> None:
    folder = draw(tiny_maps).folder
    assert folder.name == "Dataset801_MadeUp"
    description = read_json(folder / "dataset.json")
    assert description["channel_names"] == {"0": "t1", "1": "t2"}
    assert description["labels"] == {"background": 0, "white": 1, "grey": 2}
    assert description["numTraining"] == 5 == len(list((folder / "labelsTr").iterdir()))
    image = sitk.ReadImage(str(folder / "imagesTr/head_b_0001_0001.nii.gz"))
    label = sitk.ReadImage(str(folder / "labelsTr/head_b_0001.nii.gz"))
    assert image.GetSpacing() == (2.0, 2.0, 2.0)
    assert image.GetSize() == label.GetSize()
    assert image.GetOrigin() == label.GetOrigin()
    assert set(np.unique(sitk.GetArrayViewFromImage(label))) == {0, 1, 2}


def test_cases_of_a_map_are_one_patient(tiny_maps: Path, nnunet_dirs: Path) -> None:
    folder = draw(tiny_maps).folder
    cases = read_cases(folder)
    patients = groups(cases.rows, cases.scope)
    assert patients["head_a_0000"] == patients["head_a_0003"] != patients["head_b_0001"]
    assert not check_splits(folder).faults
    assert "made up" in read_json(folder / "dataset.json")["description"]


def test_images_lie_where_the_map_lies(tiny_maps: Path, nnunet_dirs: Path) -> None:
    folder = draw(tiny_maps, settings=SynthesisSettings(tissues=HEAD, warp=0.0)).folder
    for case, name in (("head_a_0000", "head_a.nii.gz"), ("head_b_0001", "head_b.nii.gz")):
        places = []
        for path in (tiny_maps / name, folder / f"labelsTr/{case}.nii.gz"):
            image = nib.load(path)
            inside = np.argwhere(np.asarray(image.dataobj) > 0)
            places.append(nib.affines.apply_affine(image.affine, inside).mean(axis=0))
        assert places[0] == pytest.approx(places[1], abs=0.3)


def test_any_number_of_processes_and_any_order_give_the_same(tiny_maps: Path, nnunet_dirs: Path) -> None:
    whole = contents(draw(tiny_maps).folder)
    draw(tiny_maps, dataset_id=802, images=2)
    later = draw(tiny_maps, dataset_id=802).folder
    assert contents(later) == whole
    parallel = draw(tiny_maps, dataset_id=803, workers=2).folder
    assert contents(parallel) == whole


def test_a_second_run_draws_what_is_missing(
    tiny_maps: Path, nnunet_dirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = draw(tiny_maps).folder
    whole = contents(folder)
    drawn: list[str] = []

    def counting(order: Any) -> Any:
        drawn.append(order.case)
        return draw_and_write(order)

    monkeypatch.setattr(made_up_cohort, "draw_and_write", counting)
    (folder / "imagesTr/head_b_0001_0001.nii.gz").unlink()
    draw(tiny_maps)
    assert drawn == ["head_b_0001"]
    assert contents(folder) == whole
    draw(tiny_maps, settings=SynthesisSettings(**{**vars(SETTINGS), "seed": 5}))
    assert len(drawn) == 6, "other settings, other images"
    with pytest.raises(InputError, match="belongs to no case"):
        draw(tiny_maps, images=3)


def test_the_command(tiny_maps: Path, nnunet_dirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["synthesise", str(tiny_maps), "-d", "801", "-n", "3", "--workers", "1"]
    lesions = [
        "--lesions",
        "1",
        "--cavities",
        "1",
        "--label-lesions",
        "--labels",
        "2=white,41=white",
        "--labels",
        "99=gap",
    ]
    assert main([*common, "--channels", "T1c,FLAIR", "--tissues", "head", "--skull-strip", *lesions]) == 0
    told = capsys.readouterr().out
    assert "3 images of 3 label maps" in told
    assert "note: no image has the class gap" in told
    folder = nnunet_dirs / "nnUNet_raw/Dataset801_MadeUp"
    labels = read_json(folder / "dataset.json")["labels"]
    assert list(labels) == ["background", "white", "gap", "necrosis", "oedema", "enhancing", "cavity"]
    image = nib.load(folder / "imagesTr/head_a_0000_0000.nii.gz").get_fdata()
    assert (image == 0).mean() > 0.3
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["release"] == "synthesis"
    assert manifest["cases"][0]["labels"].get("6", 0) > 0


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--lesions", "0.5"], "lesions need to know where the brain is"),
        (["--tissues", "none.json"], "neither head nor a file"),
        (["--contrasts", "named"], "'mri' is not known"),
        (["--labels", "2=white", "--labels", "2=grey"], "twice"),
        (["--name", "a b"], "--name 'a b'"),
        (["--spacing", "-1"], "spacing is -1"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str], what: str, tiny_maps: Path, nnunet_dirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["synthesise", str(tiny_maps), "-d", "801", "-n", "1", *options]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert what in told
    assert not list((nnunet_dirs / "nnUNet_raw").iterdir())
