"""Probes of runs: functional connectivity as the features that are probed, and as the baseline of others."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.files import write_json
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.probes.feature_tables import FeatureTable, read_features, write_features_table
from bdfm_nnunet.probes.functional_connectivity import CONNECTIVITY
from bdfm_nnunet.probes.run_baselines import has_runs
from bdfm_nnunet.probes.subject_probe import SubjectProbe, probe_subjects
from bdfm_nnunet.results import read_result
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, write_targets
from tests.conftest import Prepared
from tests.probes.stored_runs import data_set

CASES = tuple(f"s{number:02d}_run1" for number in range(24))
NUMBER = TargetColumn("number", TargetType.CONTINUOUS)
SICK = np.arange(24) % 2


def _frames(number: int) -> np.ndarray:
    """Left and right go together in one group, and not in the other."""
    rng = np.random.default_rng(number)
    left, right = rng.normal(size=(2, 40))
    right = left if SICK[number] else right
    values = rng.normal(size=(8, 9, 7, 40))
    values[:4] += left
    values[4:] += right
    return values


@pytest.fixture
def folder(nnunet_dirs: Path) -> Path:
    folder = data_set(nnunet_dirs, 700, {case: _frames(number) for number, case in enumerate(CASES)})
    patients = {case: case[:3] for case in CASES}
    column = TargetColumn("sick", TargetType.BINARY, ("no", "yes"))
    write_targets(folder, Targets({"sick": column}, CASES, patients, {}, {"sick": SICK[:, None].astype(float)}))
    folds = [{"train": [c for n, c in enumerate(CASES) if n // 8 != fold], "val": list(CASES[8 * fold : 8 * fold + 8])}
             for fold in range(3)]  # fmt: skip
    write_json(folder / SPLITS, folds)
    return folder


def _probe(features: Path, out: Path, *more: str) -> list[str]:
    where = ["--features", str(features), "-o", str(out)]
    return ["probe", "-d", "700", *where, "--target", "sick", "--models", "linear,svm", *more]


def test_connectivity_is_probed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert has_runs(700)
    assert main(["connectivity", "-d", "700", "--blocks", "2", "-o", str(tmp_path / "fc.npz")]) == 0
    assert main(_probe(tmp_path / "fc.npz", tmp_path / "o.json")) == 0
    said, result = capsys.readouterr().out, read_result(tmp_path / "o.json", kind="probe").extra
    assert "the features of functional connectivity (AUC 1.000) beat any baseline is not known" in said
    assert [(row["features"], row["model"]) for row in result["scores"]] == [
        ("functional connectivity", "linear"), ("functional connectivity", "svm"),
    ]  # fmt: skip
    assert all(row["measures"]["auc"]["value"] == 1 for row in result["scores"])
    assert "nothing was trained" in result["seen"]


def test_connectivity_is_a_baseline(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
    write_features_table(tmp_path / "f.npz", FeatureTable(CASES, noise))
    assert main(_probe(tmp_path / "f.npz", tmp_path / "o.json", "--baselines", "connectivity")) == 0
    said = capsys.readouterr().out
    assert "are worse than functional connectivity" in said and "blocks of the brain" in said
    kept = read_features(tmp_path / "f_baselines" / "functional_connectivity.npz")
    assert kept.cases == CASES and kept.features.shape == (24, 4950)
    assert main(_probe(tmp_path / "f.npz", tmp_path / "o.json", "--baselines", "none")) == 0
    assert "none was made" in capsys.readouterr().out


def test_untrained_encoders_are_baselines(sequences: Prepared, tmp_path: Path) -> None:
    """Random encoders of the planned network; the second probe takes what the first one has made."""
    folders = [sequences.folder(name, 700) for name in ("nnUNet_raw", "nnUNet_preprocessed")]
    rows = read_cases(*folders).rows
    cases, owners = tuple(row["case"] for row in rows), {row["case"]: row["patient"] for row in rows}
    numbers = {"number": np.array([[float(owners[case][-1])] for case in cases])}
    write_targets(folders[0], Targets({"number": NUMBER}, cases, owners, {}, numbers))
    sides = [[case for case in cases if int(owners[case][-1]) % 2 == side] for side in (0, 1)]
    write_json(folders[1] / SPLITS, [{"train": sides[side], "val": sides[1 - side]} for side in (0, 1)])
    features = np.random.default_rng(0).normal(size=(len(cases), 3)).astype(np.float32)
    write_features_table(tmp_path / "f.npz", FeatureTable(cases, features))
    probe = SubjectProbe(dataset_id=700, features=tmp_path / "f.npz", target="number", models=["linear"], resamples=50)
    scores = probe_subjects(probe).extra["scores"]
    assert [row["features"] for row in scores] == ["pre-trained", "untrained", "untrained covariance", CONNECTIVITY]
    kept = {name: tmp_path / "f_baselines" / f"{name}.npz" for name in ("untrained", "untrained_covariance")}
    plain, squares = (read_features(path).features for path in kept.values())
    assert plain.shape == (8, 24) and squares.shape == (8, 300) and (np.ptp(plain, axis=0) > 0).all()
    assert probe_subjects(probe).extra["scores"] == scores
    other = probe_subjects(replace(probe, seed=1, baselines=("untrained",)))
    assert not np.allclose(read_features(kept["untrained"]).features, plain) and len(other.extra["scores"]) == 2
