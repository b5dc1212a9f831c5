"""`bdfm plan` and `weights`: what they accept and hand over."""

from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.commands import plan_and_train
from tests.commands.stand_ins import Calls


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The configurations whose cost was asked for."""
    calls = Calls()
    monkeypatch.setattr(plan_and_train, "log_costs", calls)
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
    assert [configuration for (_, configuration), _ in told] == [None, None]


def test_plan_hands_over_what_to_take_from_a_checkpoint(folders: Path, replace: Any, told: Calls) -> None:
    calls = replace("bdfm_nnunet.plans", "plan_dataset")
    for options in ("--like a.pth", "--like a.pth --spacing no_resample", "--like a.pth --spacing 1,0.5,2"):
        assert cli.main(["plan", "-d", "9", *options.split()]) == 0
    given = [(settings.get("like"), settings.get("spacing")) for _, settings in calls]
    assert given == [(Path("a.pth"), None), (Path("a.pth"), "no_resample"), (Path("a.pth"), [1.0, 0.5, 2.0])]


def test_variant_settings_are_json_where_they_can_be(folders: Path, replace: Any, told: Calls) -> None:
    calls = replace("bdfm_nnunet.plans", "add_variant")
    settings = ["training.epochs=2", "training.initial_lr=1e-4", "pretraining.channels=all", "finetuning.weights=a=b"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert cli.main(["plan", "-d", "9", "--variant", "short", *options]) == 0
    assert cli.main(["plan", "-d", "9", "--variant", "flat", "--base", "2d", "-p", "Mine"]) == 0
    values = {
        "training.epochs": 2, "training.initial_lr": 1e-4, "pretraining.channels": "all", "finetuning.weights": "a=b",
    }  # fmt: skip
    expected = {"plans_name": "BDFMPlans", "variant": "short", "base": None, "settings": values}
    assert calls[0] == ((9,), expected)
    assert calls[1][1] == {"plans_name": "Mine", "variant": "flat", "base": "2d", "settings": {}}
    assert [configuration for (_, configuration), _ in told] == ["short", "flat"]


def test_a_recipe_is_a_variant_of_its_name_or_of_another(folders: Path, replace: Any, told: Calls) -> None:
    calls = replace("bdfm_nnunet.plans", "add_recipe")
    assert cli.main(["plan", "-d", "9", "--recipe", "brats"]) == 0
    changed = ["--variant", "mine", "--base", "2d", "-p", "Mine", "--set", "training.epochs=2"]
    assert cli.main(["plan", "-d", "9", "--recipe", "brats", *changed]) == 0
    given = {"recipe": "brats", "plans_name": "BDFMPlans", "variant": "brats", "base": "3d_fullres", "settings": {}}
    assert calls[0] == ((9,), given)
    other = {"plans_name": "Mine", "variant": "mine", "base": "2d", "settings": {"training.epochs": 2}}
    assert calls[1] == ((9,), given | other)
    assert [configuration for (_, configuration), _ in told] == ["brats", "mine"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--set", "training.epochs=2"], "need --variant"),
        (["--base", "2d"], "need --variant"),
        (["--variant", "short", "--network", "swin"], "--network cannot go with --variant"),
        (["--variant", "short", "--like", "a.pth"], "--like cannot go with --variant"),
        (["--recipe", "brats", "--weights", "a.pth"], "--weights cannot go with --recipe"),
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
