"""What the parsers of several subcommands share."""

import argparse

import pytest

from bdfm_nnunet.commands.arguments import assignment, command, label_names, options_given
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
