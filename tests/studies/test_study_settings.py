"""Settings of a study: what is refused, and that all arms are treated alike."""

from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.commands.study import read_study_file
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.studies.study_settings import Arm, StudySettings, lengths

ROOT = Path(__file__).parents[2]
STUDIES = sorted((ROOT / "docs" / "studies").glob("*.toml"))


def study(**changes: Any) -> StudySettings:
    return StudySettings.from_dict({"dataset": 9, "hold_out": 20, "arms": {"scratch": {}, "bdfm": BDFM}} | changes)


BDFM = {"pretrain": "nnUNetTrainerBDFMPretrain", "pretrain_set": {"pretraining.mask_ratio": 0.6}}


def test_what_a_file_says_comes_back() -> None:
    found = study(search={"finetuning.encoder_lr_factor": [0.1, 1.0]}, fractions=[5, 100], rates=[1e-3], test=None)
    assert StudySettings.from_dict(found.as_dict()) == found
    assert found.arms[1].pretrain_set == {"pretraining.mask_ratio": 0.6}
    assert found.as_dict()["arms"] == {"scratch": {}, "bdfm": BDFM}


def test_every_arm_has_as_many_trials() -> None:
    arms = {"scratch": {"rates": [1e-2, 3e-2]}, "bdfm": BDFM}
    found = study(arms=arms, rates=[1e-3, 3e-3], search={"training.weight_decay": [0, 0.1]})
    first, second = (found.trials(arm) for arm in found.arms)
    assert len(first) == len(second) == 4
    assert first[1] == {"training.initial_lr": 1e-2, "training.weight_decay": 0.1}
    assert {trial["training.initial_lr"] for trial in second} == {1e-3, 3e-3}


def test_arms_take_over_what_they_leave_open() -> None:
    found = study(arms={"a": {"strategy": "frozen", "set": {"x.y": 2}, "plans": "Own"}}, set={"x.y": 1, "x.z": 3})
    arm = found.complete(found.arms[0])
    assert arm.set == {"x.y": 2, "x.z": 3, "finetuning.strategy": "frozen"}
    assert (arm.plans, arm.configuration, arm.trainer) == ("Own", "3d_fullres", "nnUNetTrainerBDFM")
    assert arm.rates == found.rates and arm.pretrain_set == {}


def test_baseline_is_the_first_from_scratch() -> None:
    assert study(arms={"bdfm": BDFM, "public": {"weights": "x.pth"}, "plain": {}}).baseline == "plain"
    assert study(arms={"bdfm": BDFM}).baseline == "bdfm"
    assert study(baseline="bdfm").baseline == "bdfm"
    own = study(arms={"scratch": {}, "resenc": {}, "bdfm": {**BDFM, "baseline": "resenc"}})
    assert [own.complete(arm).baseline for arm in own.arms] == ["scratch", "scratch", "resenc"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"step": 100}, "step is no entry of a study: did you mean steps?"),
        ({"arms": {"a": {"weight": "x"}}}, "weight is no entry of the arm a: did you mean weights?"),
        ({"arms": {}}, "the arms are none"),
        ({"arms": {"a": {}, "A": {}}}, "each its own name"),
        ({"arms": {"../a": {}}}, "is no usable name"),
        ({"arms": {"a": {"weights": "x", "pretrain": "nnUNetTrainerSimMIM"}}}, "leave out one"),
        ({"arms": {"a": {"pretrain": "nnUNetTrainerSimMin"}}}, "did you mean nnUNetTrainerSimMIM"),
        ({"arms": {"a": {"pretrain_set": {"x": 1}}}}, "no pretrain"),
        ({"arms": {"a": {"pretrain_steps": 10}}}, "a has pretrain_steps but no pretrain"),
        ({"arms": {"a": {"pretrain_on": 10}}}, "a has pretrain_on but no pretrain"),
        ({"rotate": True, "hold_out": 60}, "give hold_out, up to 50 percent"),
        ({"rotate": True, "hold_out": 0, "test": 10}, "give hold_out, up to 50 percent"),
        ({"pretrain_seeds": "all"}, "pretrain_seeds is all, expected each or first"),
        ({"pretrain_seeds": "first", "rotate": True, "arms": {"a": BDFM}}, "on cases that later seeds hold out"),
        ({"validation": 0}, "validation is 0, but arm scratch has 3 settings to choose among"),
        ({"validation": 100}, "validation is 100, expected a percentage from 0"),
        ({"arms": {"a": {**BDFM, "pretrain_steps": 211}}}, "arm a: pretrain_steps is 211, expected a whole number"),
        ({"arms": {"a": {"rates": [1e-3]}}}, "a has 1 rates, the study 3: no arm may try more"),
        ({"arms": {"a": {"set": {"training.epochs": 3}}}}, "arm a sets training.epochs: give it as steps"),
        ({"set": {"training.initial_lr": 1}}, "give it as rates"),
        ({"search": {"training.seed": [1]}}, "give it as seeds"),
        ({"pretrain_set": {"training.epochs": 3}}, "give it as pretrain_steps"),
        ({"pretrain_set": {"training.initial_lr": 3}, "hold_out": 0}, "either test = ID or hold_out"),
        ({"test": 10}, "either test = ID or hold_out"),
        ({"fractions": [0.0, 5]}, "fractions is 0, 5, expected percentages"),
        ({"fractions": [5, 5]}, "name each once"),
        ({"fractions": "5"}, "fractions is '5', expected a list"),
        ({"rates": []}, "rates is empty, expected learning rates"),
        ({"steps": 211}, "steps is 211, expected a whole number up to 50 or a multiple of 10"),
        ({"seeds": 0}, "seeds is 0"),
        ({"baseline": "scrach"}, "did you mean scratch?"),
        ({"arms": {"a": {}, "b": {"baseline": "c"}}}, "baseline is 'c'"),
        ({"search_seeds": "some"}, "search_seeds is some"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refusal:
        study(**changes)
    assert sentence in str(refusal.value)


def test_lengths_give_exactly_the_steps() -> None:
    for steps in [*range(1, 51), *range(60, 3000, 10)]:
        epochs, iterations = lengths(steps)
        assert epochs * iterations == steps and 1 <= iterations <= 50 and epochs >= min(steps, 20)
    assert lengths(1000) == (20, 50) and lengths(1000, longest=250, epochs=1) == (4, 250)


def test_an_arm_from_weights_is_pretrained() -> None:
    assert Arm(name="a", weights="last:900").is_pretrained and not Arm(name="b", strategy="frozen").is_pretrained


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_documentation_can_be_read(path: Path) -> None:
    content = read_study_file(path)
    assert str(path.relative_to(ROOT)) in path.read_text() and "output" not in content
    found = StudySettings.from_dict(content)
    assert len(found.arms) > 1 and found.seeds > 1
