"""`bdfm evaluate-subjects` on a made-up data set: what it prints, writes and refuses."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.evaluation.subject_scores import score_target
from bdfm_nnunet.evaluation.subject_tables import Predictions, read_predictions, write_predictions
from bdfm_nnunet.exposure import Exposure, describe_run
from bdfm_nnunet.exposure.subject_exposure import write_record
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.results import read_result
from bdfm_nnunet.results.verification import verify_result
from bdfm_nnunet.split_files import SPLITS_TABLE
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, read_targets, write_targets

N = 48
CASES = [f"w{number:03}" for number in range(N)]
PATIENTS = {case: f"P{number // 2:02}" for number, case in enumerate(CASES)}
LESION = TargetColumn("has_lesion", TargetType.BINARY, ("no", "yes"))
VOLUME = TargetColumn("volume", TargetType.CONTINUOUS, unit="mm3")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set with two targets and the sex of each patient, and tables of two models."""
    root = tmp_path_factory.mktemp("ward")
    folder = root / "nnUNet_raw" / "Dataset501_Ward"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lesion = np.repeat(np.arange(N // 2) % 2, 2).astype(float)
    volume = np.repeat(rng.normal(900, 200, N // 2), 2)
    volume[:2] = np.nan
    groups = {"sex": {case: "FM"[number // 4 % 2] for number, case in enumerate(CASES)},
              "scanner": {case: f"s{number}" for number, case in enumerate(CASES)}}  # fmt: skip
    numbers = {"has_lesion": lesion[:, None], "volume": volume[:, None]}
    columns = {"has_lesion": LESION, "volume": VOLUME}
    write_targets(folder, Targets(columns, tuple(CASES), PATIENTS, groups, numbers))
    rows = [{"case": case, "patient": PATIENTS[case], "part": "train"} for case in CASES]
    (folder / "manifest.json").write_text(json.dumps({"release": "ward", "cases": rows}))
    for name, spread in (("good", 1.0), ("poor", 3.0)):
        p = 1 / (1 + np.exp(-(3 * (lesion - 0.5) + spread * rng.normal(size=N))))
        v = np.where(np.isnan(volume), 900, volume) + 50 * spread * rng.normal(size=N)
        for fold in range(2):
            rows_of = slice(fold * N // 2, (fold + 1) * N // 2)
            cases = tuple(CASES[rows_of])
            (root / name / f"fold_{fold}").mkdir(parents=True)
            found = Predictions(cases, cases, {"has_lesion": p[rows_of], "volume": v[rows_of]})
            write_predictions(root / name / f"fold_{fold}" / "subjects.csv", found)
    return root


@pytest.fixture(autouse=True)
def environment(ward: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("nnUNet_raw", str(ward / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(ward / "nnUNet_preprocessed"))
    if "everything" not in request.node.name:  # drawing takes most of the time
        monkeypatch.setattr("bdfm_nnunet.reports.subject_figures.figures_of", lambda *_, **__: {})


def tables(ward: Path, name: str = "good") -> list[str]:
    return [str(ward / name / f"fold_{fold}" / "subjects.csv") for fold in range(2)]


def run(*arguments: Any) -> int:
    return cli.main(["evaluate-subjects", "-d", "501", "--resamples", "60", *map(str, arguments)])


def test_folds_are_scored_together_and_everything_is_written(ward, tmp_path, capsys):
    out = tmp_path / "scores"
    assert run("-i", *tables(ward), "--compare", *tables(ward, "poor"), "-o", out) == 0
    shown = capsys.readouterr().out
    assert "## has_lesion (binary; 24 scored; threshold 0.5)" in shown and "## volume (continuous; 23 scored)" in shown
    assert "By sex:" in shown and "By scanner" not in shown and "unknown for all 48" in shown
    assert {path.name for path in out.iterdir()} == {
        "result.json", "result.md", "scores.csv", "scores.md", "subjects.csv", "has_lesion_roc.png",
        "has_lesion_precision_recall.png", "has_lesion_calibration.png", "volume_predicted.png",
    }  # fmt: skip
    joined = read_predictions(out / "subjects.csv")
    assert joined.cases == tuple(CASES) and set(joined.patients) == set(PATIENTS.values())
    result = read_result(out / "result.json", kind="subject_evaluation")
    found = result.extra["targets"]["has_lesion"]
    assert found["scores"]["auc"]["n"] == 24 and found["seen"]["record"] == "none"
    assert found["comparison"]["auc"]["value"] < 0 and found["comparison"]["auc"]["note"] == "DeLong"
    assert sum(each["n"] for each in found["calibration"]["yes"]) == 24
    assert result.settings["tables"] == tables(ward) and result.versions["numpy"] == np.__version__
    assert {each.role for each in result.provenance.inputs} == {"predictions", "targets"}
    assert verify_result(out / "result.json").answer == "unchanged" and result.provenance.seeds == {"intervals": 0}
    rows = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert all("unknown for all" in row["seen_in_pretraining"] for row in rows) and len(rows) > 40
    assert "cases left out (no true value)" in (out / "scores.md").read_text()


def test_scores_are_those_of_the_library_on_the_means_of_patients(ward, tmp_path):
    joined = read_predictions(*tables(ward))
    for how, n in (("mean", 24), ("none", 48)):
        assert run("-i", *tables(ward), "--target", "has_lesion", "--aggregate", how, "-o", tmp_path / how) == 0
        found = read_result(tmp_path / how / "result.json").extra["targets"]
        p = joined.columns["has_lesion"]
        p = p.reshape(-1, 2).mean(axis=1) if how == "mean" else p
        truth = np.repeat(np.arange(24) % 2, 1 if how == "mean" else 2)[:, None].astype(float)
        patients = sorted(PATIENTS.values())[:: 2 if how == "mean" else 1]
        expected = score_target(LESION, truth, {"has_lesion": p}, patients=patients, resamples=60)
        assert list(found) == ["has_lesion"] and found["has_lesion"]["scores"] == expected
        assert found["has_lesion"]["scores"]["auc"]["patients"] == 24 and expected["auc"]["n"] == n


def test_runs_of_a_subject_are_weighed_by_their_clips(ward, tmp_path):
    joined, clips = read_predictions(*tables(ward)), np.tile([3, 1], N // 2)
    write_predictions(
        tmp_path / "runs.csv", Predictions(joined.cases, joined.patients, {"clips": clips, **joined.columns})
    )
    assert run("-i", tmp_path / "runs.csv", "--target", "volume", "-o", tmp_path) == 0
    found = read_result(tmp_path / "result.json").extra["targets"]["volume"]["scores"]["mae"]["value"]
    folder = ward / "nnUNet_raw" / "Dataset501_Ward"
    truth = read_targets(folder).values("volume", joined.cases)[:, 0].reshape(-1, 2)[:, 0]
    means = np.average(joined.columns["volume"].reshape(-1, 2), axis=1, weights=[3, 1])
    assert found == pytest.approx(np.nanmean(abs(means - truth)))


def test_the_pre_training_is_named_beside_every_score(ward, tmp_path, capsys):
    cohort = CaseList("Dataset900_Cohort", "ward", [{"case": "other_scan", "patient": "P01"}])
    exposure = Exposure((describe_run(cohort, train=["other_scan"], val=[], trainer="nnUNetTrainerSimCLR"),))
    weights = tmp_path / "weights.pth"
    torch.save({"network_weights": {"encoder.weight": torch.ones(2)}, EXPOSURE: exposure.as_dict()}, weights)
    assert run("-i", *tables(ward), "--weights", weights, "-o", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert shown.count("2 of 48 seen (2 by patient)") > 8 and "By seen in pre-training:" in shown
    groups = read_result(tmp_path / "a" / "result.json").extra["targets"]["has_lesion"]["groups"]
    assert {name: each["n"] for name, each in groups["seen in pre-training"]["groups"].items()} == {
        "not found": 23, "seen": 1
    }  # fmt: skip
    for number, table in enumerate(tables(ward)):
        copy = tmp_path / f"fold_{number}.csv"
        copy.write_text(Path(table).read_text())
        write_record(copy, [exposure])
    assert run("-i", tmp_path / "fold_0.csv", tmp_path / "fold_1.csv", "-o", tmp_path / "b") == 0
    assert "2 of 48 seen (2 by patient)" in capsys.readouterr().out


def test_groups_of_choice(ward, tmp_path):
    assert (
        run("-i", *tables(ward), "--target", "volume", "--group", "has_lesion", "--group", "volume", "-o", tmp_path)
        == 0
    )
    groups = read_result(tmp_path / "result.json").extra["targets"]["volume"]["groups"]
    assert list(groups) == ["sex", "has_lesion", "volume"]
    assert set(groups["has_lesion"]["groups"]) == {"no", "yes"} and len(groups["volume"]["groups"]) == 3


def test_a_threshold_is_taken_from_other_patients_alone(ward, tmp_path, capsys):
    first, second = tables(ward)
    assert run("-i", first, "--threshold", second, "--target", "has_lesion", "-o", tmp_path) == 0
    found = read_result(tmp_path / "result.json").extra["targets"]["has_lesion"]
    assert found["threshold"] != 0.5 and "chosen on" in found["title"]
    assert f"threshold of {found['threshold']:g}" in found["scores"]["f1"]["note"]
    assert run("-i", first, "--threshold", first, "-o", tmp_path) == 2
    assert "has patients that are scored (P00, P01, P02)" in capsys.readouterr().err
    assert run("-i", first, "--threshold", "0.3", "--target", "has_lesion", "-o", tmp_path) == 0
    assert read_result(tmp_path / "result.json").extra["targets"]["has_lesion"]["threshold"] == 0.3


def changed(ward: Path, tmp_path: Path, old: str, new: str) -> Path:
    text = Path(tables(ward)[0]).read_text()
    assert old in text
    (tmp_path / "changed.csv").write_text(text.replace(old, new, 1))
    return tmp_path / "changed.csv"


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("w003", "elsewhere", "predicts case elsewhere, which Dataset501_Ward does not have"),
        ("w003", "P01", "has a row per patient (P01), expected one per case"),
        ("w003", "w002", "case w002 is in"),
        ("has_lesion,volume", "lesion,size", "predicts none of the targets of Dataset501_Ward (has_lesion, volume)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(ward, tmp_path, capsys, old, new, why):
    assert run("-i", changed(ward, tmp_path, old, new), "-o", tmp_path / "out") == 2
    assert why in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["--target", "age"], "there is no target age"),
        (["--target", "volume", "--target", "volume"], "--target volume was given twice"),
        (
            ["--group", "hospital"],
            "--group hospital is no column of the targets, only has_lesion, scanner, sex, volume",
        ),
        (["--group", "scanner"], "--group scanner has 48 values, expected at most 40"),
        (["--weights", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--threshold", "nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_options_that_cannot_be_met_are_one_sentence(ward, tmp_path, capsys, more, why):
    assert run("-i", *tables(ward), *more, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert why in error and error.count("\n") == 1


def test_a_table_with_nothing_to_score_is_refused(ward, tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("case,has_lesion,volume\nw000,,nan\nw001,NA,3\n")
    assert run("-i", tmp_path / "empty.csv", "-o", tmp_path / "out") == 2  # the volume of w001 is not known
    assert "no case with both a prediction and a true value of has_lesion or volume" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_case_of_two_folds_is_refused(ward, tmp_path, capsys):
    first, second = tables(ward)
    assert run("-i", first, second, first, "-o", tmp_path / "out") == 2
    assert "case w000 is in" in capsys.readouterr().err
    assert run("-i", first, "--compare", second, "-o", tmp_path / "out") == 2
    assert "share no case" in capsys.readouterr().err


def test_a_model_compared_with_itself_does_not_differ(ward, tmp_path):
    assert run("-i", *tables(ward), "--compare", *tables(ward), "--target", "volume", "-o", tmp_path) == 0
    change = read_result(tmp_path / "result.json").extra["targets"]["volume"]["comparison"]
    assert change["mae"]["value"] == 0 and change["mae"]["interval"] == [0, 0] and change["mae"]["p"] == 1


def test_a_model_that_means_another_class_is_refused(ward, tmp_path, capsys):
    for number, table in enumerate(tables(ward)):
        (tmp_path / f"{number}.csv").write_text(Path(table).read_text())
    as_it_is, turned = asdict(LESION), {**asdict(LESION), "classes": ["yes", "no"]}
    write_record(tmp_path / "0.csv", [Exposure()], targets=[as_it_is])
    write_record(tmp_path / "1.csv", [Exposure()], targets=[turned])
    first, second = tmp_path / "0.csv", tmp_path / "1.csv"
    assert run("-i", first, "--target", "has_lesion", "-o", tmp_path / "good") == 0
    capsys.readouterr()
    for words in (["-i", second], ["-i", first, "--compare", second], ["-i", first, "--threshold", second]):
        assert run(*words, "--target", "has_lesion", "-o", tmp_path / "out") == 2
        error = capsys.readouterr().err
        assert (
            "1.csv is of a model that learned has_lesion as binary (yes, no), but" in error and error.count("\n") == 1
        )
    assert not (tmp_path / "out").exists()


@pytest.fixture
def outside(ward: Path) -> Iterator[list[str]]:
    """The last twelve patients are of a site that was kept out of the folds."""
    table, cases = ward / "nnUNet_raw" / "Dataset501_Ward" / SPLITS_TABLE, CASES[24:]
    table.write_text(json.dumps({"folds": [], "external": {"site=Ulm": cases}}))
    yield cases
    table.unlink()


def test_kept_out_sites_are_told_apart_from_the_others(ward, tmp_path, capsys, outside):
    inside, other = tables(ward)
    both = read_predictions(other)
    ensemble = Predictions(both.cases, both.patients, {**both.columns, "volume spread": np.ones(24)})
    write_predictions(tmp_path / "external.csv", ensemble)
    assert run("-i", inside, tmp_path / "external.csv", "-o", tmp_path / "a") == 0
    shown = capsys.readouterr().out
    assert "24 scored; 12 of them outside the distribution (site=Ulm); threshold 0.5" in shown
    assert "difference from inside" in shown
    found = read_result(tmp_path / "a" / "result.json").extra["targets"]
    groups, alone = found["volume"]["groups"]["kept-out sites"], tmp_path / "b"
    assert {name: each["n"] for name, each in groups["groups"].items()} == {"inside": 11, "outside": 12}
    assert groups["reference"] == "inside" and list(groups["differences"]) == ["outside"]
    assert "models of several folds together" in groups["groups"]["outside"]["note"]
    lesion = found["has_lesion"]["groups"]["kept-out sites"]["groups"]["outside"]
    assert "several folds" not in lesion["note"]
    assert run("-i", other, "--target", "has_lesion", "-o", alone) == 0
    assert "12 scored; all of them outside the distribution (site=Ulm)" in capsys.readouterr().out
    only = read_result(alone / "result.json").extra["targets"]["has_lesion"]
    assert "kept-out sites" not in only["groups"]
    assert only["scores"]["auc"]["value"] == lesion["measures"]["auc"]["value"]


def test_a_test_list_of_the_same_population_is_not_called_outside(ward, tmp_path, capsys):
    table = ward / "nnUNet_raw" / "Dataset501_Ward" / SPLITS_TABLE
    inside, other = tables(ward)
    both = read_predictions(other)
    ensemble = Predictions(both.cases, both.patients, {**both.columns, "volume spread": np.ones(24)})
    write_predictions(tmp_path / "test.csv", ensemble)
    table.write_text(json.dumps({"folds": [], "external": {"test=drawn": CASES[24:36], "site=Ulm": CASES[36:]}}))
    try:
        assert run("-i", inside, tmp_path / "test.csv", "-o", tmp_path / "a") == 0
        shown = capsys.readouterr().out
        table.write_text(json.dumps({"folds": [], "external": {"test=drawn": CASES[24:]}}))
        assert run("-i", other, "--target", "volume", "-o", tmp_path / "b") == 0
        alone = capsys.readouterr().out
    finally:
        table.unlink()
    assert "24 scored; 6 of them outside the distribution (site=Ulm); 6 of them of the test list, drawn" in shown
    assert "all of them of the test list, drawn from the same population" in alone and "outside" not in alone
    groups = read_result(tmp_path / "a" / "result.json").extra["targets"]["volume"]["groups"]
    counts = {by: {name: each["n"] for name, each in groups[by]["groups"].items()} for by in groups}
    assert counts["kept-out sites"] == {"inside": 17, "outside": 6}
    assert counts["test list"] == {"folds": 11, "drawn": 6} and groups["test list"]["unknown"] == 6
    assert list(groups["test list"]["differences"]) == ["drawn"]
    assert "those of the folds by one each" in groups["test list"]["groups"]["drawn"]["note"]
    assert "folds together" not in groups["kept-out sites"]["groups"]["outside"]["note"]  # nor were all those inside
    assert "test list" not in read_result(tmp_path / "b" / "result.json").extra["targets"]["volume"]["groups"]


@pytest.mark.parametrize("text", ["0", "1", "1.5", "-0.1"])
def test_a_threshold_is_a_probability(ward, text, capsys):
    assert run("-i", *tables(ward), f"--threshold={text}", "-o", "out") == 2
    assert "a probability between 0 and 1" in capsys.readouterr().err
