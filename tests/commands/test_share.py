"""`bdfm info` and `export`: what they accept and hand over."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from tests.sharing.made_checkpoints import pretrained


def test_info_prints_lines_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrained(tmp_path / "a.pth")
    assert cli.main(["info", str(tmp_path / "a.pth")]) == 0
    assert "SwinUNet, 2 stages" in capsys.readouterr().out
    assert cli.main(["info", str(tmp_path / "a.pth"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["network"]["class"] == "SwinUNet"
    assert cli.main(["info", str(tmp_path / "b.pth")]) == 2
    assert "b.pth does not exist" in capsys.readouterr().err


def test_export_hands_over_its_options(replace: Any) -> None:
    calls = replace("bdfm_nnunet.sharing", "export_weights")
    assert cli.main(["export", "a.pth", "-o", "out"]) == 0
    assert cli.main("export a.pth -o out --name Mine --licence MIT --no-cases".split()) == 0
    assert calls[0] == ((Path("a.pth"), Path("out")), {"name": None, "licence": None, "cases": True})
    assert calls[1][1] == {"name": "Mine", "licence": "MIT", "cases": False}


def test_export_of_a_model(replace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls = replace("bdfm_nnunet.sharing", "export_model")
    assert cli.main("export model -o out --as nnUNetTrainer".split()) == 0
    assert calls == [((Path("model"), Path("out")), {})]
    for option in ("--name Mine", "--licence MIT", "--no-cases"):
        assert cli.main(f"export model -o out --as nnUNetTrainer {option}".split()) == 2
        assert f"{option.split()[0]} cannot go with --as" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main("export model -o out --as mine".split())
