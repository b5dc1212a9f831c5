"""The folder of a study: made once, grown by arms and seeds, and never mixed with another study."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.split_files import read_splits
from bdfm_nnunet.studies.study_folder import StudyFolder, prepare
from tests.studies.study_cohort import ARMS, NAME, make_dataset, settings


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_dataset(tmp_path, monkeypatch)


def test_folds_hold_the_fractions_of_each_seed(dataset: Path, tmp_path: Path) -> None:
    study = prepare(settings(), tmp_path / "out")
    folds = read_splits(study.preprocessed / NAME / "splits_final.json")
    assert len(folds) == 1 + 2 * 2 and folds[0]["train"] == study.parts.train
    assert all(fold["val"] == study.parts.validation for fold in folds)
    for seed in range(2):
        for number, fraction in enumerate(study.settings.fractions):
            assert folds[study.fold(fraction, seed)]["train"] == study.parts.subsets[seed][number]
    assert not {case for fold in folds for part in fold.values() for case in part} & set(study.parts.test)
    assert json.loads((dataset / "splits_final.json").read_text())[0]["train"] == ["case_00"], "the user's stay"


def test_turns_have_folds_of_their_own(dataset: Path, tmp_path: Path) -> None:
    changes = {"rotate": True, "hold_out": 25, "validation": 0, "rates": [1e-3], "seeds": 4}
    before = prepare(settings(**{**changes, "seeds": 2}), tmp_path / "out")
    study = prepare(settings(**changes), tmp_path / "out")
    assert study.parts.turns[:2] == before.parts.turns
    folds = read_splits(study.preprocessed / NAME / "splits_final.json")
    assert len(folds) == 4 * (1 + 2)
    for seed, turn in enumerate(study.parts.turns):
        assert len(turn.test) == 5 and not turn.validation
        assert folds[study.pretraining_fold(seed)]["train"] == turn.train
        for number, fraction in enumerate(study.settings.fractions):
            fold = folds[study.fold(fraction, seed)]
            assert fold["train"] == fold["val"] == study.parts.subsets[seed][number]
            assert not set(fold["train"]) & set(turn.test)
    assert StudyFolder.open(tmp_path / "out") == study


def test_data_is_linked_and_plans_are_kept(dataset: Path, tmp_path: Path) -> None:
    study = prepare(settings(), tmp_path / "out")
    assert (study.preprocessed / NAME / "data").resolve() == dataset / "data"
    (dataset / "BDFMPlans.json").write_text("{}")
    assert prepare(settings(), tmp_path / "out").plans(NAME, "BDFMPlans")["dataset_name"] == NAME
    assert StudyFolder.open(tmp_path / "out") == study


def test_arms_and_seeds_may_be_added(dataset: Path, tmp_path: Path) -> None:
    before = prepare(settings(), tmp_path / "out")
    arms = {**ARMS, "simmim": {"pretrain": "nnUNetTrainerSimMIM"}}
    after = prepare(settings(arms=arms, seeds=3), tmp_path / "out")
    assert after.parts.subsets[:2] == before.parts.subsets and len(after.parts.subsets) == 3
    assert [arm.name for arm in after.settings.arms] == ["scratch", "bdfm", "simmim"]
    folds = read_splits(after.preprocessed / NAME / "splits_final.json")
    assert folds[after.fold(100, 2)]["train"] == after.parts.subsets[2][1]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"steps": 20}, "a study with steps = 10, this one has 20"),
        ({"fractions": [20]}, "a study with fractions = "),
        ({"seeds": 1}, "2 seeds instead of 1"),
        ({"arms": {"bdfm": ARMS["bdfm"]}, "baseline": "bdfm"}, "a study with baseline = scratch"),
        ({"arms": {"scratch": {}}}, "another arm bdfm"),
        ({"arms": {**ARMS, "scratch": {"set": {"training.workers": 0}}}}, "another arm scratch"),
    ],
)
def test_another_study_needs_another_folder(
    dataset: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    prepare(settings(), tmp_path / "out")
    before = (tmp_path / "out" / "settings.json").read_bytes()
    with pytest.raises(InputError, match="name a new folder") as refusal:
        prepare(settings(**changes), tmp_path / "out")
    assert sentence in str(refusal.value)
    assert (tmp_path / "out" / "settings.json").read_bytes() == before


def test_cases_that_changed_are_noticed(dataset: Path, tmp_path: Path) -> None:
    prepare(settings(), tmp_path / "out")
    manifest = json.loads((dataset / "manifest.json").read_text())
    manifest["cases"].append({"case": "case_99", "patient": "p99", "part": "train"})
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    prepare(settings(), tmp_path / "out")  # nothing is drawn anew
    with pytest.raises(InputError, match="cases of the data set have changed"):
        prepare(settings(seeds=3), tmp_path / "out")


def test_what_is_no_study_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds thesis\.tex, and is no folder of a study"):
        prepare(settings(), tmp_path / "out")
    with pytest.raises(InputError, match="holds no study"):
        StudyFolder.open(tmp_path / "out")


def test_weights_and_plans_must_be_there(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run `bdfm plan -d 9 -p Other`"):
        prepare(settings(plans="Other"), tmp_path / "first")
    with pytest.raises(InputError, match=r"weights gone.pth of an arm do not exist"):
        prepare(settings(arms={"a": {"weights": "gone.pth"}}), tmp_path / "second")
    (tmp_path / "w.pth").write_bytes(b"weights")
    study = prepare(settings(arms={"a": {"weights": str(tmp_path / "w.pth")}}), tmp_path / "second")
    assert len(study.weights[str(tmp_path / "w.pth")]["sha256"]) == 64
    with pytest.raises(InputError, match="last:9 names nothing"):
        prepare(settings(arms={"a": {"weights": "last:9"}}), tmp_path / "third")
    fold = tmp_path / "nnUNet_results" / NAME / "T__BDFMPlans__3d_fullres" / "fold_all"
    fold.mkdir(parents=True)
    for name in ("pretraining_summary.json", "checkpoint_final.pth"):
        (fold / name).write_text("{}")
    last = prepare(settings(arms={"a": {"weights": "last:9"}}), tmp_path / "third")
    assert last.weights["last:9"]["path"] == str(fold / "checkpoint_final.pth")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    hub = {"a": {"weights": str(tmp_path / "hub")}}
    before = prepare(settings(arms=hub), tmp_path / "fifth").weights[str(tmp_path / "hub")]["sha256"]
    (tmp_path / "hub" / "config.json").write_text("{ }")
    assert prepare(settings(arms=hub), tmp_path / "fourth").weights[str(tmp_path / "hub")]["sha256"] != before


@pytest.mark.parametrize(
    ("arm", "sentence"),
    [
        ({"set": {"training.weight_decy": 0.1}}, "arm a: training.weight_decy is not a setting: did you mean"),
        ({"strategy": "frosen"}, "arm a: finetuning.strategy is 'frosen'"),
        ({"configuration": "3d_lowres"}, "arm a: "),
        (
            {"pretrain": "nnUNetTrainerSimMIM", "pretrain_set": {"pretraining.mask_ratio": "x"}},
            "arm a: pretraining.mask",
        ),
        ({"set": {"patch_size": [33, 32, 32]}}, "arm a: patch_size [33, 32, 32] does not fit"),
    ],
)
def test_settings_that_plans_do_not_take_are_refused_first(
    dataset: Path, tmp_path: Path, arm: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError) as refusal:
        prepare(settings(arms={"scratch": {}, "a": arm}), tmp_path / "out")
    assert sentence in str(refusal.value) and not (tmp_path / "out" / "settings.json").exists()
    plans = json.loads((dataset / "BDFMPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = 7
    (dataset / "BDFMPlans.json").write_text(json.dumps(plans))
    found = prepare(settings(), tmp_path / "out").plans(NAME, "BDFMPlans")["configurations"]["3d_fullres"]
    assert found["batch_size"] == 7, "the plans of today, not those of the study that was refused"
    assert (dataset / "data").is_dir()
