"""How errors reach a user of commands that are not ours."""

import subprocess
import sys
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError, show_as_one_line
from bdfm_nnunet.nnunet_folders import PLUGIN


def test_input_errors_are_one_line_and_all_others_go_to_the_hook_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "excepthook", lambda *arguments: seen.append(arguments))
    show_as_one_line()
    first = sys.excepthook
    show_as_one_line()  # nnU-Net may import the shim more than once
    assert sys.excepthook is first
    error = InputError("a.pth is not a checkpoint: give another")
    sys.excepthook(InputError, error, None)
    assert capsys.readouterr().err == "bdfm: error: a.pth is not a checkpoint: give another\n"
    other = ValueError("something else")
    sys.excepthook(ValueError, other, None)
    assert seen == [(ValueError, other, None)]


def test_importing_the_shim_is_enough() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(PLUGIN)!r}); import bdfm_nnunet_trainers\n"
        "sys.modules.pop('bdfm_nnunet_trainers')\n"  # as nnU-Net does
        "from bdfm_nnunet.errors import InputError\nraise InputError('the sentence')"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "bdfm: error: the sentence\n")
