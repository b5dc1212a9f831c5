"""Probes of subjects: known answers, chance, verdicts that fall either way, and one sentence for bad input."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_units import units_of
from bdfm_nnunet.files import write_json
from bdfm_nnunet.probes import probe_models
from bdfm_nnunet.probes.feature_baselines import COVARIANCE, INTENSITY, LABELS, UNTRAINED, VOLUME
from bdfm_nnunet.probes.feature_tables import FeatureTable, read_features, write_features_table
from bdfm_nnunet.probes.probe_verdict import HEADLINES, PRETRAINED, Predicted, differences, verdict
from bdfm_nnunet.probes.subject_probe import SubjectProbe, probe_subjects
from bdfm_nnunet.results import read_result
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, write_targets
from tests.conftest import Prepared
from tests.probes.test_subject_features import stock_training

N = 80
CASES = tuple(f"case_{number:02d}" for number in range(N))
PATIENTS = {case: f"P{number // 2}" for number, case in enumerate(CASES)}
HIDDEN = np.repeat(np.random.default_rng(5).normal(size=N // 2), 2)
TYPES = {
    "lesion": TargetColumn("lesion", TargetType.BINARY, ("no", "yes")),
    "kind": TargetColumn("kind", TargetType.MULTICLASS, ("a", "b", "c")),
    "grade": TargetColumn("grade", TargetType.ORDINAL, ("2", "3", "4")),
    "age": TargetColumn("age", TargetType.CONTINUOUS, unit="years"),
    "death": TargetColumn("death", TargetType.SURVIVAL, unit="days"),
    "nothing": TargetColumn("nothing", TargetType.CONTINUOUS),
}
DRAWN = np.repeat(np.random.default_rng(6).exponential(size=N // 2), 2)
VALUES = {
    "lesion": HIDDEN > 0,
    "kind": np.digitize(HIDDEN, [-0.4, 0.4]),
    "grade": np.digitize(HIDDEN, [-0.4, 0.4]),
    "age": 60 + 10 * HIDDEN,
    "death": np.stack([100 * np.exp(-2 * HIDDEN) * DRAWN, np.arange(N) % 8 < 6], axis=1),
    "nothing": np.full(N, np.nan),
}


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_models, "TREES", 20)
    monkeypatch.setattr(probe_models, "PENALTIES", (0.1, 10.0, 1000.0))


@pytest.fixture
def probe(nnunet_dirs: Path) -> SubjectProbe:
    folder = nnunet_dirs / "nnUNet_preprocessed" / "Dataset501_Made"
    folder.mkdir()
    numbers = {name: np.asarray(each, dtype=float).reshape(N, -1) for name, each in VALUES.items()}
    numbers["age"][:2] = np.nan
    write_targets(folder, Targets(TYPES, CASES, PATIENTS, {}, numbers))
    parts = [[case for number, case in enumerate(CASES) if number // 2 % 4 == fold] for fold in range(4)]
    folds = [{"train": sorted(set(CASES) - set(part)), "val": part} for part in parts]
    write_json(folder / SPLITS, folds)
    rng = np.random.default_rng(7)
    features = HIDDEN[:, None] * rng.normal(size=(1, 30)) + rng.normal(size=(N, 30))
    write_features_table(nnunet_dirs / "f.npz", FeatureTable(CASES, features.astype(np.float32)))
    return SubjectProbe(
        dataset_id=501, features=nnunet_dirs / "f.npz", target="lesion", models=["linear"], baselines=(), resamples=200
    )


def _scores(probe: SubjectProbe) -> dict[str, float]:
    result = probe_subjects(probe)
    measure = HEADLINES[TYPES[probe.target].type][0]
    return {row["model"]: row["measures"][measure]["value"] for row in result.extra["scores"]}


@pytest.mark.parametrize("target", ["lesion", "kind", "grade", "age", "death"])
def test_targets_of_every_type_are_found(probe: SubjectProbe, target: str) -> None:
    found = _scores(replace(probe, target=target, models=["linear", "knn", "forest"]))
    assert set(found) == ({"linear"} if target == "death" else {"linear", "knn", "forest"})
    least = {"lesion": 0.9, "kind": 0.8, "grade": 0.6, "age": 0.6, "death": 0.7}[target]
    assert min(found.values()) > least, found


@pytest.mark.parametrize("target", ["lesion", "age"])
def test_permuted_targets_give_chance(probe: SubjectProbe, target: str) -> None:
    results = [probe_subjects(replace(probe, target=target, permute=True, seed=seed)) for seed in range(5)]
    measure, _, chance = HEADLINES[TYPES[target].type]
    found = [result.extra["scores"][0]["measures"][measure]["value"] for result in results]
    assert abs(np.mean(found) - chance) < 0.12, found
    assert any("drawn at random" in note for note in results[0].extra["notes"])


def test_more_labels_help_and_smaller_fractions_are_drawn_often(probe: SubjectProbe) -> None:
    rows = probe_subjects(replace(probe, target="age", fractions=[0.1, 1.0], seeds=3)).extra["scores"]
    few, everyone = sorted(rows, key=lambda row: row["fraction"])
    assert (few["seeds"], everyone["seeds"]) == (3, 1)
    assert few["training_cases"] < 10 < 55 < everyone["training_cases"]
    assert few["measures"]["r2"]["value"] < everyone["measures"]["r2"]["value"]


def test_missing_values_and_cases_are_said(probe: SubjectProbe, tmp_path: Path) -> None:
    table = read_features(probe.features)
    some = FeatureTable((*table.cases[:60], "stranger"), table.features[:61])
    write_features_table(tmp_path / "some.csv", some)
    result = probe_subjects(replace(probe, target="age", features=tmp_path / "some.csv"))
    assert result.extra["probed"] == {"cases": 58, "patients": 29, "folds": 4}
    notes = " ".join(result.extra["notes"])
    assert "1 cases are left out: they have features but no row in the targets" in notes
    assert "2 cases are left out: they have no value of age" in notes
    assert "do not tell their weights" in result.extra["seen"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"target": "sex"}, r"--target sex is no target of .*: choose among lesion, kind"),
        ({"target": "nothing"}, r"0 of the 80 cases in .* have a value of nothing"),
        ({"features": Path("none.npz")}, r"none\.npz does not exist"),
        ({"models": ["tree"]}, "models names 'tree', expected some of linear, knn, forest, svm"),
        ({"baselines": ["luck"]}, "baselines names 'luck'"),
        ({"fractions": [0.0]}, "fractions are"),
        ({"seeds": 0}, "seeds is 0"),
        ({"dataset_id": 502}, "no data set Dataset502_"),
    ],
)
def test_bad_input_is_one_sentence(probe: SubjectProbe, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        probe_subjects(replace(probe, **changes))


def test_one_case_is_one_sentence(probe: SubjectProbe, tmp_path: Path) -> None:
    table = read_features(probe.features)
    write_features_table(tmp_path / "one.npz", FeatureTable(table.cases[:1], table.features[:1]))
    with pytest.raises(InputError, match=r"1 of the 1 cases in .*a probe needs at least 2"):
        probe_subjects(replace(probe, features=tmp_path / "one.npz"))


def _made(**features: float) -> list[Predicted]:
    """Predictions of known strength, from 0 (noise) to 1 (the truth)."""
    rng, truth = np.random.default_rng(3), (np.arange(120) % 2).astype(float)[:, None]
    noise = {name: rng.random(120) for name in (PRETRAINED, UNTRAINED, COVARIANCE, INTENSITY, VOLUME, LABELS)}
    found = []
    for name, strength in {PRETRAINED: features.pop("own"), **features}.items():
        name = name.replace("_", " ")
        p = {"lesion": strength * truth[:, 0] + (1 - strength) * noise[name]}
        units = units_of(TYPES["lesion"], truth, p, patients=[f"P{number}" for number in range(120)])
        found.append(Predicted(name, "linear", 1.0, 100.0, (units,)))
    return found


def _verdict(**features: float) -> str:
    found = _made(**features)
    said = verdict(found, differences(found, resamples=300, seed=0))
    assert said.startswith(("The pre-trained features (AUC ", "Whether the pre-trained features (AUC ")), said
    return re.sub(r" \([^)]*\)", "", said)  # numbers are looked at elsewhere


WEAK = {"untrained": 0.1, "untrained_covariance": 0.1, "intensity_statistics": 0.05, "image_volumes": 0.1}
SETUP = ", by the linear model on 100% of the training cases, 120 cases of 120 patients out of fold."
PLAIN, POOLED = "the untrained encoder", "the untrained encoder with covariance pooling"
BOTH, WITHOUT = f"{PLAIN} and {POOLED}", " They were not compared with"


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"own": 0.6} | WEAK, f"beat every baseline: {PLAIN}, {POOLED} and image volumes{SETUP}"),
        ({"own": 0.6, "label_volumes": 0.1} | WEAK, f"beat every baseline: {PLAIN}, {POOLED} and image volumes{SETUP}"),
        (WEAK | {"own": 0.4, "untrained_covariance": 0.4}, f"beat {PLAIN} and image volumes but not {POOLED}{SETUP}"),
        (WEAK | {"own": 0.4, "untrained": 0.4}, f"beat {POOLED} and image volumes but not {PLAIN}{SETUP}"),
        (WEAK | {"own": 0.4, "intensity_statistics": 0.4}, f"beat {BOTH} but not intensity statistics{SETUP}"),
        (WEAK | {"own": 0.4, "image_volumes": 0.9}, f"beat {BOTH} but are worse than image volumes{SETUP}"),
        (
            WEAK | {"own": 0.4, "untrained": 0.4, "image_volumes": 0.9},
            f"beat {POOLED} but not {PLAIN} and are worse than image volumes{SETUP}",
        ),
        (dict.fromkeys(["own", *WEAK], 0.2), f"do not beat {PLAIN}, {POOLED} or "),
        (dict.fromkeys(WEAK, 0.7) | {"own": 0.1}, f"are worse than {PLAIN}, {POOLED} and "),
        (
            dict.fromkeys(WEAK, 0.1) | {"own": 0.1, "image_volumes": 0.8},
            f"do not beat {PLAIN} or {POOLED} and are worse than image volumes{SETUP}",
        ),
        ({"own": 0.6, "untrained": 0.1}, f"beat {PLAIN}{SETUP}{WITHOUT} {POOLED} and a simple baseline."),
        ({"own": 0.6, "image_volumes": 0.1}, f"beat image volumes{SETUP}{WITHOUT} {BOTH}."),
        ({"own": 0.6, "label_volumes": 0.9}, "beat any baseline is not known: none was made."),
    ],
)  # fmt: skip
def test_verdicts_ask_both_untrained_encoders_and_the_better_simple_baseline(
    features: dict[str, float], said: str
) -> None:
    assert f"he pre-trained features {said}" in _verdict(**features)


def test_verdicts_tell_intervals_chance_and_labels() -> None:
    found = _made(own=0.0, **WEAK, label_volumes=0.9)
    compared = differences(found, resamples=300, seed=0)
    said = verdict(found, compared)
    for row in compared[:2]:
        assert "difference {:+.3f}, 95 % interval {:+.3f} to {:+.3f}".format(row["value"], *row["interval"]) in said
    assert "Their interval holds what chance gives (0.5)." in said
    assert re.search(r"The label volumes, which use labels, do at least as well: 0\.9\d\d\.|1\.000\.", said)
    assert said.count("intensity statistics") + said.count("image volumes") == 1


def test_the_command_compares_with_an_untrained_encoder(
    prepared: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On preprocessed cases, with the features of a stock training."""
    folder = prepared.folder("nnUNet_preprocessed", prepared.labelled)
    cases = sorted(path.name.removesuffix("_seg.b2nd") for path in folder.glob("*_3d_fullres/*_seg.b2nd"))
    patients = {case: case[: case.rindex("-")] for case in cases}
    values = {patient: float(number) for number, patient in enumerate(sorted(set(patients.values())))}
    numbers = {"age": np.array([[values[patients[case]]] for case in cases])}
    column = TargetColumn("age", TargetType.CONTINUOUS)
    write_targets(folder, Targets({"age": column}, tuple(cases), patients, {}, numbers))
    training = stock_training(prepared, tmp_path)
    number = str(prepared.labelled)
    assert main(["features", "-d", number, "--weights", str(training), "-o", str(tmp_path / "f.csv")]) == 0
    command = ["probe", "-d", number, "--features", str(tmp_path / "f.csv"), "--target", "age", "--models", "linear"]
    capsys.readouterr()
    assert main([*command, "-o", str(tmp_path / "probe.json")]) == 0
    said, result = capsys.readouterr().out, read_result(tmp_path / "probe.json", kind="probe")
    assert result.extra["verdict"] in said and POOLED in result.extra["verdict"]
    names = [row["features"] for row in result.extra["scores"]]
    assert names[:3] == [PRETRAINED, UNTRAINED, COVARIANCE] and names[-1] == LABELS and f"{LABELS}*" in said
    assert [row["against"] for row in result.extra["differences"]] == names[1:]
    assert "says nothing about the cases it was trained on" in result.extra["seen"]
    kept = tmp_path / "f_baselines"
    untrained, covariance = read_features(kept / "untrained.npz"), read_features(kept / "untrained_covariance.npz")
    assert untrained.features.shape == (6, 8) and covariance.features.shape == (6, 36)
    assert not np.allclose(untrained.features, read_features(tmp_path / "f.csv").of(untrained.cases), rtol=0.01)
    stamp = (kept / "untrained.npz").stat().st_size, json.loads((tmp_path / "probe.json").read_text())["scores"]
    assert main([*command, "-o", str(tmp_path / "again.json"), "--baselines", "untrained,volume"]) == 0
    again = json.loads((tmp_path / "again.json").read_text())["scores"]
    assert [row["features"] for row in again] == [PRETRAINED, UNTRAINED, VOLUME]
    assert stamp == ((kept / "untrained.npz").stat().st_size, [*again[:2], *stamp[1][2:]])
    for missing in ("-d", "--features", "--target"):
        at = command.index(missing)
        capsys.readouterr()
        assert main([*command[:at], *command[at + 2 :]]) == 2
        assert f"without {missing}" in capsys.readouterr().err
