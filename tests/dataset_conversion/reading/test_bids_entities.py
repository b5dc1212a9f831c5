"""Masks and images by their entities, against a plain search."""

import random

import pytest

from bdfm_nnunet.dataset_conversion.reading.bids_entities import entities_of, match_masks, session_of


@pytest.mark.parametrize(
    ("mask", "cases", "expected"),
    [
        ("sub-01_space-orig_mask", ["sub-01"], "sub-01"),
        ("sub-01_run-01_mask", ["sub-01", "sub-01_run-1"], "sub-01_run-1"),
        ("sub-01_run-1_acq-x_mask", ["sub-01_run-1", "sub-01_acq-x"], None),
        ("sub-01_mask", ["sub-01_run-1"], None),
        ("sub-01_mask", ["sub-1"], None),
        ("sub-01_ses-1_mask", ["sub-01", "sub-01_ses-2"], None),
        ("sub-010_mask", ["sub-01"], None),
    ],
)
def test_which_image_a_mask_belongs_to(mask: str, cases: list[str], expected: str | None) -> None:
    assert match_masks([mask], cases)[0].get(mask) == expected


def test_every_mask_is_told_once_and_matched_as_a_plain_search_does() -> None:
    draw = random.Random(0)
    names = sorted({
        "_".join([f"sub-{draw.randint(1, 3)}", *(f"{key}-{draw.randint(1, 2)}" for key in ("acq", "run", "dir")
                                                 if draw.random() < 0.5)])
        for _ in range(40)
    })  # fmt: skip
    masks = [f"{name}_space-x_mask" for name in names]
    cases = draw.sample(names, 12)
    found, doubtful, alone = match_masks(masks, cases)
    assert sorted([*found, *doubtful, *alone]) == sorted(masks)
    for mask in masks:
        fits = [case for case in cases if set(case.split("_")) <= set(mask.split("_"))]
        best = [case for case in fits if all(set(other.split("_")) <= set(case.split("_")) for other in fits)]
        assert found.get(mask) == (best[0] if best else None)
        assert (mask in alone) == (not any(case.split("_")[0] == mask.split("_")[0] for case in cases))


def test_entities_are_those_of_the_file_and_not_of_its_folders() -> None:
    assert entities_of("sub-02/ses-3/sub-01_run-002_T1w") == {("sub", "01"), ("run", "2")}
    assert session_of("derivatives/sub-01_acq-x_ses-1_T1w") == "sub-01_ses-1"
