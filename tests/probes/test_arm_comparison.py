"""Pre-trainings compared by pairs of case and seed, from files of made-up scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.crossed_bootstrap import summarise_crossed
from bdfm_nnunet.probes.arm_comparison import compare_arms
from bdfm_nnunet.results import RunResult, read_result, write_result

PATIENTS = {"a1": "A", "a2": "A", "b1": "B", "c1": "C"}
SETTINGS = {"dataset": "Dataset071_X", "channels": ["T1c"], "labels": ["lesion"], "draws": 2, "seed": 0}


def _scores(value: float | None) -> dict[str, dict[str, float | None]]:
    row = {"psnr": value, "ssim": value, "hfen": value}
    return {"lesion": row, "healthy": dict.fromkeys(row, 30.0)}


def _file(path: Path, seed: int | None, scores: dict[str, float | None], **settings: Any) -> Path:
    measures = {key: {"mean": 0.0, "low": 0.0, "high": 0.0} for key in ("psnr", "ssim", "hfen")}
    content = {
        "metrics": "reconstruction",
        "regions": ["lesion"],
        "summary": {"lesion": measures, "healthy": measures},
        "cases": [{"case": case, "regions": _scores(value)} for case, value in scores.items()],
    }
    extra = {"seed_of_training": seed, "patients": {case: PATIENTS[case] for case in scores}}
    write_result(path, RunResult(kind="reconstruction", settings=SETTINGS | settings, scores=content, extra=extra))
    return path


def _arms(folder: Path, seeds: tuple[int | None, ...] = (1, 2, 3)) -> tuple[dict[str, list[Path]], np.ndarray]:
    """Two arms of two folds and three seeds, and the scores, (arms, seeds, cases)."""
    values = np.random.default_rng(0).normal(20, 2, (2, 3, 4))
    arms: dict[str, list[Path]] = {"bdfm": [], "simmim": []}
    for number, name in enumerate(arms):
        for row, seed in enumerate(seeds):
            for fold, cases in enumerate((["a1", "a2"], ["b1", "c1"])):
                scores = {case: float(values[number, row, list(PATIENTS).index(case)]) for case in cases}
                arms[name].append(_file(folder / f"{name}_{row}_{fold}.json", seed, scores))
    return arms, values


@pytest.mark.parametrize("seeds", [(1, 2, 3), (None, None, None)])
def test_differences_are_paired_over_patients_and_seeds(tmp_path: Path, seeds: Any) -> None:
    arms, values = _arms(tmp_path, seeds)
    rows = compare_arms(arms).extra["table"]
    row = next(row for row in rows if (row["arm"], row["region"], row["measure"]) == ("simmim", "lesion", "psnr"))
    expected = summarise_crossed(values[1] - values[0], patients=list(PATIENTS.values()))
    assert row["difference"] == pytest.approx(expected.as_dict())
    assert row["mean"]["mean"] == pytest.approx(values[1].mean())
    healthy = next(row for row in rows if (row["arm"], row["region"]) == ("simmim", "healthy"))
    assert healthy["difference"]["mean"] == 0
    assert all(row["difference"] is None for row in rows if row["arm"] == "bdfm")


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms, _ = _arms(tmp_path)
    options = [part for name, files in arms.items() for part in ("--arm", name, *map(str, files))]
    assert cli.main(["probe", "compare", *options, "-o", str(tmp_path / "all.json")]) == 0
    shown = capsys.readouterr().out
    assert "difference (interval)" in shown and shown.count("simmim") == 6
    result = read_result(tmp_path / "all.json", kind="reconstruction_comparison")
    assert result.settings is not None and result.settings["seeds"] == 3 and len(result.extra["table"]) == 12
    assert cli.main(["probe", "compare", *options, "--arm", "bdfm", "x.json"]) == 2
    assert "the arm bdfm twice" in capsys.readouterr().err


def test_a_missing_score_is_left_out(tmp_path: Path) -> None:
    first = _file(tmp_path / "a.json", 0, {"a1": 20.0, "b1": None})
    second = _file(tmp_path / "b.json", 0, {"a1": 22.0, "b1": None})
    rows = compare_arms({"one": [first], "other": [second]}).extra["table"]
    row = next(row for row in rows if (row["arm"], row["measure"]) == ("other", "psnr"))
    assert (row["difference"]["mean"], row["difference"]["cases"]) == (2.0, 1)


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path) -> None:
    one = _file(tmp_path / "one.json", 0, {"a1": 20.0})
    for name, options, fault in (
        ("draws", {"draws": 8}, "not scored alike .draws 2 and 8"),
        ("channels", {"channels": ["T2"]}, "not scored alike .channels"),
    ):
        other = _file(tmp_path / f"{name}.json", 0, {"a1": 20.0}, **options)
        with pytest.raises(InputError, match=fault):
            compare_arms({"one": [one], "two": [other]})
        with pytest.raises(InputError, match=rf"{name}\.json was not scored as"):
            compare_arms({"one": [one, other], "two": [other]})
    with pytest.raises(InputError, match="only the arm two has case b1 with seed 0"):
        compare_arms({"one": [one], "two": [one, _file(tmp_path / "b.json", 0, {"b1": 20.0})]})
    with pytest.raises(InputError, match="only the arm two has case a1 with seed 1"):
        compare_arms({"one": [one], "two": [one, _file(tmp_path / "s.json", 1, {"a1": 20.0})]})
    with pytest.raises(InputError, match=r"one\.json scores case a1 with seed 0, and another file of arm one"):
        compare_arms({"one": [one, one], "two": [one]})
    with pytest.raises(InputError, match="only one arm is named"):
        compare_arms({"one": [one]})
    with pytest.raises(InputError, match="--arm two names no files"):
        compare_arms({"one": [one], "two": []})
    (tmp_path / "demo.json").write_text(json.dumps({"schema": 1, "kind": "demo"}))
    with pytest.raises(InputError, match=r"demo\.json is the result of kind 'demo'"):
        compare_arms({"one": [one], "two": [tmp_path / "demo.json"]})
