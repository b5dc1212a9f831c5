"""`bdfm releases`, `convert` and `splits`: what they accept and hand over."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli


def test_releases_lists_shows_and_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["releases"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()][4:6] == ["brats2023-gli", "brats2023-men"]
    assert cli.main(["releases", "brats2023-ped"]) == 0
    assert "BraTS-PED-00000-000-t2f.nii.gz" in capsys.readouterr().out
    assert cli.main(["releases", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {entry["name"] for entry in table} >= {f"brats2023-{task}" for task in ("gli", "men", "met", "ped", "ssa")}
    assert list(table[4]["channels"]) == ["t1n", "t1c", "t2w", "t2f"]


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `dataset_conversion.convert` was called with."""
    from bdfm_nnunet import dataset_conversion

    seen: dict[str, Any] = {}

    def convert(release: Any, source: Path, **settings: Any) -> dataset_conversion.ConversionReport:
        seen.update(settings, release=release, source=source)
        return dataset_conversion.ConversionReport(tmp_path, tmp_path / "m.json", [], [], [], [], dry_run=True)

    monkeypatch.setattr(dataset_conversion, "convert", convert)
    return seen


def test_convert_hands_over_its_options(conversion: dict[str, Any]) -> None:
    command = (
        "convert R S -d 12 --unlabelled --link hard --workers 3 --dry-run --manifest m.json --channels b,a "
        "--only case_.* --scheduler tcp://there:8786"
    )
    assert cli.main(command.split()) == 0
    assert conversion == {
        "release": "R", "source": Path("S"), "dataset_id": 12, "unlabelled": True, "link": "hard", "workers": 3,
        "dry_run": True, "manifest": Path("m.json"), "channels": ["b", "a"], "only": "case_.*",
        "scheduler": "tcp://there:8786",
    }  # fmt: skip


def test_convert_with_an_entry_from_a_file(conversion: dict[str, Any], tmp_path: Path) -> None:
    from bdfm_nnunet.dataset_conversion import find_release

    entry = {**find_release("brats2021").as_dict(), "name": "ours"}
    (tmp_path / "entry.json").write_text(json.dumps(entry))
    assert cli.main(["convert", "brats2021", "S", "-d", "1", "--entry", str(tmp_path / "entry.json")]) == 0
    assert conversion["release"].name == "ours"
    assert conversion["release"].label_map == {4: 3}


def test_convert_folder_and_bids_make_their_entry(conversion: dict[str, Any]) -> None:
    options = ["--image", "t1={case}_T1", "--image", "t2={case}_T2", "--label", "{case}_mask", "--labels", "1=lesion"]
    assert cli.main(["convert", "folder", "S", "-d", "1", *options, "--name", "Ours"]) == 0
    entry = conversion["release"]
    assert (list(entry.channels), dict(entry.labels), entry.dataset_name) == (["t1", "t2"], {1: "lesion"}, "Ours")
    assert cli.main(["convert", "bids", "S", "-d", "1", "--channels", "T1w,FLAIR", "--unlabelled"]) == 0
    assert list(conversion["release"].channels) == ["T1w", "FLAIR"]
    assert conversion["channels"] is None


IMAGE = ["--image", "a={case}_a", "--label", "{case}_seg"]


@pytest.mark.parametrize(
    "labels",
    [
        ["1=anterior,2=posterior"],
        ["2=posterior", "1=anterior"],
        ["0=background", "1=anterior, 2=posterior"],
        ["0=Background,1=anterior,2=posterior"],
    ],
)
def test_labels_are_a_list_or_repeated(labels: list[str], conversion: dict[str, Any]) -> None:
    given = [word for text in labels for word in ("--labels", text)]
    assert cli.main(["convert", "folder", "S", "-d", "1", *IMAGE, *given]) == 0
    assert dict(conversion["release"].labels) == {1: "anterior", 2: "posterior"}
    assert dict(conversion["release"].regions) == {"anterior": (1,), "posterior": (2,)}


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("convert folder S -d 1 --channels a --channels a", "--channels was given twice"),
        ("convert folder S -d 1 -d 2", "-d was given twice"),
        ("convert folder S -d 1 --strict --no-strict", "--strict and --no-strict were given"),
        ("convert folder S -d 1 --label a --label b", "--label was given twice"),
        ("splits -d 1 --folds 3 --folds 4", "--folds was given twice"),
        ("splits -d 1 --fractions 10,10", "each once"),
        ("plan -d 1 --preprocess --no-preprocess", "--preprocess and --no-preprocess were given"),
        ("plan -d 1 --gpu-memory 2 --gpu-memory 4", "--gpu-memory was given twice"),
    ],
)
def test_an_option_that_is_given_twice_is_refused(
    command: str, sentence: str, conversion: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two values the last would win in silence."""
    with pytest.raises(SystemExit) as ended:
        cli.main(command.split())
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err and not conversion


@pytest.mark.parametrize("more", ["--overwrite", "--folds 5", "--fractions 100", "--seed 12345", "--sites x.csv"])
def test_a_check_of_splits_changes_nothing(more: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["splits", "-d", "1", "--check", *more.split()]) == 2
    assert f"leave out {more.split()[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["brats2021", "--label", "x"], "--label cannot be used"),
        (["bids", "--image", "a=b"], "--image cannot be used"),
        (["brats2023-gli", "--image", "t1=x"], "`bdfm convert folder`, and the files of brats2023-gli are known"),
        (["folder", "--image", "a={case}", "--label", "x", "--labels", "one=lesion"], "whole numbers"),
        (["folder", "--image", "a={case}_a", "--image", "a={case}_b"], "--image names channel a twice"),
        (["folder", "--image", "a={case}", "--entry", "x.json"], "--image cannot be used beside --entry"),
        (["folder", "--label", ""], "no image pattern"),
        *((["folder", *IMAGE, "--labels", *labels], sentence) for labels, sentence in (
            (["1=a", "--labels", "1=b"], "--labels names label 1 twice, a and b"),
            (["1=a,2=b,01=a"], "--labels names label 1 twice"),
            (["1=anterior,posterior"], "--labels 1=anterior,posterior cannot be read at 'posterior'"),
            (["1=a=b"], "without comma and equals sign"), (["1="], "cannot be read"), (["1=a,"], "cannot be read"),
            (["1.5=a"], "whole numbers"), (["0=air"], "0 is the background"), (["1=background"], "0 is the background"),
            (["0=background"], "no label but the background"), (["1=a,2=A"], "both called"),
            (["1=left side,2=left_side"], "both called"), (["1=x/y"], "use letters"), (["1=../x"], "use letters"),
            (["1=ignore,2=a"], "must have the highest value"),
        )),
    ],
)  # fmt: skip
def test_contradictions_of_convert(
    options: list[str], sentence: str, conversion: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["convert", options[0], "S", "-d", "1", *options[1:]]) == 2
    assert sentence in capsys.readouterr().err
    assert not conversion


def test_convert_hands_over_the_options_of_runs(conversion: dict[str, Any]) -> None:
    command = (
        "convert fmri-ucla S -d 12 --spacing 3 --time-step 1 --size 64 --grid own --tr 2 --drop 4 --max-fd 0.5 "
        "--min-frames 40 --standardise voxel --store int16 --families f.csv --channels bold --workers 2"
    )
    assert cli.main(command.split()) == 0
    settings = conversion.pop("settings")
    assert conversion == {
        "release": "fmri-ucla", "source": Path("S"), "dataset_id": 12, "families": Path("f.csv"), "workers": 2,
        "dry_run": False, "manifest": None, "channels": ["bold"], "only": None, "scheduler": None,
    }  # fmt: skip
    assert vars(settings) == {
        "spacing": 3, "time_step": 1, "size": 64, "grid": "own", "tr": 2, "drop": 4, "max_displacement": 0.5,
        "min_frames": 40, "standardise": "voxel", "store": "int16", "legacy": False,
    }  # fmt: skip
    assert cli.main("convert fmri-ucla S -d 12 --legacy --drop 4".split()) == 0
    assert conversion["settings"].legacy and conversion["settings"].drop == 4


def test_convert_runs_by_pattern_and_in_another_space(conversion: dict[str, Any]) -> None:
    options = "--image bold=**/{case}_bold --mask **/{case}_mask --confounds **/{case}.tsv --patient (s.) --name Ours"
    assert cli.main(["convert", "fmri-folder", "S", "-d", "1", *options.split()]) == 0
    entry = conversion["release"]
    assert (entry.dataset_name, entry.patient_pattern, len(entry.label)) == ("Ours", "(s.)", 1)
    assert entry.runs.confounds == (r"(?s:(?:.*/)?){case}\.tsv",)
    assert cli.main("convert fmri-tcp S -d 1 --space MNI152NLin6Asym".split()) == 0
    assert "MNI152NLin6Asym" in conversion["release"].channels["bold"].path
    assert conversion["release"].name == "fmri-tcp"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("brats2021 S -d 1 --drop 3", "--drop cannot be used here: it is for 4-D runs"),
        ("folder S -d 1 --size 0", "--size cannot be used here"),
        ("brats2021 S -d 1 --space x", "--space cannot be used here: it is for `bdfm convert fmri-fmriprep"),
        ("fmri-hcp-ya S -d 1 --space x", "--space cannot be used here"),
        ("fmri-bids S -d 1 --mask {case}", "--mask cannot be used here: it is for `bdfm convert fmri-folder`"),
        ("fmri-folder S -d 1 --mask {case}_m", "need the pattern of the runs"),
        ("fmri-folder S -d 1 --image a={case}_a --image b={case}_b", "has runs of one channel"),
        ("fmri-folder S -d 1 --image a=a", "does not tell the case"),
        ("fmri-bids S -d 1 --unlabelled", "--unlabelled cannot be used here"),
        ("fmri-bids S -d 1 --link sym", "--link cannot be used here"),
        ("fmri-bids S -d 1 --spacing 0.1", "--spacing is 0.1, expected 0.5 to 20 mm"),
        ("fmri-fmriprep S -d 1 --space a/b", "has no form of BIDS"),
        ("fmri-nothing S -d 1", "is not known"),
    ],
)
def test_options_of_runs_that_do_not_fit(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert cli.main(["convert", *options.split()]) == 2
    assert sentence in capsys.readouterr().err
