"""`bdfm weights --check`."""

from pathlib import Path

import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.plans import check_weights_of
from tests.checkpoints.described import checkpoint_of_network
from tests.conftest import Prepared
from tests.training.trainings import pretrained_encoder


def test_a_file_against_the_network_of_plans(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = pretrained_encoder(prepared, tmp_path / "a.pth")
    content = torch.load(weights, weights_only=False)
    arguments = ["weights", str(weights), "--check", "-d", str(prepared.labelled), "-p", prepared.plans]
    if "init_args" not in content:
        assert cli.main(arguments) == 2
        assert "does not describe its network" in capsys.readouterr().err
        from bdfm_nnunet.plans.plans_lookup import read_plans

        plans = read_plans(prepared.labelled, prepared.plans)
        torch.save(content | {"init_args": {"plans": plans, "configuration": "3d_fullres"}}, weights)
    out = tmp_path / "out.pth"
    assert cli.main([*arguments, "-o", str(out)]) == 0 and out.is_file()
    shown = capsys.readouterr().out
    assert "stage 0: off by" in shown and "the features are those of the file's network" in shown


def test_a_file_against_a_new_network_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint_of_network(tmp_path / "a.pth", "resnet18", 2)
    assert cli.main(["weights", str(path), "--check"]) == 0
    assert "stage 4: off by" in capsys.readouterr().out
    path = checkpoint_of_network(tmp_path / "b.pth", "resnet18", 2, plans=False)
    with pytest.raises(InputError, match="does not describe its network: name plans"):
        check_weights_of(path)


def test_what_nothing_explains_ends_in_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bdfm_nnunet.checkpoints.feature_check import Deviation

    far = (Deviation("0", 0.5, 1.0, ((1,), (1,))),)
    monkeypatch.setattr("bdfm_nnunet.plans.weights_check.check_features", lambda *_: far)
    path = checkpoint_of_network(tmp_path / "a.pth", "plain", 1)
    assert cli.main(["weights", str(path), "--check"]) == 1
    assert "nothing that was adapted explains it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "nothing to do"),
        ("-o out.pth", "-o needs -d ID and -p PLANS"),
        ("-d 9 --check", "-d and -p belong together"),
        ("-p Plans -o out.pth", "-d and -p belong together"),
    ],
)
def test_options_that_do_not_go_together(options: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "in.pth", *options.split()]) == 2
    assert sentence in capsys.readouterr().err
