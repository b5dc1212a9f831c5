"""The page beside a result file."""

from pathlib import Path

from bdfm_nnunet.results import Cost, Provenance, RunResult, Session, write_result
from bdfm_nnunet.results.hashed_files import HashedFiles
from bdfm_nnunet.results.run_sheet import page_of
from bdfm_nnunet.results.sessions import UNKNOWN

_ENERGY = {"processors_wh": 2.0, "gpus_wh": 10.0, "unknown": []}
_FIRST = {"began": "2026-01-01T00:00:00+00:00", "hours": 2.0, "device": "H100", "devices": 2, "energy": _ENERGY,
          "versions": {"torch": "2.6"}, "code": {"sha256": "1" * 64, "commit": None}}  # fmt: skip
_SECOND = _FIRST | {"hours": 0.5, "versions": {"torch": "2.8"}, "energy": _ENERGY | {"processors_wh": None,
                    "unknown": ["processors: the system has no counters"]}}  # fmt: skip


def _result(*sessions: object, **parts: object) -> RunResult:
    return RunResult(kind="segmentation", provenance=Provenance(sessions=sessions, **parts))  # type: ignore[arg-type]


def test_sessions_are_added_up_and_every_version_is_kept() -> None:
    page = page_of(_result(_FIRST, _SECOND), name="a.json")
    assert "- hours: 2.5\n" in page and "- GPUs (Wh): 20\n" in page
    assert "- processors (Wh): at least 2\n- energy of processors: the system has no counters" in page.replace(
        "- GPUs (Wh): 20\n", ""
    )
    assert "- torch: 2.6, then 2.8\n" in page and "2 x H100" in page


def test_what_is_not_known_is_not_zero() -> None:
    page = page_of(_result(UNKNOWN), name="a.json")
    assert "- hours: unknown\n- processors (Wh): unknown\n" in page
    assert "GPUs" not in page_of(_result(Session(versions={}).as_dict()), name="a.json")


def test_everything_that_a_reader_asks_for_is_there(tmp_path: Path) -> None:
    files = [HashedFiles(role="plans", kind="plans", place="../plans.json", sha256="3" * 64, detail="3d_fullres")]
    exposure = {"runs": [{"dataset": "Dataset501_A", "train": 8, "val": 2, "releases": {"ixi": {}}}], "note": "a gap"}
    scores = {"metrics": "whole", "definition": "Dice.", "cases": [],
              "summary": {"wt": {"dice": {"mean": 0.81234, "low": 0.7, "high": None}}}}  # fmt: skip
    result = RunResult(
        kind="segmentation",
        trainer="nnUNetTrainerBDFM",
        settings={"fold": 0, "training": {"seed": 1}},
        scores=scores,
        exposure=exposure,
        cost=Cost(epochs=2, steps=6),
        provenance=Provenance(
            inputs=files, seeds={"training": 7}, sessions=[_FIRST], licences={"ixi": None}, citations=["Us (2026)"]
        ),
    )
    write_result(tmp_path / "training_summary.json", result)
    page = (tmp_path / "training_summary.md").read_text()
    for line in (
        "- trainer: nnUNetTrainerBDFM\n- fold: 0\n",
        "Metric version whole: Dice.",
        "| wt | dice | 0.8123 \\[0.7, -\\] |",
        "| read | plans | ../plans.json, configuration 3d\\_fullres | 1 | 3333333333333333 |",
        "- Dataset501\\_A, 8 training and 2 validation cases, ixi\n- a gap\n",
        "- training: 7\n",
        "- ixi: not stated\n",
        "- Us (2026)\n",
        "- epochs: 2\n- steps: 6\n",
    ):
        assert line in page, line


def test_nothing_in_it_is_taken_for_a_mark() -> None:
    page = page_of(_result(citations=["<script>alert(1)</script> | [x](y)\n# no head\x1b[31m"]), name="`a`.json")
    assert "\\<script\\>alert(1)\\</script\\> \\| \\[x\\](y)\\\\n\\# no head\\\\x1b\\[31m" in page
    assert "\n# no head" not in page and "`bdfm verify 'a'.json`" in page
