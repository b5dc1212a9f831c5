"""The leaderboards of BraTS 2026 by hand, and against the organisers' command where it is installed."""

import math
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from bdfm_nnunet.dataset_conversion import RELEASES
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation import evaluate_folders, score_case
from bdfm_nnunet.evaluation.challenge_rules import TASKS_BRATS2026
from bdfm_nnunet.evaluation.leaderboards import f1_from
from bdfm_nnunet.evaluation.organisers_command import COMMAND, differences, organisers_scores
from bdfm_nnunet.evaluation.panoptic import Matched
from tests.evaluation.shapes import pair
from tests.evaluation.test_lesionwise import FALSE, LESION, MISSED, NONE, ONE_OF_TWO, PERFECT, WITH_STRAY, volume

LARGE, SMALL = (slice(5, 9),) * 3, (slice(30, 32),) * 3  # 64 and 8 mm3
THREE = (slice(20, 23),) * 3  # 27 mm3


def _scores(reference: Any, prediction: Any, task: str, spacing: tuple[float, ...] = (1, 1, 1)) -> dict[str, float]:
    regions = {"metastasis": (3,)}
    found = score_case(
        reference, prediction, spacing=spacing, regions=regions, release="?", metrics="brats-2026", task=task
    )
    return found["metastasis"]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (
            PERFECT,
            {"large_dsc": 1, "large_nsd": 1, "large_hd95_mm": 0, "large_f1": 1, "detection_auc_f1": 1, "precision": 1},
        ),
        (MISSED, {"large_dsc": 0, "large_nsd": 0, "large_hd95_mm": 373, "large_f1": 0, "recall": 0}),
        # a false voxel counts as a lesion of its own: one match and one zero
        (
            WITH_STRAY,
            {"large_dsc": 0.5, "large_hd95_mm": 186.5, "large_f1": 2 / 3, "precision": 0.5},
        ),
        (ONE_OF_TWO, {"large_dsc": 0.5, "large_nsd": 0.5, "large_f1": 2 / 3, "detection_auc_f1": 2 / 3, "recall": 0.5}),
        (FALSE, {"large_dsc": math.nan, "large_f1": math.nan, "small_f1": math.nan, "detection_f1": 0, "precision": 0}),
        (NONE, {"large_dsc": math.nan, "detection_f1": math.nan, "detection_auc_f1": math.nan, "precision": math.nan}),
    ],
)
def test_metastases_by_hand(case: Any, expected: dict[str, float]) -> None:
    found = _scores(*case, "MET")
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)


def test_a_lesion_of_exactly_the_limit() -> None:
    """27 mm3 is large for the organisers' script; the wiki says "larger than"; the package's limit is 20."""
    case = volume(THREE), volume(THREE)
    assert _scores(*case, "MET")["large_dsc"] == 1 and math.isnan(_scores(*case, "MET")["small_f1"])
    assert _scores(*case, "MET-PACKAGE")["large_dsc"] == 1
    wiki = _scores(*case, "MET-WIKI")
    assert math.isnan(wiki["large_dsc"]) and wiki["small_f1"] == 1
    assert _scores(*case, "MET", spacing=(1, 1, 0.5))["small_f1"] == 1  # 13.5 mm3


def test_small_lesions_are_found_from_an_overlap() -> None:
    """Dice of the small one is 2 * 1 / (8 + 8) = 0.125: found from 0.1, missed from 0.2."""
    moved = (slice(31, 33),) * 3
    case = volume(LARGE, SMALL), volume(LARGE, moved)
    assert _scores(*case, "MET-PACKAGE")["small_f1"] == 1 and _scores(*case, "MET-PACKAGE")["detection_f1"] == 1
    found = _scores(*case, "MET")
    assert (found["small_tp"], found["small_fp"], found["small_fn"]) == (0, 0, 1)
    # matched, so no false lesion for the organisers; for F1 of detection neither of the two is found
    assert found["small_f1"] == 0 and found["detection_f1"] == 2 / 4 and found["large_dsc"] == 1


def test_area_under_f1_over_overlaps_by_hand() -> None:
    """Dice 0.5: F1 is 1 from 0.1 to 0.5 and 0 from 0.6 on; trapezes of 4 * 0.1 + 0.05 over 0.8."""
    case = volume((slice(5, 9), slice(5, 9), slice(5, 9))), volume((slice(7, 11), slice(5, 9), slice(5, 9)))
    found = _scores(*case, "MET")
    assert found["detection_f1"] == 1
    assert found["detection_auc_f1"] == pytest.approx(0.45 / 0.8)


def test_matching_is_done_anew_for_each_overlap() -> None:
    """The largest sum is 0.9 + 0.15, of which one is left from 0.2 on, where 0.5 + 0.5 finds both lesions."""
    overlaps = np.array([[0, 0, 0], [0, 0.9, 0.5], [0, 0.5, 0.15]])
    found = Matched([], np.array([8.0, 8.0]), 2, overlaps)
    assert [f1_from(found, least) for least in (0.1, 0.2, 0.6, 0.95)] == [1, 1, 0.5, 0]


def test_nsd_is_at_a_millimetre_for_goat_whatever_the_spacing() -> None:
    """Shifted by one voxel of 0.5 mm, all surfaces lie within 1 mm; by one of 2 mm, not."""
    case = volume(LESION), volume((slice(6, 16), slice(5, 15), slice(5, 15)))
    near, far = _scores(*case, "GOAT", spacing=(0.5, 2, 2)), _scores(*case, "GOAT", spacing=(2, 2, 2))
    assert near["global_nsd"] == near["sq_nsd"] == 1 > far["global_nsd"]
    assert _scores(*case, "GLI", spacing=(2, 2, 2))["global_nsd"] == 1  # at the smallest spacing
    assert "large_dsc" not in near


def test_tasks_state_their_sources_and_leaderboards() -> None:
    assert all(task.source for task in TASKS_BRATS2026.values())
    assert "275" in TASKS_BRATS2026["MET-WIKI"].source and TASKS_BRATS2026["MET-PACKAGE"].large_mm3 == 20
    assert TASKS_BRATS2026["MET"].large_mm3 == 27 and TASKS_BRATS2026["MET"].overlap == 0.2


def _folders(tmp_path: Path, seeds: range, cubes: bool = True) -> tuple[Path, Path]:
    for seed in seeds:
        reference, prediction, spacing = pair(seed)
        labels = (
            np.random.default_rng(seed).choice([1, 2, 3, 4], size=(2, 2, 2)).repeat(17, 0).repeat(17, 1).repeat(17, 2)
        )
        labels = labels[tuple(slice(0, size) for size in reference.shape)]
        affine = np.diag([*((1, 1, 1) if cubes else spacing), 1])
        for side, mask in (("labels", reference), ("predictions", prediction)):
            (tmp_path / side).mkdir(exist_ok=True)
            image = nib.Nifti1Image((mask * labels).astype(np.uint8), affine)
            image.to_filename(tmp_path / side / f"BraTS-MET-{seed:05d}-000.nii.gz")
    return tmp_path / "labels", tmp_path / "predictions"


def test_a_result_has_the_leaderboards_and_their_sources(tmp_path: Path) -> None:
    folders = _folders(tmp_path, range(2))
    regions = RELEASES["brats2026-met"].evaluated_regions
    result = evaluate_folders(
        *folders, regions=regions, release="brats2026-met", metrics="brats-2026", out=tmp_path / "o.json"
    )
    boards = result["parameters"]["leaderboards"]
    assert boards["detection"] == {"regions": ["metastasis"], "measures": ["detection_f1", "detection_auc_f1"]}
    mean = result["summary"]["metastasis"]["detection_f1"]["mean"]
    assert result["leaderboards"]["detection"]["detection_f1"] == mean
    assert "wiki/639602" in result["parameters"]["source"]
    assert set(result["leaderboards"]["segmentation"]) == {"large_dsc", "large_nsd"}


def test_a_case_without_a_prediction_counts_as_missed(tmp_path: Path) -> None:
    labels, predictions = _folders(tmp_path, range(2))
    (predictions / "BraTS-MET-00001-000.nii.gz").unlink()
    regions = RELEASES["brats2026-goat"].evaluated_regions | {"cavity": (4,)}
    result = evaluate_folders(
        labels, predictions, regions=regions, release="brats2026-goat", metrics="brats-2026", allow_missing=True
    )  # fmt: skip
    missed = result["cases"][1]["regions"]["whole_tumor"]
    assert (missed["global_dice"], missed["global_nsd"], missed["global_hd95_mm"]) == (0, 0, 373)
    assert "large_dsc" not in missed


# ---------------------------------------------------------------------------------------- the organisers' own command

INSTALLED = os.environ.get("BRATS_EVALUATE") or shutil.which(COMMAND)


@pytest.mark.skipif(INSTALLED is None, reason="brats-evaluate is not installed here")
def test_equals_the_organisers_command(tmp_path: Path) -> None:
    folders = _folders(tmp_path, range(4))
    pairs = [(path.name[:-7], path, folders[1] / path.name) for path in sorted(folders[0].iterdir())]
    for task in ("MET", "GOAT"):
        regions = {"enhancing_tumor": (3,), "tumor_core": (1, 3), "whole_tumor": (1, 2, 3), "resection_cavity": (4,)}
        result = evaluate_folders(*folders, regions=regions, release="?", metrics="brats-2026", task=task)
        theirs = organisers_scores(pairs, task, command=str(INSTALLED))
        assert sum(len(region) for case in theirs.values() for region in case.values()) >= 4 * 3 * 8
        assert differences(result["cases"], theirs) == []


def _stand_in(path: Path, lines: str) -> str:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_what_the_command_writes_is_read_and_compared(tmp_path: Path) -> None:
    folders = _folders(tmp_path, range(1))
    pairs = [("a", next(folders[0].iterdir()), next(folders[1].iterdir()))]
    values = '{\\"tp\\": 1, \\"rq\\": 0.5, \\"sq_hd95\\": Infinity, \\"sq_dsc\\": NaN}'
    subject = '\\"subject_name\\": \\"case-00000-000.nii.gz\\"'
    summary = f'{{\\"metrics\\": [{{{subject}, \\"et\\": {values}}}], \\"missings\\": []}}'
    command = _stand_in(tmp_path / "own", f'while [ $# -gt 1 ]; do shift; done\nprintf "%s" "{summary}" > "$1"')
    found = organisers_scores(pairs, "MET-WIKI", command=command)
    assert found["a"]["ET"]["sq_hd95_mm"] == 373 and found["a"]["ET"]["sq_dsc"] is None
    rows = [{"case": "a", "regions": {"enhancing_tumor": {"rq": 0.5, "sq_hd95_mm": 2.0, "sq_dsc": math.nan}}}]
    assert differences(rows, found) == ["a, enhancing_tumor, sq_hd95_mm: 2.0 here, 373.0 there"]


def test_a_command_that_is_not_there_or_fails(tmp_path: Path) -> None:
    folders = _folders(tmp_path, range(1))
    pairs = [("a", next(folders[0].iterdir()), next(folders[1].iterdir()))]
    with pytest.raises(InputError, match=r"no-such-command is not installed here: `pip install brats-evaluation`"):
        organisers_scores(pairs, "MET", command="no-such-command")
    with pytest.raises(InputError, match=r"has no configuration for task OTHER"):
        organisers_scores(pairs, "OTHER")
    failing = _stand_in(tmp_path / "failing", "echo broken >&2; exit 5")
    with pytest.raises(InputError, match=r"ended with exit code 5 \(broken\): run it by hand"):
        organisers_scores(pairs, "MET", command=failing)
    silent = _stand_in(
        tmp_path / "silent",
        'while [ $# -gt 1 ]; do shift; done\nprintf "%s" "{\\"metrics\\": [], \\"missings\\": []}" > "$1"',
    )
    with pytest.raises(InputError, match=r"gave no scores for a: run it by hand"):
        organisers_scores(pairs, "MET", command=silent)
