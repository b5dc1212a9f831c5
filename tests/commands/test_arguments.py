"""What the parsers of several subcommands share."""

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli, train
from bdfm_nnunet.cli import build_parser
from bdfm_nnunet.commands import predict
from bdfm_nnunet.commands.arguments import assignment, command, each_once, label_names, options_given
from bdfm_nnunet.errors import InputError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add = command(parser.add_subparsers(), "do", lambda settings: 0, "do it")
    add("thing", nargs="?", default="x")
    add("-n", "--number", type=int, default=1)
    add("--many", action="append", default=[])
    return parser


def test_what_was_given_is_known_from_what_is_a_default() -> None:
    settings = _parser().parse_args(["do", "y", "--number", "1", "--many", "a", "--many", "b"])
    assert (settings.thing, settings.number, settings.many) == ("y", 1, ["a", "b"])
    assert options_given(settings, ["number", "many", "thing"]) == ["--number"]
    assert options_given(_parser().parse_args(["do"]), ["number"]) == []


@pytest.mark.parametrize("again", [["--number", "1"], ["-n", "2"], ["--numb", "3"]])
def test_twice_is_refused_under_any_of_its_names(again: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["do", "--number", "1", *again])
    assert "given" in capsys.readouterr().err


def test_labels_between_commas() -> None:
    assert label_names("1=a, 2 = b c ,-3=d") == [(1, "a"), (2, "b c"), (-3, "d")]
    for text in ("", "1", "=a", "1=", "1=a,", "1=a=b", "1.0=a", "1_0=a", "a=1", "9" * 30 + "=a"):
        with pytest.raises(InputError, match="--labels"):
            label_names(text)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 100_000, "[1, 2", "bf16"])
def test_a_setting_that_is_no_json_is_a_word(value: str) -> None:
    assert assignment(f"training.precision={value}") == ("training.precision", value)


@cache
def _commands() -> dict[str, argparse.ArgumentParser]:
    """Every parser by the words that lead to it, those before nnU-Net's commands too."""
    found = {
        "train": train.build_parser(), "predict, ours": predict.our_parser(),
        "predict -d": predict.nnunet_parser(False), "predict -m": predict.nnunet_parser(True),
    }  # fmt: skip
    waiting = {"": build_parser()}
    while waiting:
        name, parser = waiting.popitem()
        below = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        waiting |= {f"{name} {word}".strip(): each for choices in below for word, each in choices.items()}
        found |= {} if below else {name: parser}
    return {name: parser for name, parser in found.items() if parser._option_string_actions}


@pytest.mark.parametrize("name", _commands())
def test_no_command_takes_an_option_twice(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = _commands()[name]
    for option, action in parser._option_string_actions.items():
        if action.nargs not in (None, "+") or isinstance(action, argparse._AppendAction):
            continue
        value = str(next(iter(action.choices))) if action.choices else "1"
        with pytest.raises(SystemExit) as end:
            parser.parse_known_args([option, value, option, value])
        assert end.value.code == 2
        assert f"{option} was given twice: give it once" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        "predict -d 1 -d 2 -c 2d -i a -o b", "predict -m a -m b -i a -o b", "predict -f 0 -d 1 -f 1 2 -c 2d -i a -o b",
        "predict --precision fp32 -d 1 --precision bf16", "predict -d 1 -d=2", "predict -d1 -d 2",
        "train 1 3d_fullres 0 -tr a -tr b", "train 1 3d_fullres 0 --max-hours 1 --max_hours 2",
        "train 1 3d_fullres 0 -num_gpus 1 -num_gpus 2", "plan -d 1 -d 2", "plan -d 1 --preprocess --no-preprocess",
    ],
)  # fmt: skip
def test_options_that_contradict_each_other(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments.split())
    assert end.value.code == 2
    assert "give " in capsys.readouterr().err.splitlines()[-1]


def test_settings_and_labels_are_named_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    given = ["plan", "-d", "1", "--variant", "v", "--set", "training.epochs=2", "--set", "training.epochs=3"]
    assert cli.main(given) == 2
    assert "--set names setting training.epochs twice, 2 and 3: name it once" in capsys.readouterr().err
    with pytest.raises(InputError, match="--labels names label 1 twice"):
        each_once([(1, "a"), (1, "b")], "--labels", "label")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-f 0 x", "a number or `all` was expected, not 'x'"), ("-step_size 0", "above 0"),
        ("-step_size 2", "at most 1"),
        ("-device tpu", "invalid choice: 'tpu'"), ("-npp -1", "from 0 up"), ("-nps x", "from 0 up"),
        ("-num_parts 0", "from 1 up"), ("-part_id -1", "from 0 up"),
    ],
)  # fmt: skip
def test_values_that_nnunet_would_not_take(arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["predict", "-d", "1", *arguments.split()])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_parts_are_counted_from_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["predict", "-d", "1", "-num_parts", "2", "-part_id", "2"]) == 2
    assert "-part_id 2 is not one of -num_parts 2: give 0 to 1" in capsys.readouterr().err


@pytest.mark.parametrize("from_folder", [False, True])
def test_the_options_are_those_of_nnunets_command(from_folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnunetv2.inference import predict_from_raw_data as nnunet

    seen: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, *_: Any) -> Any:
        seen.append(parser)
        raise KeyboardInterrupt

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(KeyboardInterrupt):
        (nnunet.predict_entry_point_modelfolder if from_folder else nnunet.predict_entry_point)()
    theirs, ours = (
        {
            option: action.nargs
            for option, action in parser._option_string_actions.items()
            if option not in ("-h", "--help")
        }
        for parser in (seen[0], predict.nnunet_parser(from_folder))
    )
    assert ours == theirs
