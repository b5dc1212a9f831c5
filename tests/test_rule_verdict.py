"""What the rules of challenges say of weights, whatever is known of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints.readers.neurostorm_reader import NEUROSTORM
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.checkpoints.readers.simclr_reader import NEURO_SIMCLR
from bdfm_nnunet.exposure import PUBLIC_BDFM, Exposure, describe_run, gaps_of, verdict, verdicts
from bdfm_nnunet.exposure.known_cohorts import FREPA
from bdfm_nnunet.exposure.subject_exposure import exposure_of_weights
from bdfm_nnunet.patients import CaseList
from bdfm_nnunet.weight_rules import find_rules

NAMES = ("brats2026-met", "brats2026-ped", "brats2026-goat", "fomo26-methods", "fomo26-open")
SHORT = {"a": "allowed", "f": "forbidden", "u": "unknown"}


def _run(**releases: list[str]) -> dict[str, Any]:
    named = {name.replace("_", "-"): {"licence": "", "overlaps": overlaps} for name, overlaps in releases.items()}
    return {"dataset": "Dataset501_A", "releases": named, "train": {}}


def _unnamed(dataset: str, *cases: str, release: str = "folder-0a1b2c3d") -> dict[str, Any]:
    listed = CaseList(dataset, release, [{"case": case} for case in cases], content={"release": release})
    return describe_run(listed, train=cases, val=[])


BRATS2021 = _run(brats2021=["brats2023-gli"])
CASES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "nothing": ([], "uuuuu"),
    "no release": ([_run()], "uuuuu"),
    "free": ([_run(msd_hippocampus=[])], "aaffa"),
    "glioma": ([_run(brats2023_gli=["brats2021"])], "ffffa"),
    "a mixture": ([_run(msd_hippocampus=[], brats2024_ped=[])], "ffffa"),
    "shares scans": ([_run(ixi=[]), _run(upenn_gbm=["ixi", "brats2021"])], "ffffa"),
    "shares scans, new": ([_run(new_set=["brats2020"])], "ffffa"),
    "decathlon": ([_run(msd_brain_tumour=[])], "ffffa"),
    "own data of MET": ([_run(brats2026_met=["brats2025-met", "brats2023-met"])], "afffa"),
    "last year's MET": ([_run(brats2025_met=["brats2024-met"])], "ufffa"),
    "own data of PED": ([_run(brats2026_ped=["brats2024-ped"])], "faffa"),
    "GoAT": ([_run(brats2024_goat=["brats2023-gli"])], "ffafa"),
    "GoAT 2026": ([_run(brats2026_goat=["brats2023-gli"])], "ffafa"),
    "FOMO": ([_run(fomo300k=[])], "aafaa"),
    "FOMO, then its own cases": ([_run(fomo300k=[]), _run(fomo26_task2=[])], "aafaa"),
    "FOMO, then something": ([_run(fomo300k=[]), _run()], "uufuu"),
    "FOMO, then more": ([_run(fomo300k=[]), _run(ixi=[])], "aaffa"),
    "public BDFM": ([PUBLIC_BDFM], "ffffa"),
    "fine-tuned public BDFM": ([PUBLIC_BDFM, _run(brats2026_met=[])], "ffffa"),
    "3D-Neuro-SimCLR": ([NEURO_SIMCLR], "uuuuu"),
    "NeuroSTORM": ([NEUROSTORM, _run(ixi=[])], "uuffu"),
    "Frepa": ([FREPA], "uuuuu"),
    "ids not listed": ([_run(ixi=[]) | {"note": "the ids are not listed"}], "aaffa"),
    "unknown ancestors": ([_run(ixi=[]) | {"ancestors": "unknown weights"}], "uuffu"),
    "forbidden grandparent": ([BRATS2021, _run(ixi=[]), _run(brats2026_goat=[])], "ffffa"),
    "a start that nothing tells of": ([_run(ixi=[]) | {"weights": {"name": "a.pth"}}], "uuffu"),
    "a folder": ([_unnamed("Dataset501_Ward", "w1")], "uuuuu"),
    "a folder with telling ids": ([_unnamed("Dataset501_Ward", "BraTS2021_00012")], "ffffu"),
    "a folder with a telling name": ([_unnamed("Dataset501_BraTS2021", "p1")], "uuuuu"),
    "a folder called FOMO300K": ([_unnamed("Dataset501_FOMO300K", "p1")], "uuuuu"),
    "metastases of some year": ([_unnamed("Dataset501_X", "BraTS-MET-00001-000")], "ufffu"),
    "made-up images": ([_unnamed("Dataset501_Drawn", "m1", release="synthesis-0a1b2c3d")], "uuuuu"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_the_challenges_say(name: str) -> None:
    runs, expected = CASES[name]
    found = {each.rules.name: each.answer for each in verdicts(Exposure(tuple(runs)))}
    assert found == {each: SHORT[letter] for each, letter in zip(NAMES, expected, strict=True)}


def test_a_gap_never_hides_what_is_forbidden() -> None:
    found = verdict(Exposure((BRATS2021,), "nothing more is known"), find_rules("brats2026-met"))
    assert found.answer == "forbidden" and found.gaps == ("nothing more is known",)


def test_the_answer_names_the_data_sets_that_make_it_so() -> None:
    exposure = Exposure((_run(upenn_gbm=["brats2021"], ixi=[]), _run(ixi=[]) | {"dataset": "Dataset502_B"}))
    found = verdict(exposure, find_rules("brats2026-met"))
    assert [(each.source, each.answer, each.seen) for each in found.sources] == [
        ("upenn-gbm", "forbidden", "Dataset501_A"), ("ixi", "allowed", "Dataset501_A, Dataset502_B"),
    ]  # fmt: skip
    text = found.summary("a.pth")
    assert text.startswith(
        "a.pth under brats2026-met: forbidden\n  forbidden: upenn-gbm, in Dataset501_A (shares scans"
    )
    assert "wiki/639585, as of 2026-04-27" in text
    assert found.as_dict()["sources"][1]["source"] == "ixi"
    assert verdict(Exposure(note="a.pth says nothing"), find_rules("fomo26-open")).why == "a.pth says nothing"
    assert verdicts(Exposure())[0].why == "nothing is recorded"


def test_releases_of_single_cases_count_where_no_list_names_them() -> None:
    run = _run(ixi=[]) | {"train": {"case": ["a"], "release": ["brats2020"]}}
    assert verdict(Exposure((run,)), find_rules("brats2026-ped")).answer == "forbidden"


def test_files_without_a_record_are_unknown(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "plain.pth")
    torch.save({"network_weights": {"a": torch.ones(2)}, "trainer_name": "nnUNetTrainer"}, tmp_path / "stock.pth")
    damaged = {"network_weights": {"a": torch.ones(2)}, EXPOSURE: {"format": 7, "runs": [_run(ixi=[])]}}
    torch.save(damaged, tmp_path / "future.pth")
    for path in tmp_path.glob("*.pth"):
        assert {each.answer for each in verdicts(exposure_of_weights(path)[0])} == {"unknown"}, path


def test_gaps_are_told_once() -> None:
    runs = ({"dataset": "A", "note": "no list", "perhaps": {"ixi": "named"}, "whole": {"oasis": "all"}},
            {"dataset": "B", "ancestors": "no list"})  # fmt: skip
    assert gaps_of(Exposure(runs)) == ["no list", "ixi may have been seen: named", "B names no release"]
    assert gaps_of(Exposure(runs), harmless={"ixi"}) == ["no list", "B names no release"]
    assert gaps_of(Exposure((_run(ixi=[]),))) == []
