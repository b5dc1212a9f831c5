"""`bdfm predict`: what it accepts and hands over."""

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.nnunet_folders import PLUGIN
from tests.commands.stand_ins import Calls


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
    quiet = {"strict_input": False}
    assert defaults[0] == (stock, {"precision": "auto", "windows": None, "compile": False, "rules": None} | quiet)
    assert given[0] == (stock, {"precision": "bf16", "windows": 3, "compile": True, "rules": None} | quiet)


def test_help_of_prediction_has_our_options_and_goes_on_to_those_of_nnunet(
    predicted: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        option in shown for option in ("--precision", "--windows", "--compile", "--postprocess", "--model", "--strict")
    )
    assert predicted[0][0][0] == ["--help"]


def test_precisions_are_those_of_the_library() -> None:
    from bdfm_nnunet.commands import predict
    from bdfm_nnunet.prediction.ensemble_prediction import AVERAGES
    from bdfm_nnunet.prediction.inference_precision import PRECISIONS

    assert (predict.PRECISIONS, predict.AVERAGES) == (PRECISIONS, AVERAGES)


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
