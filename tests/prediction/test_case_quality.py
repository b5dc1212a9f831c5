"""The list of predicted cases, the worst first."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.prediction.case_quality import (
    COLUMNS,
    QUALITY_FILE,
    QUALITY_TABLE,
    ExpectedDice,
    QualityJudge,
    QualityScale,
    Signs,
    agreement_of,
    collect_signs,
    read_scale,
    signs_of,
    write_sign,
)
from bdfm_nnunet.table_files import read_table


def logits_of(probabilities: list[float]) -> np.ndarray:
    """Two classes, as logits of a row of voxels."""
    p = np.array(probabilities)
    return np.log(np.stack([1 - p, p]))[:, None, None]


def expected_dice(logits: np.ndarray, *, regions: bool) -> float:
    return signs_of(logits, regions=regions, spacing=[1, 1, 1]).expected_dice


def sure_of(*probabilities: float) -> Signs:
    return signs_of(logits_of(list(probabilities)), regions=False, spacing=[1, 2, 3])


def test_expected_dice_by_hand() -> None:
    # two voxels are found: 2 (0.9 + 0.8) / (0.9 + 0.8 + 0.2 + 2)
    assert expected_dice(logits_of([0.9, 0.8, 0.2]), regions=False) == pytest.approx(3.4 / 3.9)
    assert expected_dice(logits_of([0.3, 0.1]), regions=False) == pytest.approx(0.7)
    # of regions, each channel is one: 2 (0.6 + 0.9) / (1.5 + 2) and 2 * 0.8 / (0.8 + 0.4 + 1)
    p = np.array([[0.6, 0.9], [0.8, 0.4]])
    assert expected_dice(np.log(p / (1 - p)), regions=True) == pytest.approx((3 / 3.5 + 1.6 / 2.2) / 2)


def test_pieces_are_as_good_as_the_whole() -> None:
    p = np.random.default_rng(0).dirichlet([1, 1, 1], (4, 5, 6)).transpose(3, 0, 1, 2)
    pieces = ExpectedDice()
    for part in (slice(0, 1), slice(1, 4)):
        pieces.add(p[:, part], regions=False)
    assert pieces.value == pytest.approx(expected_dice(np.log(p), regions=False), abs=1e-6)


def test_agreement_of_folds_by_hand() -> None:
    one, two, none = (np.array(labels, np.uint8) for labels in ([1, 1, 0, 2], [1, 2, 0, 2], [0, 0, 0, 0]))
    assert agreement_of([one]) is None
    assert agreement_of([one, two]) == pytest.approx(2 * 2 / 6)
    assert agreement_of([one, two, none]) == pytest.approx((4 / 6 + 0 + 0) / 3)
    assert agreement_of([none, none]) == 1


def test_volumes_are_those_of_the_network() -> None:
    assert sure_of(0.9, 0.8, 0.2).volumes == (12.0,)


def test_a_scale_learns_from_expectations_and_volumes() -> None:
    rng = np.random.default_rng(0)
    expected, volume = rng.uniform(0.6, 1.0, 60), rng.uniform(10, 1000, 60)
    true = expected - 0.4 + 0.05 * np.log1p(volume) + rng.normal(0, 0.03, 60)
    signs = [Signs(x, (v,)) for x, v in zip(expected, volume, strict=True)]
    scale = QualityScale.fit(signs, true)
    assert scale is not None and scale.cases == 60 and scale.rank_correlation > 0.9
    middle, low, high = scale.estimate(Signs(0.8, (100.0,)))
    assert low < middle < high and middle == pytest.approx(0.4 + 0.05 * np.log1p(100), abs=0.03)
    assert high - low == pytest.approx(0.1, abs=0.04)
    assert scale.estimate(Signs(5.0, (100.0,)))[0] == 1
    assert QualityScale.fit(signs[:7], true[:7]) is None
    assert QualityScale.fit([Signs(0.8, (1.0,))] * 20, true[:20]) is None


def write_validation(folder: Path, expected: np.ndarray, true: np.ndarray) -> None:
    (folder / "validation").mkdir(parents=True)
    rows = []
    for number, (sure, dice) in enumerate(zip(expected, true)):
        write_sign(folder / "validation" / f"case_{number}", sure_of(sure, sure, sure))
        rows.append(
            {"prediction_file": f"x/case_{number}.nii.gz", "metrics": {"1": {"Dice": dice}, "2": {"Dice": None}}}
        )
    (folder / "validation" / "summary.json").write_text(json.dumps({"metric_per_case": rows}))
    collect_signs(folder / "validation")


def test_what_validations_leave_makes_the_list(tmp_path: Path) -> None:
    sure = np.linspace(0.6, 0.95, 6)
    for fold in (0, 1):
        write_validation(tmp_path / f"fold_{fold}", sure, sure**2)
        assert not list((tmp_path / f"fold_{fold}" / "validation").glob(".*"))
    scale = read_scale(tmp_path)
    assert scale is not None and scale.cases == 12
    judge, out = QualityJudge(scale), tmp_path / "out"
    out.mkdir()
    for case, probability in (("good", 0.97), ("bad", 0.6), ("fair", 0.8)):
        judge.judge(out / case, sure_of(probability, 0.1), inputs="good")
    for labels in ([0.1, 0.1], [0.1, 0.1], [0.9, 0.1], [0.9, 0.9]):  # two folds; nobody has asked for the case before
        judge.add_member(torch.from_numpy(logits_of(labels)), of=2, regions=False)
    judge.judge(out / "fair", sure_of(0.8, 0.4), inputs="skull")
    header, *rows = read_table(out / QUALITY_TABLE)
    assert tuple(header) == COLUMNS and [row[0] for row in rows] == ["bad", "fair", "good"]
    assert rows[1][5:] == [f"{2 / 3:.4f}", "skull"] and rows[0][5] == ""
    assert all(float(row[2]) <= float(row[1]) <= float(row[3]) for row in rows)


def test_without_validations_the_list_is_what_the_network_expects(tmp_path: Path) -> None:
    assert read_scale(tmp_path) is None
    QualityJudge().judge(tmp_path / "a", sure_of(0.9), inputs="unknown: no fingerprint")
    assert read_table(tmp_path / QUALITY_TABLE)[1] == ["a", "0.9474", "", "", "0.9474", "", "unknown: no fingerprint"]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / QUALITY_FILE).write_text('{"cases": {"a": {"dice": 1}}}')
    with pytest.raises(InputError, match=r"cases.a.expected_dice is missing"):
        read_scale(tmp_path)
    (tmp_path / QUALITY_TABLE).write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"no list of quality .*move it away"):
        QualityJudge().judge(tmp_path / "a", sure_of(0.9), inputs="good")
