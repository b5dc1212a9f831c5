"""Rules for small components: what they do to label maps, and how they are found."""

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.folder_scores import evaluate_folders
from bdfm_nnunet.evaluation.postprocessing import Rule, RuleSet, apply, apply_folder, read_rules
from bdfm_nnunet.evaluation.tuning import objective, tune

REGIONS = {"whole_tumor": (1, 2, 3), "tumor_core": (1, 3), "enhancing_tumor": (3,)}
GLI = "brats2023-gli"
SHAPE = (32, 32, 24)
ISOTROPIC = (1.0, 1.0, 1.0)


def _random_labels(seed: int, shape: tuple[int, ...] = (14, 13, 12)) -> np.ndarray:
    random = np.random.default_rng(seed)
    return np.where(random.random(shape) < 0.12, random.integers(1, 4, shape), 0).astype(np.int16)


def _slow(rule: Rule, labels: np.ndarray, voxel: float) -> np.ndarray:
    """The definition, piece by piece."""
    mask, after = np.isin(labels, rule.values), labels.copy()
    pieces, count = ndimage.label(mask, np.ones((3, 3, 3))) if rule.what == "components" else (mask.astype(int), 1)
    for number in range(1, count + 1):
        piece = pieces == number
        if 0 < piece.sum() * voxel < rule.below_mm3:
            after[piece] = rule.becomes
    return after


@pytest.mark.parametrize("what", ["components", "total"])
@pytest.mark.parametrize("below", [0.5, 3.0, 8.0, 1e9])
@pytest.mark.parametrize("spacing", [ISOTROPIC, (0.5, 1.0, 3.0)])
def test_a_rule_against_its_definition(what: Any, below: float, spacing: tuple[float, ...]) -> None:
    for seed in range(4):
        labels = _random_labels(seed)
        kept = labels.copy()
        rule = Rule("tumor_core", (1, 3), what, below, 2)
        assert np.array_equal(apply([rule], labels, spacing=spacing), _slow(rule, labels, float(np.prod(spacing))))
        assert np.array_equal(labels, kept)


def test_rules_follow_one_another_and_may_be_repeated() -> None:
    labels = _random_labels(5)
    rules = [Rule("ET", (3,), "components", 3, 1), Rule("WT", (1, 2, 3), "components", 6, 0)]
    once = apply(rules, labels, spacing=ISOTROPIC)
    assert np.array_equal(once, _slow(rules[1], _slow(rules[0], labels, 1), 1))
    assert np.array_equal(apply(rules, once, spacing=ISOTROPIC), once)
    assert np.array_equal(apply([], labels, spacing=ISOTROPIC), labels)


# ---------------------------------------------------------------------------------------------------------- cohorts


def _write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), np.diag([-1.0, -1, 1, 1])), path)


def _tumour(random: np.random.Generator) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    x, y, z = random.integers(3, 6, 3)
    labels[x : x + 10, y : y + 10, z : z + 10] = 2
    labels[x + 2 : x + 8, y + 2 : y + 8, z + 2 : z + 8] = 3
    labels[x + 4 : x + 6, y + 4 : y + 6, z + 4 : z + 6] = 1
    return labels


@pytest.fixture
def false_positives(tmp_path: Path) -> Path:
    """Ten cases of eight patients; predictions are perfect but for specks of 8 mm3 far away in every second one."""
    for number in range(10):
        labels = _tumour(np.random.default_rng(number))
        name = f"BraTS-GLI-{number % 8:05d}-{number // 8:03d}.nii.gz"
        _write(tmp_path / "reference" / name, labels)
        if number % 2:
            labels[26:28, 26:28, 18:20] = 3
        _write(tmp_path / "prediction" / name, labels)
    return tmp_path


def _tune(root: Path, **settings: Any) -> RuleSet:
    chosen: dict[str, Any] = {"regions": REGIONS, "release": GLI, "metrics": "lesionwise-2023", **settings}
    return tune(root / "reference", root / "prediction", patient_of=lambda case: case[:15], **chosen)


def test_tuning_removes_planted_specks_and_the_gain_is_held_out(false_positives: Path) -> None:
    rules = _tune(false_positives, out=false_positives / "rules.json")
    applied = apply_folder(false_positives / "prediction", false_positives / "rules.json", false_positives / "after")
    assert (applied.cases, applied.changed) == (10, 5)
    for path in (false_positives / "reference").iterdir():
        images = [nibabel.load(false_positives / folder / path.name) for folder in ("reference", "after")]
        assert np.array_equal(*[np.asarray(image.dataobj) for image in images])
    evidence = rules.evidence
    assert evidence["after_in_sample"] == pytest.approx(1)
    assert evidence["gain_held_out"]["mean"] == pytest.approx(1 - evidence["before"])
    assert evidence["recommended"]
    assert read_rules(false_positives / "rules.json").rules == rules.rules


def test_scores_of_the_search_are_those_of_the_evaluation(false_positives: Path) -> None:
    rules = _tune(false_positives)
    result = evaluate_folders(
        false_positives / "reference", false_positives / "prediction", regions=REGIONS, release=GLI,
        metrics="lesionwise-2023",
    )  # fmt: skip
    means = [result["summary"][region][objective("lesionwise-2023")]["mean"] for region in REGIONS]
    assert rules.evidence["before"] == pytest.approx(np.mean(means))


@pytest.mark.parametrize("metrics", ["whole", "lesionwise-2024", "panoptic-2026"])
def test_every_version_can_be_tuned_for(metrics: str, false_positives: Path) -> None:
    rules = _tune(false_positives, metrics=metrics, thresholds=(5, 20))
    assert rules.metrics == metrics
    assert rules.evidence["after_in_sample"] >= rules.evidence["before"]


def test_the_best_threshold_is_found(false_positives: Path) -> None:
    """Against trying every pair of rules for one region."""
    regions = {"enhancing_tumor": (3,)}
    thresholds = (5, 20, 500)
    found = _tune(false_positives, regions={"all": (1, 2, 3), **regions}, metrics="whole", thresholds=thresholds)
    best = found.evidence["before"]
    for what in ("components", "total"):
        for below in thresholds:
            for becomes in (0, 1, 2):
                rule = Rule("enhancing_tumor", (3,), what, below, becomes)  # type: ignore[arg-type]
                RuleSet(GLI, "whole", (rule,), (0, 1, 2, 3)).write(false_positives / "one.json")
                apply_folder(false_positives / "prediction", false_positives / "one.json", false_positives / "one")
                result = evaluate_folders(
                    false_positives / "reference", false_positives / "one", regions={"all": (1, 2, 3), **regions},
                    release=GLI,
                )  # fmt: skip
                best = max(best, np.mean([scores["dice"]["mean"] for scores in result["summary"].values()]))
    assert found.evidence["after_in_sample"] >= best - 1e-9


def test_nothing_is_changed_where_nothing_helps(tmp_path: Path) -> None:
    for number in range(4):
        labels = _tumour(np.random.default_rng(number))
        _write(tmp_path / f"reference/case_{number}.nii.gz", labels)
        _write(tmp_path / f"prediction/case_{number}.nii.gz", labels)
    rules = _tune(tmp_path)
    assert rules.rules == () and not rules.evidence["recommended"]


def test_a_gain_by_chance_is_not_recommended(tmp_path: Path) -> None:
    """One case has a speck that is wrong, all others have real ones of that size: whatever is chosen is not sure."""
    for number in range(6):
        labels = np.zeros(SHAPE, np.uint8)
        labels[4:6, 4:6, 4:6] = 1
        _write(tmp_path / f"prediction/case_{number}.nii.gz", labels)
        _write(tmp_path / f"reference/case_{number}.nii.gz", labels * (number > 0))
    rules = _tune(tmp_path, regions={"lesion": (1,)}, release="atlas-r2", metrics="whole")
    assert not rules.evidence["recommended"]


def test_processes_find_the_same(false_positives: Path) -> None:
    assert _tune(false_positives, thresholds=(20,)) == _tune(false_positives, thresholds=(20,), workers=2)


def test_rules_in_place_and_bad_files(false_positives: Path) -> None:
    _tune(false_positives, out=false_positives / "rules.json")
    folder = false_positives / "prediction"
    assert apply_folder(folder, false_positives / "rules.json", folder).changed == 5
    assert apply_folder(folder, false_positives / "rules.json", folder).changed == 0
    (false_positives / "bad.json").write_text('{"format": 1, "rules": [{}]}')
    with pytest.raises(InputError, match="is no file of rules"):
        read_rules(false_positives / "bad.json")
    _write(folder / "other.nii.gz", np.full(SHAPE, 9))
    with pytest.raises(InputError, match="holds the value 9"):
        apply_folder(folder, false_positives / "rules.json", folder)


def test_the_form_of_the_file_stays(tmp_path: Path) -> None:
    """Plain or compressed, the type of small numbers, and the grid that nnU-Net sees."""
    labels = np.zeros((8, 8, 8), np.float32)
    labels[1, 1, 1], labels[4:7, 4:7, 4:7] = 1, 2
    (tmp_path / "in").mkdir()
    for name in ("a.nii", "b.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(labels, np.diag([-1.0, -1, 2, 1])), tmp_path / "in" / name)
    rule = Rule("all", (1, 2), "components", 10, 0)
    RuleSet("Ours", "whole", (rule,), (0, 1, 2)).write(tmp_path / "rules.json")
    assert apply_folder(tmp_path / "in", tmp_path / "rules.json", tmp_path / "out").changed == 2
    for name in ("a.nii", "b.nii.gz"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x1f\x8b") == name.endswith("gz")
        image: Any = nibabel.load(tmp_path / "out" / name)
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(image.affine, np.diag([-1.0, -1, 2, 1]))
        np.testing.assert_array_equal(np.asarray(image.dataobj), np.where(labels == 1, 0, labels))


RULES: dict[str, Any] = {
    "format": 1, "release": GLI, "metrics": "whole", "labels": [0, 1, 2, 3], "evidence": {},
    "rules": [{"region": "ET", "values": [3], "what": "components", "below_mm3": 50.0, "becomes": 1}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"below_mm3": "x"}, r"rules\[0\].below_mm3 is 'x', expected a number"),
        ({"below_mm3": float("nan")}, "below_mm3 is nan"),
        ({"below_mm3": -5}, "below_mm3 is -5, expected a volume from 0 up"),
        ({"values": "abc"}, "values is 'abc', expected a list"),
        ({"values": [7]}, "has a label that is not among"),
        ({"values": []}, "has a label that is not among"),
        ({"becomes": 9}, "has a label that is not among"),
        ({"what": "all"}, "what is 'all', expected components or total"),
        ({"labels": [0, 1, 2, 3, 10**9], "becomes": 10**9}, "expected numbers from 0 to 65535"),
        ({"labels": [0, 1, 2, 3, "x"], "becomes": "x"}, r"labels\[4\] is 'x', expected a whole number"),
        ({"format": 2}, "its format is 2, expected 1"),
        ({"rules": None}, "rules is null, expected a list"),
    ],
)
def test_rules_from_elsewhere_have_the_right_shape(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    rule = RULES["rules"][0] | {name: value for name, value in changes.items() if name in RULES["rules"][0]}
    content = {**RULES, "rules": [rule], **{name: value for name, value in changes.items() if name in RULES}}
    (tmp_path / "rules.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"rules.json is no file of rules \(.*{sentence}"):
        read_rules(tmp_path / "rules.json")


def test_cases_cleared_of_all_false_lesions_stay_in_the_estimate(tmp_path: Path) -> None:
    """Panoptic scores do not exist where both sides are empty: the rule makes five of ten cases such."""
    for number in range(10):
        labels = np.zeros(SHAPE, np.uint8)
        if number % 2:
            labels[4:12, 4:12, 4:12] = 1
        _write(tmp_path / f"reference/case_{number}.nii.gz", labels)
        if not number % 2:
            labels[26:28, 26:28, 18:20] = 1
        _write(tmp_path / f"prediction/case_{number}.nii.gz", labels)
    rules = _tune(tmp_path, regions={"lesion": (1,)}, release="ours", metrics="panoptic-2026", thresholds=(20,))
    evidence = rules.evidence
    assert (evidence["before"], evidence["after_in_sample"]) == (0.5, 1.0)
    gain = evidence["gain_held_out"]
    assert (gain["mean"], gain["cases"], gain["undefined"]) == (0.5, 10, 5)
    assert gain["low"] > 0 and evidence["recommended"]


@pytest.mark.parametrize("step", ["tune", "apply"])
def test_killed_worker_is_one_sentence(step: str, false_positives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise BrokenProcessPool("gone")

    for name in ("map", "submit"):
        monkeypatch.setattr(f"bdfm_nnunet.worker_pools.ProcessPoolExecutor.{name}", broken)
    with pytest.raises(InputError, match=r"ended one of the 2 worker processes.*fewer --workers"):
        if step == "tune":
            _tune(false_positives, workers=2)
        else:
            RuleSet(GLI, "whole", (), (0, 1, 2, 3)).write(false_positives / "rules.json")
            apply_folder(
                false_positives / "prediction", false_positives / "rules.json", false_positives / "out", workers=2
            )
