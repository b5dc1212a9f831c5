"""Identity, motion and site: planted ones are told, those of noise are not, and what nobody knows is unknown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.probes.feature_tables import FeatureTable, write_features_table
from bdfm_nnunet.probes.unwanted_probe import KIND, UnwantedProbe, probe_unwanted
from bdfm_nnunet.results import read_result
from bdfm_nnunet.table_files import write_table

SUBJECTS, D = 40, 12
CASES = [f"s{number:02d}_ses-{session}" for number in range(SUBJECTS) for session in "ab"]
OWNER = np.repeat(np.arange(SUBJECTS), 2)
MOTION = np.random.default_rng(1).gamma(2, 0.1, len(CASES))
SITES = ["Bonn", "Ulm", "Kiel"]


def _features(told: Sequence[str], seed: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(CASES), D))
    if "identity" in told:
        features[:, :6] = 3 * np.random.default_rng(7).normal(size=(SUBJECTS, 6))[OWNER] + 0.5 * features[:, :6]
    if "motion" in told:
        features[:, 6:9] += MOTION[:, None] * 30
    if "site" in told:
        features[:, 9:] += 4 * rng.normal(size=(3, 3))[OWNER % 3]
    return features


@pytest.fixture
def folder(nnunet_dirs: Path) -> Path:
    folder = nnunet_dirs / "nnUNet_raw" / "Dataset700_Made"
    folder.mkdir(parents=True)
    rows = [
        {"case": case, "patient": case[:3], "session": case[-1], "site": SITES[owner % 3], "part": "train"}
        for case, owner in zip(CASES, OWNER, strict=True)
    ]
    write_json(folder / "manifest.json", {"release": "fmri-folder", "source": "made up", "cases": rows})
    write_table(folder / "runs.csv", [["case", "displacement"], *([c, f"{m:.5f}"] for c, m in zip(CASES, MOTION))])
    return folder


def _probed(path: Path, features: np.ndarray, cases: Sequence[str] = CASES) -> dict[str, Any]:
    write_features_table(path, FeatureTable(tuple(cases), features.astype(np.float32)))
    return probe_unwanted(UnwantedProbe(dataset_id=700, features=path, resamples=300)).extra["unwanted"]


@pytest.mark.parametrize("told", [(), ("identity",), ("motion", "site")])
def test_what_is_planted_is_told_and_nothing_else(folder: Path, tmp_path: Path, told: tuple[str, ...]) -> None:
    found = _probed(tmp_path / "f.npz", _features(told))
    assert [name for name, each in found.items() if each["state"] == "told"] == list(told)
    assert all(each["state"] in ("told", "not told") for each in found.values())
    identity, motion, site = found.values()
    assert (identity["measure"], motion["measure"], site["measure"]) == ("rank_1", "r2", "auc")
    assert identity["chance"] == pytest.approx(1 / 79) and (motion["chance"], site["chance"]) == (0, 0.5)
    assert identity["patients"] == motion["patients"] == site["patients"] == SUBJECTS
    for each in found.values():
        assert each["interval"][0] <= each["value"] <= each["interval"][1]
        assert each["verdict"].endswith("is not shown." if each["state"] == "not told" else ".")
    assert "other session" in identity["verdict"] and "3 sites" in site["verdict"] and "80 cases" in motion["verdict"]


def test_subjects_are_never_on_both_sides(folder: Path, tmp_path: Path) -> None:
    """Features that tell the subject alone give the site away only to a model that knows the subject."""
    found = _probed(tmp_path / "f.npz", np.eye(SUBJECTS)[OWNER])
    assert found["identity"]["value"] == 1 and found["site"]["state"] == "not told"


def test_sessions_and_other_runs(folder: Path, tmp_path: Path) -> None:
    """Of one session per subject, other runs are candidates."""
    content = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", content | {"cases": [row | {"session": "a"} for row in content["cases"]]})
    found = _probed(tmp_path / "f.npz", _features(["identity"]))["identity"]
    assert "most similar other case is of the same" in found["verdict"] and found["value"] > 0.15


def test_what_nobody_knows_is_unknown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = read_json(folder / "manifest.json")
    rows = [{"case": row["case"], "patient": row["patient"], "part": "train"} for row in content["cases"]]
    write_json(folder / "manifest.json", content | {"cases": rows})
    (folder / "runs.csv").unlink()
    write_features_table(tmp_path / "f.csv", FeatureTable((*CASES[::2], "stranger"), np.ones((41, 2), np.float32)))
    command = ["probe", "unwanted", "-d", "700", "--features", str(tmp_path / "f.csv"), "-o", str(tmp_path / "o.json")]
    assert main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in said[:3]] == [
        f"{name}: unknown" for name in ("Identity", "Motion", "Site")
    ]
    assert "no subject has a second case" in said[0] and "1 cases with features are not in Dataset700_Made" in said[3]
    unwanted = read_result(tmp_path / "o.json", kind=KIND).extra["unwanted"]
    assert {each["state"] for each in unwanted.values()} == {"unknown"}


def test_bad_input_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 of the 2 cases in .* belong to Dataset700_Made"):
        _probed(tmp_path / "f.npz", np.eye(2), ["x", "y"])
    (folder / "runs.csv").write_text(f"case,displacement\n{CASES[0]},much\n")
    with pytest.raises(InputError, match=r"runs\.csv has no number as displacement"):
        _probed(tmp_path / "f.npz", _features(()))
