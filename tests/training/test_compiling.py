"""Who decides about torch.compile, and what a failure changes."""

import pytest
from torch import nn

from bdfm_nnunet.training.compiling import Compiler, uncompiled


@pytest.mark.parametrize(
    ("setting", "variable", "nnunet", "wanted"),
    [
        ("on", None, False, True),
        ("on", "0", True, False),
        ("off", None, True, False),
        ("off", "1", True, True),  # the variable overrides the setting, nnU-Net's own doubts stay
        ("off", "1", False, False),
        ("auto", None, True, True),
        ("auto", None, False, False),
    ],
)
def test_the_variable_overrides_the_setting_and_nnunet_has_the_last_word(
    setting: str, variable: str | None, nnunet: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_compile", raising=False)
    if variable is not None:
        monkeypatch.setenv("nnUNet_compile", variable)
    assert Compiler(setting, print).is_wanted(lambda: nnunet) is wanted  # type: ignore[arg-type]


def test_what_differs_in_shape_from_step_to_step_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_compile", raising=False)
    network = nn.Linear(2, 2)
    assert Compiler("on", print).is_wanted(lambda: True, network)
    network.shapes_vary = True  # type: ignore[assignment]
    assert not Compiler("on", print).is_wanted(lambda: True, network)


def test_a_failure_is_logged_and_final(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_compile", raising=False)
    lines: list[str] = []
    compiler = Compiler("on", lines.append)
    assert compiler.is_wanted(lambda: True)
    compiler.give_up(RuntimeError("no compiler\nwas found\nhere"))
    assert not compiler.is_wanted(lambda: True)
    (line,) = lines
    assert line.startswith("WARNING: torch.compile failed") and line.endswith("no compiler was found")


def test_a_network_loses_its_wrapper_alone() -> None:
    class Compiled(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self._orig_mod = network

    network = nn.Linear(2, 2)
    assert uncompiled(Compiled(network)) is network
    assert uncompiled(network) is network
