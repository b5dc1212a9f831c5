"""`bdfm convert --unlabelled`, `targets` and `splits`, by their real commands, on a small made-up cohort."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.split_files import read_kept_out, read_splits
from bdfm_nnunet.targets import read_targets


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients, two of them with a second scan: a ball in noise, larger where the table says so."""
    root = tmp_path_factory.mktemp("download")
    draw = np.random.default_rng(0)
    grid = np.indices((12, 12, 12)) - 5.5
    table = ["subject;Läsion;Alter;Zentrum;OS;dead"]
    for number in range(1, 13):
        ball = (grid**2).sum(0) < (4.5**2 if number % 3 else 5.2**2)
        for session in ("a", "b")[: 2 if number < 3 else 1]:
            image = ball * draw.uniform(50, 100, ball.shape)
            nibabel.save(
                nibabel.Nifti1Image(image.astype(np.float32), np.eye(4)), root / f"s{number:02d}{session}_T1.nii.gz"
            )
        lesion = "ja" if number % 3 else "nein"
        table.append(
            f"s{number};{lesion};{30 + number},5;{'Ulm' if number < 10 else 'Köln'};{100 * number};{number % 2}"
        )
    (root / "table.csv").write_bytes(("\r\n".join(table) + "\r\n").encode("latin-1"))
    return root


@pytest.fixture
def converted(download: Path, folders: Path) -> Path:
    """The folder of data set 501."""
    command = f"convert folder {download} -d 501 --unlabelled --image t1={{case}}_T1 --workers 1 --name Demo"
    assert cli.main([*command.split(), "--patient", r"^(s\d+)"]) == 0
    return folders / "nnUNet_raw" / "Dataset501_DemoUnlabelled"


COLUMNS = [
    "--column", "has_lesion:binary=Läsion", "--column", "age:continuous=alter", "--unit", "age=years",
    "--column", "os:survival=OS/dead", "--group", "site=Zentrum",
]  # fmt: skip


def test_from_a_download_without_labels_to_splits_by_target(
    converted: Path, download: Path, folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preprocessed = folders / "nnUNet_preprocessed" / "Dataset501_DemoUnlabelled"
    preprocessed.mkdir(parents=True)
    assert cli.main(["targets", "-d", "501", str(download / "table.csv"), *COLUMNS]) == 0
    told = capsys.readouterr().out
    assert "targets of 14 cases of 12 patients" in told and "has_lesion: binary, nein 4, ja 10" in told
    assert "age: continuous, 31.5 to 42.5 years" in told and "group site: Köln 3, Ulm 11" in told
    assert "warning: age rises with the order of the case ids" in told
    for folder in (converted, preprocessed):
        targets = read_targets(folder)
        assert targets.values("has_lesion", ["s01a", "s01b", "s03a"]).ravel().tolist() == [1, 1, 0]
        assert targets.groups["site"]["s10a"] == "Köln" and targets.patients["s01a"] == targets.patients["s01b"]
    assert cli.main("splits -d 501 --folds 3 --target has_lesion --target os --external Köln --overwrite".split()) == 0
    told = capsys.readouterr().out
    assert "kept out of all folds: site=Köln, 3 cases" in told and "has_lesion: nein 2/1, ja 5/3" in told
    folds = read_splits(preprocessed / "splits_final.json")
    assert {case for fold in folds for case in fold["val"]} == {f"s{n:02d}a" for n in range(1, 10)} | {"s01b", "s02b"}
    assert read_kept_out(preprocessed).external == {"s10a", "s11a", "s12a"}
    assert cli.main("splits -d 501 --check".split()) == 0
    assert cli.main("splits -d 501 --check --target os".split()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "x:binary"], "has no column 'x'"),
        (["--seed", "1"], "--seed is for --balanced"),
        (["--bands", "age=60,40"], "--bands has the limits 60,40, expected rising numbers"),
        (
            ["--classes", "dead=0,1", "--column", "age:continuous=Alter"],
            "--classes names dead, which is no target here",
        ),
        (["--positive", "dead=0", "--positive", "dead=1", "--column", "dead"], "names target dead twice"),
        (["--patients", "s"], "has a manifest that knows the patients"),
        (["--id", "nowhere"], "has no column 'nowhere'"),
        (["--balanced", "age", "--column", "age:continuous=Alter"], "--balanced age names no target with classes"),
    ],
)
def test_options_that_cannot_act_are_refused(
    options: list[str], message: str, converted: Path, download: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["targets", "-d", "501", str(download / "table.csv"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (converted / "targets.csv").exists()


def test_options_reach_the_files(converted: Path, download: Path) -> None:
    options = ["--classes", "stage=early=31*|32*|33*,late=*", "--column", "stage:ordinal=Alter", "--missing", "42,5"]
    options += ["--id", "subject", "--bands", "OS=500,900", "--per-scan", "stage", "--strict", "--known", "none"]
    assert cli.main(["targets", "-d", "501", str(download / "table.csv"), *options]) == 0
    targets = read_targets(converted)
    assert targets.columns["stage"].classes == ("early", "late") and "s12a" not in targets.known("stage")
    assert set(targets.groups["OS"].values()) == {"below 500", "500 to 900", "900 and above"}
    options = ["--column", "dead", "--positive", "dead=0", "--balanced", "dead", "--seed", "3", "--add"]
    assert cli.main(["targets", "-d", "501", str(download / "table.csv"), *options]) == 0
    targets = read_targets(converted)
    assert set(targets.columns) == {"stage", "dead"} and targets.columns["dead"].classes == ("1", "0")
    assert len(targets.known("dead")) == 12 and set(targets.groups) == {"OS"}
    assert "seed 3" in json.loads((converted / "targets.json").read_text())["notes"][-1]
