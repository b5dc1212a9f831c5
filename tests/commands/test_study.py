"""`bdfm study`: files, options and arms become one study; what cannot be read is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.commands.study import arm_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.studies import study_running
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_running import Order, Report
from tests.studies.study_cohort import make_dataset

FILE = """
dataset = 9
hold_out = 20
fractions = [5, 100]
seeds = 2
steps = 10
set = {"training.workers" = 0}
[arms.scratch]
[arms.bdfm]
pretrain = "nnUNetTrainerBDFMPretrain"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    make_dataset(tmp_path, monkeypatch)
    (tmp_path / "study.toml").write_text(FILE)
    return str(tmp_path / "study.toml")


def run(*words: str) -> int:
    return cli.main(["study", *words])


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert run(*words) == 2
    return capsys.readouterr().err


def test_options_override_the_file(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    options = (
        "--fractions 10,50 --seeds 1 --rates 1e-3,1e-2 --halving --search finetuning.encoder_lr_factor=[0.1,1] "
        "--set training.workers=2"
    )
    assert (
        run(file, "-o", out, "--list", *options.split(), "--arm", "public=weights:none,set:patch_size=[48,32,32]") == 0
    )
    told = capsys.readouterr().out
    assert "bdfm_10percent_seed0" in told and "7 tasks: 7 waiting" in told
    found = StudyFolder.open(tmp_path / "out").settings
    assert (found.fractions, found.seeds, found.rates, found.halving) == ((10, 50), 1, (1e-3, 1e-2), True)
    assert found.search == {"finetuning.encoder_lr_factor": [0.1, 1]} and found.set == {"training.workers": 2}
    assert [arm.name for arm in found.arms] == ["scratch", "bdfm", "public"] and found.arms[2].set == {
        "patch_size": [48, 32, 32]
    }


def test_options_alone_are_a_study(file: str, tmp_path: Path) -> None:
    arms = ("--arm", "scratch", "--arm", "simmim=pretrain:nnUNetTrainerSimMIM")
    assert (
        run("-d", "9", "--hold-out", "10", "--fractions", "5,20,100", *arms, "-o", str(tmp_path / "out"), "--list") == 0
    )
    assert StudyFolder.open(tmp_path / "out").settings.fractions == (5.0, 20.0, 100.0)


def test_a_study_that_is_there_goes_on_and_grows(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[StudyFolder, dict[str, Any]]] = []

    def run_study(folder: StudyFolder, **how: Any) -> list[Report]:
        calls.append((folder, how))
        return [Report("a", "failed", "no memory")] if how["jobs"] == 2 else []

    monkeypatch.setattr(study_running, "run_study", run_study)
    out = ("-o", str(tmp_path / "out"))
    assert run(file, *out) == run(*out, "--device", "cpu", "--keep-models") == 0
    assert calls[0][0] == calls[1][0] and calls[0][1]["device"] is None
    assert calls[1][1] == {"jobs": 1, "scheduler": None, "device": "cpu", "keep_models": True}
    assert run(*out, "--seeds", "3", "--arm", "frozen=strategy:frozen", "--jobs", "2") == 3
    assert calls[2][0].settings.seeds == 3 and len(calls[2][0].settings.arms) == 3
    assert run(*out, "--dask", "tcp://here:1") == 0 and calls[3][1]["scheduler"] == "tcp://here:1"


def test_one_task(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    orders: list[Order] = []

    def run_order(order: Order) -> Report:
        orders.append(order)
        return Report(order.task, "failed" if "seed1" in order.task else "done", "no such device")

    monkeypatch.setattr(study_running, "run_order", run_order)
    out = tmp_path / "out"
    assert run(file, "-o", str(out), "--task", "2", "--device", "cpu") == 0
    assert orders == [Order(out=out, task="scratch_5percent_seed0", device="cpu")]
    assert "scratch_5percent_seed1: no such device" in refusal(
        capsys, "-o", str(out), "--task", "scratch_5percent_seed1"
    )
    assert "take 0 to 9" in refusal(capsys, "-o", str(out), "--task", "99")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "a study needs a folder"),
        (["-o", "x", "--seeds", "2"], "the study lacks dataset: give it with -d ID"),
        (["-o", "x", "-d", "9"], "the study lacks arms"),
        (["-o", "x"], "x holds no study"),
        (["-o", "x", "--list", "--task", "0"], "--list and --task exclude each other"),
        (["-o", "x", "--dask", "a", "--jobs", "2"], "--dask and --jobs exclude each other"),
        (["-o", "x", "--arm", "a=weights:none", "--arm", "a=weights:y"], "--arm names arm a twice"),
        (["gone.toml", "-o", "x"], "gone.toml"),
    ],
)
def test_what_cannot_be_a_study_is_refused(
    words: list[str], sentence: str, folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    assert sentence in refusal(capsys, *words)
    assert not (folders / "x").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("dataset = ", "is no TOML"),
        ("a = 1\na = 2", "is no TOML"),
        ("\xff", "is no TOML"),
        ("dataset = 9\nfraction = [5]\n[arms.a]", "fraction is no entry of a study: did you mean fractions?"),
        ("dataset = 9\n[arms.a]\nweigths = 'x'", "weigths is no entry of the arm a: did you mean weights?"),
    ],
)
def test_bad_files_are_refused(content: str, sentence: str, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folders / "study.toml").write_text(content, encoding="latin-1")
    assert sentence in refusal(capsys, str(folders / "study.toml"), "-o", str(folders / "x"))


def test_json_is_taken_too(file: str, tmp_path: Path) -> None:
    content = {"dataset": 9, "hold_out": 20, "arms": {"a": {}}, "output": str(tmp_path / "o")}
    (tmp_path / "study.json").write_text(json.dumps(content))
    assert run(str(tmp_path / "study.json"), "--list") == 0
    assert (tmp_path / "o" / "settings.json").is_file()


@pytest.mark.parametrize("text", ["a=", "a=weights", "a=weights:", "=weights:x", "a=:x", "a=weights:x,,"])
def test_arms_that_cannot_be_read(text: str) -> None:
    if text == "a=":
        assert arm_of(text) == ("a", {})
        return
    with pytest.raises(InputError, match="--arm"):
        arm_of(text)


def test_arms_that_can() -> None:
    mixture = 'pretraining.objectives=[{"name":"masked","weight":1.0}]'
    text = f"m=pretrain:P,pretrain_set:{mixture},rates:[0.1,0.2],pretrain_steps:50,set:x.y=z"
    objectives = [{"name": "masked", "weight": 1.0}]
    assert arm_of(text) == ("m", {"pretrain": "P", "pretrain_set": {"pretraining.objectives": objectives},
                                  "rates": [0.1, 0.2], "pretrain_steps": 50, "set": {"x.y": "z"}})  # fmt: skip
    for twice in ("a=weights:x,weights:y", "a=set:x=1,set:x=2"):
        with pytest.raises(InputError, match="twice"):
            arm_of(twice)
