"""The command line: what it accepts, what it hands over, how it ends."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bdfm_nnunet
from bdfm_nnunet import cli
from bdfm_nnunet.commands import plan_and_train
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import PLUGIN, nnunet_folder, trainer_search_path


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    return tmp_path


class Calls(list[tuple[tuple[Any, ...], dict[str, Any]]]):
    """Stands for a function of the library and keeps what it was called with."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        self.append((args, settings))
        return None


@pytest.fixture
def replace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Puts a stand-in module with one function into the place of a module of the library."""

    def put(module: str, function: str) -> Calls:
        stand_in, calls = ModuleType(module), Calls()
        spec = importlib.util.find_spec(module)
        assert spec is not None
        stand_in.__path__ = spec.submodule_search_locations or []  # its other files can be imported
        setattr(stand_in, function, calls)
        monkeypatch.setitem(sys.modules, module, stand_in)
        monkeypatch.setattr(bdfm_nnunet, module.rpartition(".")[2], stand_in, raising=False)
        return calls

    yield put


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from bdfm_nnunet.cli import build_parser; build_parser().format_help();"
        "print(sorted({'torch', 'nnunetv2', 'numpy', 'SimpleITK'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "bdfm_nnunet.cli", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1


@pytest.mark.parametrize(
    "command",
    [
        "releases",
        "convert",
        "cohort",
        "splits",
        "exposure",
        "submit",
        "plan",
        "weights",
        "evaluate",
        "postprocess tune",
        "postprocess apply",
        "demo",
        "env",
    ],
)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0
    assert f"bdfm {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["convert", "brats2023-gli", "somewhere"],
        ["convert", "brats2023-gli", "somewhere", "-d", "0"],
        ["convert", "brats2023-gli", "somewhere", "-d", "1", "--workers", "0"],
        ["convert", "brats2023-gli", "somewhere", "-d", "1", "--link", "soft"],
        ["convert", "folder", "somewhere", "-d", "1", "--image", "t1"],
        ["convert", "folder", "somewhere", "-d", "1", "--channels", "a,,b"],
        ["splits", "-d", "1", "--fractions", "0,50"],
        ["splits", "-d", "1", "--fractions", "half"],
        ["evaluate", "a", "b", "--release", "brats2021", "-o", "c.json", "--metrics", "lesionwise"],
        ["postprocess"],
        ["cohort", "-d", "1"],
        ["plan", "-d", "5", "--gpu-memory", "-2"],
        ["plan", "-d", "5", "--gpu-memory", "much"],
        ["plan", "-d", "5", "--network", "vgg"],
        ["plan", "-d", "5", "--calibrate", "0"],
        ["plan", "-d", "5", "--calibrate", "--device", "tpu"],
    ],
)
def test_wrong_usage_ends_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["releases", "brats2023-gly"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bdfm: error: ") and error.count("\n") == 1 and "brats2023-gli" in error


def test_interruption_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupt)
    assert cli.main(["env"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_env_prints_a_line_that_a_shell_understands(folders: Path) -> None:
    odd = '/odd "name" $HOME'
    environ = {**os.environ, "nnUNet_extTrainer": odd, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    script = f'eval "$({sys.executable} -m bdfm_nnunet.cli env)" && printf %s "$nnUNet_extTrainer"'
    result = subprocess.run(["bash", "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert result.stdout == f"{PLUGIN}{os.pathsep}{odd}"


def test_search_path_holds_our_folder_once() -> None:
    assert trainer_search_path({}) == str(PLUGIN)
    twice = {"nnUNet_extTrainer": os.pathsep.join(["/mine", str(PLUGIN)])}
    assert trainer_search_path(twice) == os.pathsep.join([str(PLUGIN), "/mine"])
    assert [path.name for path in PLUGIN.glob("*.py")].count("bdfm_nnunet_trainers.py") == 1


def test_unset_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", " ")
    with pytest.raises(InputError, match="export nnUNet_raw=/path"):
        nnunet_folder("nnUNet_raw")


@pytest.mark.parametrize(
    "arguments", [["plan", "-d", "5"], ["weights", "x", "-d", "5", "-p", "P", "-o", "y"], ["train", "5", "2d", "0"]]
)
def test_commands_need_their_folders(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("nnUNet_raw", "/somewhere")
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    assert cli.main(arguments) == 2
    assert "export nnUNet_preprocessed=" in capsys.readouterr().err


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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The configurations whose cost was asked for."""
    calls = Calls()
    monkeypatch.setattr(plan_and_train, "tell_costs", calls)
    return calls


def test_plan_hands_over_its_options(folders: Path, replace: Any, told: Calls) -> None:
    calls = replace("bdfm_nnunet.plans", "plan_dataset")
    command = "plan -d 9 --network resenc --gpu-memory 2.5 --weights w.pth -p Mine --no-preprocess --workers 2"
    assert cli.main(command.split()) == 0
    assert cli.main(["plan", "-d", "9"]) == 0
    given = {
        "network": "resenc", "gpu_memory": 2.5, "weights": Path("w.pth"), "plans_name": "Mine", "preprocess": False,
        "workers": 2,
    }  # fmt: skip
    assert calls[0] == ((9,), given)
    defaults = calls[1][1]
    assert (defaults.pop("workers") >= 1, defaults) == (True, {"plans_name": "BDFMPlans", "preprocess": True})
    assert [configuration for (_, configuration), _ in told] == ["3d_fullres", "3d_fullres"]


def test_variant_settings_are_json_where_they_can_be(folders: Path, replace: Any, told: Calls) -> None:
    calls = replace("bdfm_nnunet.plans", "add_variant")
    settings = ["training.epochs=2", "training.initial_lr=1e-4", "pretraining.channels=all", "finetuning.weights=a=b"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert cli.main(["plan", "-d", "9", "--variant", "short", *options]) == 0
    assert cli.main(["plan", "-d", "9", "--variant", "flat", "--base", "2d", "-p", "Mine"]) == 0
    values = {
        "training.epochs": 2, "training.initial_lr": 1e-4, "pretraining.channels": "all", "finetuning.weights": "a=b",
    }  # fmt: skip
    expected = {"plans_name": "BDFMPlans", "variant": "short", "base": "3d_fullres", "settings": values}
    assert calls[0] == ((9,), expected)
    assert calls[1][1] == {"plans_name": "Mine", "variant": "flat", "base": "2d", "settings": {}}
    assert [configuration for (_, configuration), _ in told] == ["short", "flat"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "training.epochs=2"], "need --variant"),
        (["--base", "2d"], "need --variant"),
        (["--variant", "short", "--network", "swin"], "--network cannot go with --variant"),
        (["--variant", "short", "--set", "training.epochs"], "has no value"),
        (["--device", "cpu"], "--device needs --calibrate"),
    ],
)
def test_contradictions_of_plan(
    options: list[str], sentence: str, folders: Path, replace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = replace("bdfm_nnunet.plans", "add_variant")
    assert cli.main(["plan", "-d", "9", *options]) == 2
    assert sentence in capsys.readouterr().err
    assert not calls


def test_weights_hands_over_its_options(folders: Path, replace: Any) -> None:
    calls = replace("bdfm_nnunet.plans", "write_initial_checkpoint")
    assert cli.main("weights in.pth -d 9 -p BDFMPlans -o out.pth".split()) == 0
    assert cli.main("weights in.pth -d 9 -p BDFMPlans -c 2d -o out.pth".split()) == 0
    expected = {"dataset_id": 9, "plans_name": "BDFMPlans", "configuration": "3d_fullres", "out": Path("out.pth")}
    assert calls == [((Path("in.pth"),), expected), ((Path("in.pth"),), {**expected, "configuration": "2d"})]


def test_evaluate_hands_over_the_regions_of_the_release(replace: Any) -> None:
    calls = replace("bdfm_nnunet.evaluation", "evaluate_folders")
    assert cli.main("evaluate ref pred --release brats2023-men -o scores.json --workers 1".split()) == 0
    ((args, settings),) = calls
    assert args == (Path("ref"), Path("pred"))
    assert settings == {
        "regions": {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)},
        "release": "brats2023-men", "metrics": "whole", "out": Path("scores.json"), "workers": 1,
        "task": None, "allow_missing": False, "only_predicted": False, "ignore": None,
    }  # fmt: skip


def test_evaluate_knows_the_labels_on_the_disk(replace: Any) -> None:
    calls = replace("bdfm_nnunet.evaluation", "evaluate_folders")
    command = "evaluate ref pred --release brats2020 --source-labels --metrics lesionwise-2023 -o s.json --task MET"
    assert cli.main(command.split()) == 0
    assert calls[0][1]["regions"] == {"whole_tumor": (1, 2, 4), "tumor_core": (1, 4), "enhancing_tumor": (4,)}
    assert (calls[0][1]["metrics"], calls[0][1]["task"]) == ("lesionwise-2023", "MET")


def test_metric_versions_are_those_of_the_library() -> None:
    from bdfm_nnunet.commands.scores import VERSIONS
    from bdfm_nnunet.evaluation import METRICS

    assert set(VERSIONS) == set(METRICS)


def test_demo_hands_over_its_folder(replace: Any) -> None:
    calls = replace("bdfm_nnunet.studies.demo", "run_demo")
    assert cli.main(["demo", "--out", "there"]) == 0
    assert calls == [((), {"out": Path("there")})]


@pytest.fixture
def predicted(folders: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Stands for the prediction."""
    calls = Calls()
    stand_in = ModuleType("bdfm_nnunet.prediction.stock_commands")
    stand_in.Options = dict  # type: ignore[attr-defined]
    stand_in.run_command = calls  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setenv("nnUNet_extTrainer", "/mine")
    return calls


def test_prediction_gets_every_argument_and_our_options(predicted: Calls) -> None:
    stock = ["-i", "in", "-o", "out", "-d", "501", "-c", "2d", "-f", "0", "all", "--disable_tta", "-npp", "2"]
    assert cli.main(["predict", *stock]) == 0
    assert os.environ["nnUNet_extTrainer"] == f"{PLUGIN}{os.pathsep}/mine"
    assert cli.main(["predict", "--windows", "3", *stock, "--precision", "bf16", "--compile"]) == 0
    defaults, given = predicted
    assert defaults[0] == (stock, {"precision": "auto", "windows": None, "compile": False, "rules": None})
    assert given[0] == (stock, {"precision": "bf16", "windows": 3, "compile": True, "rules": None})


def test_help_of_prediction_has_our_options_and_goes_on_to_those_of_nnunet(
    predicted: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--precision", "--windows", "--compile", "--postprocess"))
    assert predicted[0][0][0] == ["--help"]


def test_precisions_are_those_of_the_library() -> None:
    from bdfm_nnunet.commands.predict import PRECISIONS as OFFERED
    from bdfm_nnunet.prediction.inference_precision import PRECISIONS

    assert OFFERED == PRECISIONS


def test_predictions_are_postprocessed_where_asked(predicted: Calls, tmp_path: Path) -> None:
    from bdfm_nnunet.evaluation.postprocessing import RuleSet

    rules = tmp_path / "rules.json"
    written = RuleSet("brats2021", "whole", (), (0, 1, 2, 3))
    written.write(rules)
    assert cli.main(["predict", "-i", "in", "--postprocess", str(rules), "-o", "out"]) == 0
    ((arguments, options), _) = predicted[0]
    assert arguments == ["-i", "in", "-o", "out"] and options["rules"] == written


def test_missing_rules_are_found_before_the_prediction(predicted: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "-i", "in", "-o", "out", "--postprocess", "missing.json"]) == 2
    assert "missing.json does not exist" in capsys.readouterr().err
    assert not predicted


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--windows", "0"], "a whole number from 1 up was expected, not '0'"),
        (["--postprocess"], "expected one argument"),
    ],
)
def test_wrong_options_of_prediction(
    options: list[str], sentence: str, predicted: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", "-i", "in", "-o", "out", *options])
    assert end.value.code == 2 and sentence in capsys.readouterr().err
    assert not predicted


def test_prediction_needs_the_folder_of_results(
    predicted: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_results")
    assert cli.main(["predict", "-i", "in", "-o", "out", "-d", "501"]) == 2
    assert "nnUNet_results is not set" in capsys.readouterr().err
    assert cli.main(["predict", "-i", "in", "-o", "out", "-m", "model"]) == 0
