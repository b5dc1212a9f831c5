import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.results import SCHEMA, Cost, RunResult, read_result, versions_of, write_result

OLD = Path(__file__).parent / "old"
SUMMARY = {"wt": {"dice": {"mean": 0.5, "low": 0.4, "high": 0.6}}}
CASES = [{"case": "a", "regions": {"wt": {"dice": 0.5, "reference_mm3": 8.0}}}]
SCORES = {"release": "ours", "metrics": "whole", "summary": SUMMARY, "cases": CASES}


def _full() -> RunResult:
    return RunResult(
        kind="segmentation",
        trainer="nnUNetTrainerBDFM",
        settings={"plans": "BDFMPlans", "weights": None, "training": {"epochs": 2}},
        curves={"train_losses": [0.5, None]},
        scores=SCORES,
        exposure={"runs": [], "note": None},
        cost=Cost(seconds=1.5, epochs=2),
        versions={"python": "3.12", "torch": None},
        extra={"loss_last": 0.25},
    )


@pytest.mark.parametrize("result", [_full(), RunResult(kind="evaluation", scores=SCORES), RunResult(kind="demo")])
def test_a_result_is_read_as_it_was_written(result: RunResult, tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", result)
    assert read_result(tmp_path / "result.json") == result
    assert read_result(tmp_path / "result.json", kind=result.kind) == result


def test_the_file_is_one_table_and_says_null_for_what_is_not_known(tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", RunResult(kind="evaluation", scores=SCORES, extra={"more": float("nan")}))
    content = json.loads((tmp_path / "result.json").read_text())
    unknown = dict.fromkeys(("trainer", "settings", "curves", "exposure", "cost", "versions", "provenance", "more"))
    assert content == {"schema": SCHEMA, "kind": "evaluation", **unknown, **SCORES}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("pretraining_summary", "pretraining"), ("scores", "evaluation"), ("summary", "demo")],
)
def test_files_from_before_the_schema_are_read(name: str, kind: str) -> None:
    """`old` holds files that the commits before this schema have written."""
    content = json.loads((OLD / f"{name}.json").read_text())
    found = read_result(OLD / f"{name}.json")
    assert (found.kind, found.schema) == (kind, 0)
    assert found.exposure is None and found.cost is None and found.versions is None
    kept = {name: value for name, value in found.as_dict().items() if name in content}
    assert kept == content


def test_an_old_file_keeps_its_parts() -> None:
    pretraining = read_result(OLD / "pretraining_summary.json")
    assert pretraining.trainer == "nnUNetTrainerBDFMPretrain" and pretraining.curves is not None
    assert pretraining.extra["loss_last"] == pretraining.curves["train_losses"][-1]
    scores = read_result(OLD / "scores.json").scores
    assert scores is not None and scores["cases"][0]["regions"]["whole_tumor"]["dice"] == 1.0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"curves": {"loss": ["high"]}}, r"curves\.loss\[0\] is 'high', expected a number or null"),
        ({"cost": {"epochs": 1.5}}, r"cost\.epochs is 1\.5, expected a whole number or null"),
        ({"versions": {"torch": 2}}, r"versions\.torch is 2, expected a text or null"),
        ({"kind": None}, "kind is null, expected a text"),
        ({"schema": "1"}, "schema is '1', expected a whole number"),
        ({"cases": {"a": 1}}, r"cases is \{'a': 1\}, expected a list"),
        ({"cases": []}, "cases is empty"),
        ({"cases": [{"case": "a", "regions": {"wt": {}}}]}, r"cases\[0\]\.regions\.wt\.dice is missing"),
        ({"summary": {"wt": {"dice": {"mean": 0.5}}}}, r"summary\.wt\.dice\.low is missing"),
        ({"schema": SCHEMA + 1}, rf"has schema {SCHEMA + 1}, this version reads up to {SCHEMA}: install a newer"),
    ],
)
def test_a_file_of_another_shape_is_a_sentence(change: dict[str, Any], fault: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(_full().as_dict() | change))
    with pytest.raises(InputError, match=fault) as caught:
        read_result(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[], {}, {"labels": {}}, {"schema": 1}, {"cases": [], "summary": {}}, 3])
def test_other_json_is_no_result(content: Any, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"other\.json is (no result of a run|not as expected)"):
        read_result(tmp_path / "other.json")


def test_another_kind_than_asked_for_is_refused(tmp_path: Path) -> None:
    shutil.copyfile(OLD / "scores.json", tmp_path / "mine.json")
    with pytest.raises(InputError, match=r"mine\.json is the result of kind 'evaluation', expected one of kind 'demo'"):
        read_result(tmp_path / "mine.json", kind="demo")


def test_an_evaluation_without_cases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text(json.dumps({"schema": 1, "kind": "evaluation"}))
    with pytest.raises(InputError, match=r"scores\.json is not as expected \(metrics is missing\)"):
        read_result(tmp_path / "scores.json")


def test_an_entry_has_one_place() -> None:
    with pytest.raises(AssertionError, match="curves"):
        RunResult(kind="demo", extra={"curves": 1})
    with pytest.raises(AssertionError, match="entries of scores"):
        RunResult(kind="evaluation", scores={"dice": 1})


def test_versions_of_what_is_installed() -> None:
    found = versions_of("numpy", "no-such-package")
    assert found["numpy"] and found["bdfm-nnunet"] and found["no-such-package"] is None
