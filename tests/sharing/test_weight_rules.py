from typing import Any

import pytest

from bdfm_nnunet.exposure import PUBLIC_BDFM, Exposure
from bdfm_nnunet.sharing.weight_rules import gaps_of, verdicts


def _run(**releases: list[str]) -> dict[str, Any]:
    named = {name.replace("_", "-"): {"licence": "", "overlaps": overlaps} for name, overlaps in releases.items()}
    return {"dataset": "Dataset501_A", "releases": named, "train": {}}


@pytest.mark.parametrize(
    ("runs", "brats", "goat", "fomo"),
    [
        ([_run(msd_hippocampus=[])], "yes", "no", "no"),
        ([_run(brats2023_gli=["brats2021"])], "no", "no", "no"),
        ([_run(msd_hippocampus=[]), _run(upenn_gbm=["ixi", "brats2021"])], "no", "no", "no"),
        ([_run(brats2024_goat=[])], "no", "yes", "no"),
        ([_run(fomo300k=[])], "yes", "no", "yes"),
        ([_run(fomo300k=[]), _run()], "unknown", "no", "unknown"),
        ([_run()], "unknown", "unknown", "unknown"),
        ([], "unknown", "unknown", "unknown"),
        ([PUBLIC_BDFM], "no", "no", "no"),
        ([_run(ixi=[]) | {"note": "the ids are not listed"}], "yes", "no", "no"),
        ([_run(ixi=[]) | {"ancestors": "unknown weights"}], "unknown", "no", "no"),
    ],
)
def test_what_the_challenges_say(runs: list[dict[str, Any]], brats: str, goat: str, fomo: str) -> None:
    found = {each.challenge: each.allowed for each in verdicts(Exposure(tuple(runs)))}
    assert found == {
        "BraTS 2026": brats, "BraTS 2026 GoAT": goat, "FOMO26 methods track": fomo, "FOMO26 open track": "yes",
    }  # fmt: skip


def test_the_reason_names_what_was_seen_or_what_is_not_known() -> None:
    why = {each.challenge: each.why for each in verdicts(Exposure((_run(upenn_gbm=["brats2021"]),)))}
    assert why["BraTS 2026"] == "seen in training: upenn-gbm, which shares scans with brats2021"
    assert verdicts(Exposure(note="a.pth says nothing"))[0].why == "a.pth says nothing"
    assert verdicts(Exposure())[0].why == "nothing is recorded"


def test_gaps_are_told_once() -> None:
    runs = ({"dataset": "A", "note": "no list", "perhaps": {"ixi": "named"}, "whole": {"oasis": "all"}},
            {"dataset": "B", "ancestors": "no list"})  # fmt: skip
    assert gaps_of(Exposure(runs)) == ["no list", "ixi may have been seen: named", "B names no release"]
    assert gaps_of(Exposure((_run(ixi=[]),))) == []
